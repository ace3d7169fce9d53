"""Store texts in two arrays: all of them as UTF-8, end to end, and where each ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def encode_texts(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all texts as UTF-8, end to end, uint8; and where each ends, int64 (n,)."""
    import numpy as np

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends


def decode_texts(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[str]:
    """Return the texts that `encode_texts` encoded."""
    text, stops = data.tobytes(), ends.tolist()
    return [
        text[start:stop].decode("utf-8", "surrogatepass")
        for start, stop in zip([0, *stops], stops, strict=False)
    ]

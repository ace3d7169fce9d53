"""Progress on stderr for whatever lasts over a second."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(description: str, unit: str, total: int | None = None, **kwargs: Any) -> tqdm[Any]:
    """A tqdm bar that is silent where stderr is no terminal or the log level hides info lines."""
    from tqdm import tqdm

    shown = logging.getLogger(__package__).isEnabledFor(logging.INFO)
    return tqdm(
        desc=description,
        unit=unit,
        total=total,
        unit_scale=True,
        leave=False,
        disable=None if shown else True,
        **kwargs,
    )

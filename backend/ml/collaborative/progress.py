"""Show progress on stderr."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(description: str, unit: str, total: int | None = None, **kwargs: Any) -> tqdm[Any]:
    """Return a tqdm bar; it is silent if stderr is not a terminal or info lines are not logged."""
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

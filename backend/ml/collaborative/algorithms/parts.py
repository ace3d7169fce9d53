"""What a trained SVD has besides Surprise's arrays: one value that travels with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD


@dataclass(frozen=True, eq=False)
class Parts:
    """Arrays that some trainings give beside bu, bi, pu and qi."""

    fold_in_root: NDArray[np.float64] | None = None
    """(1 + factors, 1 + factors), see `fold_in.make_root`; None: learned from the users."""
    implicit: NDArray[np.float64] | None = None
    """(films, 1 + factors): what a film adds to bias and vector of each user who rated it."""


def attach(svd: SVD, parts: Parts) -> SVD:
    """Set the parts of `svd`, its attribute `parts`, and return it."""
    svd.parts = parts
    return svd


def parts_of(svd: SVD) -> Parts:
    """Return the parts of `svd`; empty ones for a plain SVD."""
    return getattr(svd, "parts", None) or Parts()

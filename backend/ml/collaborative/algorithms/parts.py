"""What a trained SVD has besides Surprise's arrays: one value that travels with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD

    from ..trainset import ArrayTrainset
    from .ranking_scores import Ranking


@dataclass(frozen=True, eq=False)
class Parts:
    """Arrays that some trainings give beside bu, bi, pu and qi."""

    fold_in_root: NDArray[np.float64] | None = None
    """(1 + factors, 1 + factors), see `fold_in.make_root`; None: learned from the users."""
    implicit: NDArray[np.float64] | None = None
    """(films, 1 + factors): what a film adds to bias and vector of each user who rated it."""
    ranking: Ranking | None = None
    """What lists are ordered by, see `ranking_scores`; None: made from the ratings at need."""


def attach(svd: SVD, parts: Parts) -> SVD:
    """Set the parts of `svd`, its attribute `parts`, and return it."""
    svd.parts = parts
    return svd


def parts_of(svd: SVD) -> Parts:
    """Return the parts of `svd`; empty ones for a plain SVD."""
    return getattr(svd, "parts", None) or Parts()


def ranking_of(svd: SVD, trainset: ArrayTrainset) -> Ranking | None:
    """Return the ranking that travels with `svd`, else train one; None without ratings.

    Raises:
        InputError: see `ArrayTrainset.check`.
        GateError: training diverged.
    """
    found = parts_of(svd).ranking
    if found is None and trainset.n_ratings:
        from .ranking import fit_ranking

        found = fit_ranking(trainset, seed=0)
    return found

"""Measures of predictions and of rankings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 10
"""Films recommended to a user."""
LIKED = 4.0
"""Stars from which on a held-out rating counts as a film worth recommending."""


def rmse(errors: NDArray[np.float64]) -> float:
    """Return the root of the mean squared error, in stars (Herlocker et al. 2004, section 4.1).

    NaN of no errors.
    """
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else math.nan


def mae(errors: NDArray[np.float64]) -> float:
    """Return the mean absolute error, in stars (Herlocker et al. 2004, section 4.1)."""
    return float(np.mean(np.abs(errors)))


def ndcg(hits: NDArray[np.bool_], liked: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the NDCG of each user's list (Järvelin and Kekäläinen 2002).

    A liked film at place r counts 1 / log2(r + 1); the sum is divided by that of the best list.

    Args:
        hits: whether the film at each place is liked, best place first, (users, places).
        liked: how many films each user likes, in the list or not, (users,), at least one.
    """
    discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    best = np.cumsum(discounts)[np.minimum(liked, hits.shape[1]) - 1]
    return np.asarray(hits @ discounts / best)


def precision(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each user's list that is liked (Herlocker et al. 2004, section 4.2)."""
    return np.asarray(hits.mean(axis=1))


def recall(hits: NDArray[np.bool_], liked: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the share of the films each user likes that is in the list (Herlocker et al. 2004)."""
    return np.asarray(hits.sum(axis=1) / liked)


def hit(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return 1 where a user's list has a liked film, else 0; their mean is the hit rate.

    Deshpande and Karypis 2004, where a user has one held-out film; here there may be several.
    """
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def coverage(top: NDArray[np.integer], films: int) -> float:
    """Return the share of the catalog that is recommended (Herlocker et al. 2004, section 4.3)."""
    return len(np.unique(top[top >= 0])) / films


def popularity(top: NDArray[np.integer], ratings_per_film: NDArray[np.integer]) -> float:
    """Return the mean number of training ratings of a recommended film; lower is less of the same.

    Average recommendation popularity (Yin et al. 2012), here over all places alike.
    """
    return float(np.mean(ratings_per_film[top[top >= 0]]))

"""The films with the highest scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
"""Films of which the best is looked at first."""


def top_films(
    scores: NDArray[np.float64], seen: NDArray[np.bool_] | None, places: int
) -> NDArray[np.intp]:
    """Return the unseen films with the highest scores, best first; of equal ones the lower id.

    Args:
        scores: (users, films); minus infinity is never recommended.
        seen: what may not be recommended, (users, films).
        places: length of a list.

    Returns:
        Inner film ids, (users, places); -1 where a user has seen all others.
    """
    unseen = scores if seen is None else np.where(seen, -np.inf, scores)
    users, films = unseen.shape
    size = min(places, films)
    # No film below the size-th highest of some films' scores is among the best: of those that are
    # highest in their block of films few remain to be sorted.
    blocks = films // BLOCK
    some = unseen
    if blocks > size:
        some = unseen[:, : blocks * BLOCK].reshape(users, blocks, BLOCK).max(axis=2)
    bound = np.partition(some, some.shape[1] - size, axis=1)[:, some.shape[1] - size, None]
    rows, chosen = np.nonzero(unseen >= bound)
    values = unseen[rows, chosen]
    order = np.lexsort((chosen, -values, rows))
    starts = np.searchsorted(rows, np.arange(users))
    best = order[starts[:, None] + np.arange(size)]
    top = np.full((users, places), -1, dtype=np.intp)
    top[:, :size] = np.where(np.isfinite(values[best]), chosen[best], -1)
    return top

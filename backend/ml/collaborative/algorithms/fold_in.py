"""A user's bias and vector from a few ratings, against the films of a trained model.

The method is ridge regression on the film factors with a prior that the trained users tell:
empirical Bayes (Efron and Morris 1973). Users are taken to be normal around zero, which is the user
the model does not know, with the second moments of those it was trained on; ratings around their
predictions with the variance they have in the training. So how much to regularise, and in which
directions, follows from the model itself, and nothing is tuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

STRIP = 200_000
"""Multiplications up to which OpenBLAS uses one thread (its limit is 2**18)."""
MAX_RATINGS = 1_000_000
"""Ratings, at most, that the variance around predictions is computed from."""
PAIRS_AT_ONCE = 1 << 14
"""Of vectors that are multiplied: 26 MiB where they have 100 numbers."""


def learn_root(arrays: Mapping[str, NDArray[Any]], global_mean: float) -> NDArray[np.float64]:
    """Learn a root of the prior of users: what a folded-in user's bias and vector are made of.

    Args:
        arrays: bu, bi, pu, qi, the ratings by user, and perhaps implicit, see
            `arrays.model_arrays`.
        global_mean: of the training.

    Returns:
        root, (1 + factors, k): root @ root.T is the second moment matrix of the trained users'
        (bias, vector), over the variance of ratings around their predictions.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    bu, pu = arrays["bu"], arrays["pu"]
    users, ratings = len(bu), len(arrays["rated_movies"])
    rows = np.arange(0, ratings, -(-ratings // MAX_RATINGS))
    user = np.searchsorted(arrays["rated_starts"], rows, side="right") - 1
    film, stars = arrays["rated_movies"][rows], arrays["rated_stars"][rows]
    errors = stars - global_mean - bu[user] - arrays["bi"][film]
    errors -= multiply_pairs(pu, user, arrays["qi"], film)
    noise = float(np.mean(errors**2))
    with threadpool_limits(1):  # the number of threads moves sums in the last digits
        own = np.column_stack([bu, pu])
        if "implicit" in arrays:
            own -= _sum_by_user(arrays)
        own /= max(users * noise, np.finfo(np.float64).tiny) ** 0.5
        if users <= own.shape[1]:
            return np.ascontiguousarray(own.T)
        return make_root(own.T @ own)


def multiply_pairs(
    pu: NDArray[Any], users: NDArray[np.integer], qi: NDArray[Any], items: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the inner product of each pair of rows of `pu` and `qi`, (n,), in bounded memory."""
    import numpy as np

    products = np.empty(len(users))
    for start in range(0, len(users), PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        products[pairs] = np.einsum("nf,nf->n", pu[users[pairs]], qi[items[pairs]])
    return products


def make_root(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a root of second moments, (k, k): root @ root.T is `moments`."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the number of threads moves sums in the last digits
        values, vectors = np.linalg.eigh(moments)
    root: NDArray[np.float64] = vectors * np.sqrt(values.clip(0))
    return root


def _sum_by_user(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the part of each user that is implied by which films they rated, (users, 1 + f)."""
    import numpy as np

    starts, films, implicit = arrays["rated_starts"], arrays["rated_movies"], arrays["implicit"]
    sums = np.empty((len(starts) - 1, implicit.shape[1]))
    for user, (start, end) in enumerate(
        zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ):
        sums[user] = implied(implicit, films[start:end])
    return sums


def implied(implicit: NDArray[np.float64], films: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the part of (bias, vector) that rated films imply (SVD++, Koren 2008)."""
    total: NDArray[np.float64] = implicit[films].sum(axis=0)
    total /= max(len(films), 1) ** 0.5
    return total


def solve(
    root: NDArray[np.float64], factors: NDArray[np.float64], residuals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the (bias, vector) that explains residuals best, under the prior: (1 + factors,).

    With z = [1, factors] @ root it is root @ w, where w minimises |residuals - z w|^2 + |w|^2.

    Args:
        root: see `learn_root`.
        factors: of the rated films, (n, factors).
        residuals: rating minus all else that is known of it, (n,).
    """
    import numpy as np

    z = root[0] + _product(factors, root[1:])
    if len(z) <= root.shape[1]:
        w = z.T @ np.linalg.solve(_product(z, z.T) + np.eye(len(z)), residuals)
    else:
        w = np.linalg.solve(z.T @ z + np.eye(root.shape[1]), z.T @ residuals)
    found: NDArray[np.float64] = root @ w
    return found


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply a by b in strips so thin that BLAS uses one thread, which is quicker here."""
    import numpy as np

    step = max(1, STRIP // max(1, b.size))
    strips = [a[start : start + step] @ b for start in range(0, len(a), step)]
    return np.concatenate(strips)

"""Whether one model's errors are larger than another's beyond chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

STANDARD_ERRORS = 2.0
"""How many of them a difference must be away from zero to be called more than chance."""
MIN_USERS = 20
"""Below so many users, a standard error over them is itself mostly chance."""


class Difference(NamedTuple):
    """By how much one RMSE is higher than another on the same ratings."""

    stars: float
    """Of the first model minus that of the second; positive where the first is worse."""
    standard_error: float
    """Of `stars`, over the draw of users; infinite where fewer than `MIN_USERS` rated."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the first model is worse by more than `STANDARD_ERRORS`."""
        return self.stars > STANDARD_ERRORS * self.standard_error

    def is_worse_by(self, stars: float) -> bool:
        """Return whether the first model is worse beyond chance, and by more than `stars`."""
        return self.beyond_chance and self.stars > stars


def compare_errors(
    errors_a: NDArray[np.float64], errors_b: NDArray[np.float64], users: ArrayLike
) -> Difference:
    """Return how much higher the RMSE of `errors_a` is than that of `errors_b`.

    Paired, as both models predict the same ratings; and by user, as the errors of one user are
    alike: the standard error is that of cluster-robust estimation (Liang and Zeger 1986), of the
    difference of the two roots linearised (the delta method).

    Args:
        errors_a: prediction minus rating, in stars, (n,), n at least 1.
        errors_b: the other model's, of the same ratings, (n,).
        users: whose rating each is, any kind of id, (n,).
    """
    squares = np.square(errors_a), np.square(errors_b)
    roots = [math.sqrt(square.mean()) for square in squares]
    # What each rating moves the two roots by; a root of zero does not move.
    parts = [
        (square - root**2) / (2 * root) if root else np.zeros(len(square))
        for square, root in zip(squares, roots, strict=True)
    ]
    codes = np.unique(np.asarray(users), return_inverse=True)[1]
    sums = np.bincount(codes, parts[0] - parts[1])
    error = math.inf
    if len(sums) >= MIN_USERS:
        spread = float(np.sum(sums**2)) * len(sums) / (len(sums) - 1)
        error = math.sqrt(spread) / len(codes)
    return Difference(roots[0] - roots[1], error)

"""Whether one model is worse than another beyond chance."""

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
    """By how much one model is worse than another on the same ratings or users."""

    value: float
    """Positive where the first model is worse."""
    standard_error: float
    """Of `value`, over the draw of users; infinite where fewer than `MIN_USERS` rated."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the first model is worse by more than `STANDARD_ERRORS`."""
        return self.value > STANDARD_ERRORS * self.standard_error

    def is_worse_by(self, bound: float) -> bool:
        """Return whether the first model is worse beyond chance, and by more than `bound`."""
        return self.beyond_chance and self.value > bound


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


def compare_gains(gains_a: NDArray[np.float64], gains_b: NDArray[np.float64]) -> Difference:
    """Return how much lower the mean of `gains_a` is than that of `gains_b`, paired by user.

    Args:
        gains_a: how good each user's list is, (n,), n at least 1.
        gains_b: the other model's for the same users, (n,).
    """
    lower = gains_b - gains_a
    error = math.inf
    if len(lower) >= MIN_USERS:
        error = float(lower.std(ddof=1)) / math.sqrt(len(lower))
    return Difference(float(lower.mean()), error)

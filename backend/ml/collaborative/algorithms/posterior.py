"""The mean of a Bayesian training's samples, in memory that does not grow with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPARE = 60
"""Columns that a cut leaves beyond those of the result."""
COLUMNS_AT_ONCE = 1 << 14
"""Sums of as many products are made in single precision."""
SMALLEST = 1e-6
"""Squared singular values below this share of the largest are taken for rounding."""


class Sample(NamedTuple):
    """What one sweep says: rating - mean is predicted as constant + users[u] . items[i].

    Save that the first column is the bias, which is added, not multiplied.
    """

    constant: float
    users: NDArray[np.float32]
    """(users, 1 + rank)"""
    items: NDArray[np.float32]
    """(items, 1 + rank)"""
    implied: NDArray[np.float32]
    """What a film adds to the users who rated it, over the root of their number of ratings,
    (items, 1 + rank)."""


class PosteriorMean:
    """The mean of samples: biases, and a sum of products that is cut as samples come.

    The products are held as users' and items' vectors side by side. When they are 2 (factors +
    SPARE) columns wide they are cut to the largest singular values of their product, half as many
    (as by Baker, Gallivan and Van Dooren 2012); that is exact up to rounding where its rank is not
    above that. Memory holds so many numbers for each user, and twice as many for each item.

    Args:
        user_counts: ratings of each user, the weights of means over users, (users,).
        item_counts: ratings of each item, (items,).
        factors: of the result; those beyond the rank of the samples are zero.
    """

    def __init__(
        self,
        user_counts: NDArray[np.integer],
        item_counts: NDArray[np.integer],
        factors: int,
    ) -> None:
        self.weights = [(counts / counts.sum()) for counts in (user_counts, item_counts)]
        sizes = len(user_counts), len(item_counts), len(item_counts)
        self.factors, self.kept = factors, factors + SPARE
        self.width = self.samples = 0
        self.stacks = [np.empty((2 * self.kept, size), dtype=np.float32) for size in sizes]
        self.biases = [np.zeros(size) for size in sizes]
        self.constant = 0.0

    def add(self, sample: Sample) -> None:
        """Add a sample.

        Means over users and items are moved into the biases first, so that a user without factors
        is predicted as users are on average.
        """
        vectors = [array[:, 1:] for array in sample[1:]]
        means = [
            weights.astype(np.float32) @ array
            for weights, array in zip(self.weights, vectors, strict=False)
        ]
        users, items, implied = vectors[0] - means[0], vectors[1] - means[1], vectors[2]
        self.biases[0] += sample.users[:, 0] + users @ means[1]
        self.biases[1] += sample.items[:, 0] + items @ means[0]
        self.biases[2] += sample.implied[:, 0] + implied @ means[1]
        self.constant += sample.constant + float(means[0] @ means[1])
        self.samples += 1
        self._append([users.T, items.T, implied.T])

    def add_mean(self, other: PosteriorMean) -> None:
        """Add all samples of another mean; no single ones can be added after that."""
        self.pack()
        other.pack()
        self.constant += other.constant
        self.samples += other.samples
        self.width += other.width
        for mine, theirs in zip(self.biases, other.biases, strict=True):
            mine += theirs
        both = zip(self.stacks, other.stacks, strict=True)
        self.stacks = [np.concatenate(stacks) for stacks in both]

    def pack(self) -> None:
        """Give back the memory that further samples would take; none can be added after that."""
        self._cut(self.kept)
        self.stacks = [stack[: self.width].copy() for stack in self.stacks]

    def _append(self, arrays: list[NDArray[np.float32]]) -> None:
        """Append columns to the products, as many to each; a cut makes room for them."""
        added = len(arrays[0])
        if self.width + added > len(self.stacks[0]):
            self._cut(self.kept)
        for stack, array in zip(self.stacks, arrays, strict=True):
            stack[self.width : self.width + added] = array
        self.width += added

    def _cut(self, kept: int) -> None:
        """Cut the products to their largest singular values; items' columns become orthonormal."""
        users, items, implied = (stack[: self.width] for stack in self.stacks)
        values, vectors = np.linalg.eigh(_gram(items))
        above = values > SMALLEST * values.max(initial=0)
        vectors, roots = vectors[:, above], np.sqrt(values[above])
        inner = vectors * roots
        _, turn = np.linalg.eigh(inner.T @ _gram(users) @ inner)
        turn = turn[:, ::-1][:, :kept]
        to_users = (inner @ turn).T.astype(np.float32)
        to_items = (vectors / roots @ turn).T.astype(np.float32)
        self.width = len(to_users)
        for stack, change in ((users, to_users), (items, to_items), (implied, to_users)):
            for start in range(0, stack.shape[1], COLUMNS_AT_ONCE):
                part = stack[:, start : start + COLUMNS_AT_ONCE]
                part[: self.width] = change @ part

    def compile(self) -> tuple[NDArray[np.float64], ...]:
        """Return bu, bi, pu and qi of an SVD that predicts as the samples do on average.

        And what each film adds to (bias, vector) of the users who rated it, (items, 1 + factors):
        it is in bu and pu already, and folding in a new user takes it from here.
        """
        self._cut(self.factors)
        bu, bi, implied_bias = (bias / self.samples for bias in self.biases)
        typical = float(self.weights[0] @ bu)
        bu -= typical
        bi += typical + self.constant / self.samples
        users, items, implied = (stack[: self.width].T.astype(np.float64) for stack in self.stacks)
        lengths = np.sqrt(np.einsum("uf,uf->f", users, users))  # the products' singular values
        with np.errstate(divide="ignore"):
            scale = np.where(lengths > 1e-5 * lengths.max(initial=0), lengths**-0.5, 0)
        pu, qi, added = (np.zeros((len(bias), self.factors)) for bias in self.biases)
        pu[:, : self.width] = users * (scale / self.samples**0.5)
        qi[:, : self.width] = items * (scale * lengths / self.samples**0.5)
        added[:, : self.width] = implied * (scale / self.samples**0.5)
        return bu, bi, pu, qi, np.column_stack([implied_bias, added])


def _gram(stack: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the products of all pairs of rows, (rows, rows)."""
    total = np.zeros((len(stack), len(stack)))
    for start in range(0, stack.shape[1], COLUMNS_AT_ONCE):
        part = stack[:, start : start + COLUMNS_AT_ONCE]
        total += part @ part.T
    return total

"""The mean of a Bayesian training's samples, compiled into the arrays of one SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER_ITERATIONS, OVERSAMPLING = 4, 20


class Samples(NamedTuple):
    """What the chains drew: rating - mean is predicted as constant + users[:, u] . items[:, i].

    The first two factors of a sample are the user's bias times one, and one times the item's.
    """

    constants: NDArray[np.float64]
    """(samples,)"""
    users: NDArray[np.float32]
    """(samples, 2 + rank, users)"""
    items: NDArray[np.float32]
    """(samples, 2 + rank, items)"""
    rated: NDArray[np.float32]
    """What a film adds to the users who rated it, over the root of their number of ratings,
    (samples, 2 + rank, items)."""


def compile_samples(
    samples: Samples,
    counts: tuple[NDArray[np.integer], NDArray[np.integer]],
    factors: int,
    seed: np.random.SeedSequence,
) -> tuple[NDArray[np.float64], ...]:
    """Compile the mean of the samples' predictions into bu, bi, pu and qi of an SVD.

    And what each film adds to (bias, vector) of the users who rated it, `implicit` (items, 1 +
    factors): it is in bu and pu already, and folding in a new user takes it from here.

    The mean of products is a product of stacked factors. Their weighted means are moved into the
    biases first, so that a user without factors is predicted as users are on average; then the
    product is cut to its largest singular values (randomized subspace iteration, Halko, Martinsson
    and Tropp 2011), never formed whole. Exact up to rounding where `factors` is not below the
    product's rank.

    Args:
        samples: of all chains.
        counts: ratings of each user and of each item, the weights of the means.
        factors: columns of pu and qi; those beyond the product's rank are zero.
        seed: of the subspace iteration's start.
    """
    biases, stacks, centres = [], [], []
    for side, arrays, count in ((0, samples.users, counts[0]), (1, samples.items, counts[1])):
        biases.append(arrays[:, side].mean(axis=0, dtype=np.float64))
        stack = arrays[:, 2:].reshape(-1, arrays.shape[2])  # a copy: the biases are cut out
        stack *= np.float32(len(arrays) ** -0.5)
        centre = (stack @ (count / count.sum()).astype(np.float32))[:, None]
        stack -= centre
        stacks.append(stack.T)
        centres.append(centre[:, 0].astype(np.float64))
    bu = biases[0] + stacks[0] @ centres[1]
    bi = biases[1] + stacks[1] @ centres[0]
    typical = np.average(bu, weights=counts[0])
    bu -= typical
    bi += typical + samples.constants.mean() + centres[0] @ centres[1]
    pu, qi = _cut(stacks[0], stacks[1], factors, seed)
    rated = samples.rated[:, 2:].reshape(-1, samples.rated.shape[2])
    rated *= np.float32(len(samples.rated) ** -0.5)
    implicit = np.zeros((len(bi), 1 + factors))
    implicit[:, 0] = samples.rated[:, 0].mean(axis=0, dtype=np.float64) + rated.T @ centres[1]
    # The columns of qi are orthogonal: over their squares, the product with them is the vector.
    lengths = np.einsum("if,if->f", qi, qi)
    lengths[lengths <= 1e-5 * lengths.max()] = np.inf  # rounding of the samples, no directions
    to_vector = (qi / lengths).T.astype(np.float32) @ stacks[1]
    implicit[:, 1:] = (to_vector @ rated).T
    return bu, bi, pu, qi, implicit


def _cut(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    factors: int,
    seed: np.random.SeedSequence,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two narrow matrices whose product is nearest to left @ right.T."""
    width = min(factors + OVERSAMPLING, len(left), len(right))
    start = np.random.default_rng(seed).standard_normal((len(right), width))
    basis = right.T @ start.astype(np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = left.T @ np.linalg.qr(left @ basis)[0]
        basis = right.T @ np.linalg.qr(right @ basis)[0]
    users = np.linalg.qr(left @ basis)[0]
    u, values, vt = np.linalg.svd(
        (right @ (left.T @ users)).astype(np.float64).T, full_matrices=False
    )
    size = min(factors, width)
    pu, qi = np.zeros((len(left), factors)), np.zeros((len(right), factors))
    root = np.sqrt(values[:size])
    pu[:, :size] = users @ u[:, :size] * root
    qi[:, :size] = vt[:size].T * root
    return pu, qi

"""Training of the ranking: which films a user comes to see, from the ratings the stars are from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from ..errors import GateError
from ..progress import progress_bar
from .loops.als import compiled_solve
from .ranking_scores import LIKED, LIKED_TARGET, REG, SEEN_TARGET, Ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset, Rows

FACTORS, ALTERNATIONS = 64, 8
SPREAD = 0.1
"""Of the vectors' lengths at the start."""
DENSITY_WEIGHT, LOWEST_WEIGHT = 6.0, 0.01
"""The weight of what was not rated is so many times the density of the table, at least and 1 at
most: with a fixed weight sparse tables are ranked far worse."""
HEAD_FILMS = 2000
HEAD_REG = 300.0
HALF_STARS_FROM = 0.1
"""Share of ratings with half a star from which on the scale counts as one of half stars."""
INT16_MAX = 32767
USERS_AT_ONCE = 2048
"""In a block of users by head films, 16 MiB."""
RATINGS_AT_ONCE = 1 << 20
"""Of which the cold list is summed."""
LEAF = 128
"""Rows up to which a matrix is inverted in one piece."""
WORK = 500_000
"""Ratings, or so, that a thread takes at once."""
ROW_WORK = 50
"""A row's solve takes as long as adding so many ratings to its matrix does."""


def fit_ranking(trainset: ArrayTrainset, seed: int) -> Ranking:
    """Train the ranking over all films of a trainset; see `ranking_scores` for the model.

    Graded iALS minimises, over the vectors p of users and q of films, with targets t of ratings,
    the sum over ratings of (t - p.q)^2, plus weight times the sum over all users and films of
    (p.q)^2, plus REG times the squared lengths, each as often as its row has ratings and weighted
    others (Rendle et al. 2021). EASE's weights are -P / diag(P) by columns, with a zero diagonal,
    P being the inverse of Y'Y + 300 I and Y the targets of the most rated films (Steck 2019).

    Besides the trainset and its rows by user and by item it takes 256 bytes for each user and
    film, 4 for each rating while the cold list is made, and up to 130 MiB for EASE.

    Args:
        trainset: at least one rating.
        seed: of the vectors at the start; the same seed gives the same ranking, on any number of
            cores.

    Raises:
        InputError: see `ArrayTrainset.check`.
        GateError: the vectors are not finite.
    """
    trainset.check()
    weight = unseen_weight(trainset.n_ratings, trainset.n_users, trainset.n_items)
    threads = joblib.cpu_count()
    with (
        threadpool_limits(1),  # BLAS's threads would move sums in the last digits
        progress_bar("ranking", " ratings", 2 * ALTERNATIONS * trainset.n_ratings) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        try:
            head = most_rated(np.diff(trainset.by_item.starts))
            ease = pool.submit(_fit_ease, trainset, head)
            users, q = _fit_ials(trainset, weight, seed, pool, bar.update)
            weights, step = ease.result()
        except BaseException:  # Ctrl-C above all: what is queued is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        mean = users.mean(axis=0, dtype=np.float64)
        ratings = trainset.by_user.ratings
        halves = np.count_nonzero(ratings % 1) / len(ratings)
        return make_ranking(q, mean, head, (weights, step), _cold_list(trainset), weight, halves)


def unseen_weight(ratings: int, users: int, films: int) -> float:
    """Return the weight of a film that a user did not rate, by the size of the table."""
    return float(np.clip(DENSITY_WEIGHT * ratings / (users * films), LOWEST_WEIGHT, 1))


def make_ranking(
    q: NDArray[np.float32],
    mean: NDArray[np.float64],
    head: NDArray[np.int32],
    ease: tuple[NDArray[np.int16], float],
    cold: NDArray[np.float32],
    weight: float,
    halves: float,
) -> Ranking:
    """Return a ranking of what was trained, once it is finite.

    Args:
        q: see `Ranking`, of all films of the training; so are the others of its names.
        mean: see `Ranking.mean_vector`.
        head: see `Ranking`.
        ease: see `ease_weights`.
        cold: see `Ranking`.
        weight: see `unseen_weight`.
        halves: share of the ratings that have half a star.

    Raises:
        GateError: the vectors are not finite.
    """
    weights, step = ease
    if not (np.isfinite(q).all() and np.isfinite(mean).all() and np.isfinite(step)):
        raise GateError("training the ranking diverged. Nothing was published; check the ratings")
    exact = q.astype(np.float64)
    return Ranking(
        q=q,
        gram=exact.T @ exact,
        mean_vector=mean.astype(np.float32),
        head=head,
        weights=weights,
        weight_step=step,
        cold=cold,
        unseen_weight=weight,
        trained_films=len(q),
        threshold=LIKED - (0.25 if halves > HALF_STARS_FROM else 0.5),
    )


def _fit_ials(
    trainset: ArrayTrainset,
    weight: float,
    seed: int,
    pool: ThreadPoolExecutor,
    update: Callable[[int], Any],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the vectors of users and films, (users, FACTORS) and (films, FACTORS)."""
    users = np.empty((trainset.n_users, FACTORS), dtype=np.float32)
    films = first_vectors(trainset.n_items, seed)
    solve = compiled_solve(trainset.by_user.ratings.dtype.name)
    targets = np.array([SEEN_TARGET, LIKED_TARGET], dtype=np.float32)

    def solve_side(rows: Rows, mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
        gram = np.float32(weight) * (theirs.T @ theirs)
        reg_all = REG * weight * len(theirs)

        def solve_part(part: tuple[int, int]) -> None:
            a, u, eight = (np.empty((n, FACTORS), np.float32) for n in (FACTORS, FACTORS, 8))
            ratings = solve(
                *part, *rows, LIKED, targets, gram, REG, reg_all, theirs, mine, a, u, eight
            )
            update(int(ratings))

        list(pool.map(solve_part, _pieces(rows)))

    for _ in range(ALTERNATIONS):
        solve_side(trainset.by_user, users, films)
        solve_side(trainset.by_item, films, users)
    return users, films


def first_vectors(films: int, seed: int) -> NDArray[np.float32]:
    """Return the films' vectors that training begins with, (films, FACTORS)."""
    drawn = np.random.default_rng(seed).normal(0, SPREAD / FACTORS**0.5, (films, FACTORS))
    return drawn.astype(np.float32)


def _pieces(rows: Rows) -> Iterator[tuple[int, int]]:
    """Return first rows and the rows after the last, of as much work each."""
    count = len(rows.starts) - 1
    work = rows.starts + ROW_WORK * np.arange(count + 1)
    pieces = max(8, int(work[-1]) // WORK)
    cuts = np.searchsorted(work, work[-1] * np.arange(pieces + 1) // pieces)
    cuts[-1] = count
    for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        if last > first:
            yield first, last


def most_rated(counts: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the HEAD_FILMS most rated films, of equals the lower inner ids; ascending, (k,).

    Args:
        counts: ratings of each film, (films,).
    """
    return np.sort(np.argsort(-counts, kind="stable")[:HEAD_FILMS]).astype(np.int32)


def _fit_ease(trainset: ArrayTrainset, head: NDArray[np.int32]) -> tuple[NDArray[np.int16], float]:
    """Return EASE's weights of the head films in steps, (k, k), and the step."""
    size = len(head)
    places = np.full(trainset.n_items, -1, dtype=np.intp)
    places[head] = np.arange(size)
    starts, films, ratings = trainset.by_user
    together = np.zeros((size, size))
    for first in range(0, trainset.n_users, USERS_AT_ONCE):
        bounds = starts[first : first + USERS_AT_ONCE + 1]
        row = slice(bounds[0], bounds[-1])
        users, columns = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), places[films[row]]
        targets = np.where(ratings[row] >= LIKED, LIKED_TARGET, SEEN_TARGET)
        known = columns >= 0
        block = np.zeros((len(bounds) - 1, size), dtype=np.float32)
        block[users[known], columns[known]] = targets[known]
        together += block.T @ block  # sums of a few thousand sixteenths: exact in float32
    return ease_weights(together)


def ease_weights(together: NDArray[np.float64]) -> tuple[NDArray[np.int16], float]:
    """Return EASE's weights in steps, (k, k), and the step.

    Args:
        together: Y'Y of the targets Y, (users, k); it is changed.
    """
    weights = together
    weights.flat[:: len(weights) + 1] += HEAD_REG
    invert(weights)
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0)
    step = max(float(weights.max()), -float(weights.min())) / INT16_MAX or 1.0
    weights /= step
    return np.rint(weights, out=weights).astype(np.int16), step


def invert(matrix: NDArray[np.float64]) -> None:
    """Put the inverse of a symmetric positive definite matrix in its place, by halves.

    With A, B, D the blocks, W = A^-1 B and S = D - B'W, the inverse's are A^-1 + W S^-1 W',
    -W S^-1 and S^-1. It is products all over, half the time of `np.linalg.inv`.
    """
    if len(matrix) <= LEAF:
        matrix[...] = np.linalg.inv(matrix)
        return
    half = len(matrix) // 2
    a, b, d = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    invert(a)
    w = a @ b
    d -= b.T @ w
    invert(d)
    np.matmul(w, d, out=b)
    a += b @ w.T
    np.negative(b, out=b)
    matrix[half:, :half] = b.T


def _cold_list(trainset: ArrayTrainset) -> NDArray[np.float32]:
    """Return, by film, the sum over users who like it of one over the root of their ratings."""
    rows = trainset.by_user
    counts = np.diff(rows.starts)
    weights = np.repeat((1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32), counts)
    weights[rows.ratings < LIKED] = 0
    total = np.zeros(trainset.n_items)
    for first in range(0, len(weights), RATINGS_AT_ONCE):
        part = slice(first, first + RATINGS_AT_ONCE)
        total += np.bincount(rows.others[part], weights[part], trainset.n_items)
    return total.astype(np.float32)

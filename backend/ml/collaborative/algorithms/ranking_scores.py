"""The ranking as arrays, and the scores it gives: NumPy is all that is needed.

A list should show what its user will see and like. Exposure says which films a user comes to rate,
whatever the stars: graded iALS (Hu, Koren and Volinsky 2008; Rendle et al. 2021) blended with EASE
(Steck 2019) on the most rated films. It is multiplied by a root of P(liked), a logistic of the
predicted stars:

    score = exposure * P(liked)^(1/2), over the user's best unseen film.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LIKED = 4.0
"""Stars from which on a film counts as liked."""
SEEN_TARGET, LIKED_TARGET = 0.75, 1.0
"""Of a film rated lower, or watched and not rated; and of a liked one. To have seen it is exposure
too. Other films have 0, with little weight."""
REG = 0.015
"""Regularisation of a vector: this, times its ratings and the weighted number of the others."""
MIN_REG_SHARE, REG_HALF = 0.35, 30.0
"""What folding in takes of it for a user of very many ratings, and the ratings at which it is half
way there: who rated much needs less than the training does (benchmarks/RESULTS.md)."""
PRIOR = 10.0
"""Ratings of a user at which their vector's prior mean is half the mean user's."""
HEAD_SHARE = 0.5
"""Of EASE in the exposure of a user with many ratings."""
HEAD_HALF = 10.0
"""Ratings of a user at which EASE has half of that."""
FLOOR = 1e-6
"""Lowest value of each part of the exposure."""
STRIP = 200_000
"""Multiplications up to which OpenBLAS uses one thread (its limit is 2**18): on a busy machine a
small product on several threads waits for all of them, tens of milliseconds."""
STEEPNESS = 1.7
"""Of P(liked) around its threshold, per star."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """What lists are made of, for the films that are published, from all films of the training."""

    q: NDArray[np.float32]
    """Vectors of the films, (films, factors)."""
    gram: NDArray[np.float64]
    """Sum of q q' over all films of the training, (factors, factors)."""
    mean_vector: NDArray[np.float32]
    """Of the training's users, (factors,)."""
    head: NDArray[np.int32]
    """Rows of the films that EASE knows, the most rated ones, ascending, (k,)."""
    weights: NDArray[np.int16]
    """EASE: what having rated one head film (row) says for another (column), in steps of
    `weight_step`, (k, k). NumPy reads int16 ten times as fast as float16."""
    weight_step: float
    cold: NDArray[np.float32]
    """Order for a user nothing is known of: each user who likes a film adds one over the root of
    their number of ratings, (films,)."""
    unseen_weight: float
    """Weight of a film that a user did not rate; one that they rated has 1 more."""
    trained_films: int
    """How many are in `gram`."""
    threshold: float
    """Predicted stars at which P(liked) is a half."""

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """Return row and column of each film in EASE's weights, -1 if it has none, (films,)."""
        places = np.full(len(self.q), -1, dtype=np.int32)
        places[self.head] = np.arange(len(self.head), dtype=np.int32)
        return places

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Return the lengths of the films' vectors, (films,)."""
        return np.asarray(np.sqrt(np.einsum("if,if->i", self.q, self.q)))


@dataclass(frozen=True, eq=False)
class RankedUser:
    """A user as the ranking knows them; see `fold_in`."""

    rows: NDArray[np.intp]
    """Of the films they rated or watched, (n,)."""
    targets: NDArray[np.float32]
    """`SEEN_TARGET` or `LIKED_TARGET`, (n,)."""
    vector: NDArray[np.float32]
    """(factors,)"""


def cut(ranking: Ranking, rows: ArrayLike) -> Ranking:
    """Keep some of the films, in the order given.

    A user whose rated films are all kept is folded in as with the whole ranking: `gram`,
    `mean_vector` and `trained_films` stay those of all films, and so do EASE's weights between
    films that are kept. A kept film's values are then the same too, before they are divided by the
    user's highest. Ratings of films that are left out say nothing any more.

    Args:
        ranking: of more films.
        rows: of the films to keep, each once, (n,).
    """
    rows = np.asarray(rows, dtype=np.intp)
    head = np.flatnonzero(ranking.places[rows] >= 0)
    places = ranking.places[rows[head]]
    return replace(
        ranking,
        q=ranking.q[rows],
        head=head.astype(np.int32),
        weights=ranking.weights[places[:, None], places],
        cold=ranking.cold[rows],
    )


def fold_in(
    ranking: Ranking, rows: ArrayLike, stars: ArrayLike, watched: ArrayLike = ()
) -> RankedUser:
    """Make a user from what they rated and watched, whether or not the training had them.

    With Q the films' vectors and t their targets, the user's vector p solves
    (unseen_weight gram + Q'Q + reg I) p = Q't + reg PRIOR / (PRIOR + n) mean_vector,
    where reg is REG (n + unseen_weight trained_films), less for users of many ratings.

    Args:
        ranking: knows the films.
        rows: of the rated films, each once, (n,).
        stars: (n,).
        watched: rows of films that were watched; those that are rated too count as rated.
    """
    rated = np.asarray(rows, dtype=np.intp)
    also = np.asarray(watched, dtype=np.intp)
    if len(also):  # setdiff1d takes as long as the rest of this function
        also = np.setdiff1d(also, rated)
    targets = np.full(len(rated) + len(also), SEEN_TARGET, dtype=np.float32)
    targets[: len(rated)][np.asarray(stars) >= LIKED] = LIKED_TARGET
    both = np.concatenate([rated, also])
    matrix, prior = _equations(ranking, both)
    vector = np.linalg.solve(matrix, targets @ ranking.q[both] + prior)
    return RankedUser(both, targets, vector.astype(np.float32))


def _equations(
    ranking: Ranking, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix of a user's vector, (factors, factors), and the prior's right side."""
    q = ranking.q[rows]
    count = len(rows)
    reg = REG * (count + ranking.unseen_weight * ranking.trained_films)
    reg *= MIN_REG_SHARE + (1 - MIN_REG_SHARE) / (1 + (count / REG_HALF) ** 2)
    matrix = ranking.unseen_weight * ranking.gram
    step = max(1, STRIP // q.shape[1] ** 2)
    for first in range(0, count, step):
        part = q[first : first + step]
        matrix += part.T @ part
    matrix.flat[:: len(matrix) + 1] += reg
    return matrix, ranking.mean_vector.astype(np.float64) * (reg * PRIOR / (PRIOR + count))


def exposure(ranking: Ranking, user: RankedUser) -> NDArray[np.float32]:
    """Return how likely the user is to come to see each film, (films,).

    No unseen film has more than 1. For a user without films it is `cold`, as it is.
    """
    return _blend(ranking, user, ranking.q @ user.vector)


def exposures(ranking: Ranking, users: Sequence[RankedUser]) -> NDArray[np.float32]:
    """Return `exposure` of many users, to rounding, (users, films)."""
    vectors = np.array([user.vector for user in users], dtype=np.float32)
    found: NDArray[np.float32] = vectors.reshape(-1, ranking.q.shape[1]) @ ranking.q.T
    for row, user in enumerate(users):
        found[row] = _blend(ranking, user, found[row])
    return found


def _blend(
    ranking: Ranking, user: RankedUser, by_vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return exposure, (films,), from what iALS says of each film, which is changed in place."""
    if not len(user.rows):
        return ranking.cold
    by_head, of_vector, of_head = _parts(ranking, user, by_vector)
    total = np.maximum(by_vector, FLOOR, out=by_vector)
    total *= of_vector
    total += FLOOR * of_head  # of the films that EASE does not know
    total[ranking.head] += (np.maximum(by_head, FLOOR) - FLOOR) * of_head
    return total


def _parts(
    ranking: Ranking, user: RankedUser, by_vector: NDArray[np.float32]
) -> tuple[NDArray[np.float32], np.float32, np.float32]:
    """Return EASE's values of the head films, (k,), and the factors of iALS's and of EASE's.

    EASE has no share where it says nothing for any unseen film.
    """
    places = ranking.places[user.rows]
    known = places >= 0
    weights = ranking.weights[places[known]].astype(np.float32)
    by_head = user.targets[known] @ weights * np.float32(ranking.weight_step)
    vector_best = _best_unseen(by_vector, user.rows)
    head_best = _best_unseen(by_head, places[known])
    share = HEAD_SHARE * len(user.rows) / (len(user.rows) + HEAD_HALF) * (head_best > FLOOR)
    return by_head, np.float32((1 - share) / vector_best), np.float32(share / head_best)


def _best_unseen(values: NDArray[np.float32], seen: NDArray[np.integer]) -> float:
    """Return the highest value but for those at `seen`, at least `FLOOR`."""
    kept = values[seen]
    values[seen] = FLOOR
    best = float(values.max(initial=FLOOR))
    values[seen] = kept
    return best


def score(ranking: Ranking, user: RankedUser, stars: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what a list is ordered by, (films,): 0 to 1, which the best unseen film has.

    It does not depend on which films a list is to be made from. A film that the user has seen may
    be worth more than the best unseen one, and has 1 then.

    Args:
        ranking: knows the films.
        user: one without films gets `cold` with P(liked).
        stars: the predicted ratings of all films, not clipped to the scale, (films,).
    """
    values = exposure(ranking, user) * root_of_liked(ranking, stars)
    return _over_best(values, user)


def score_many(
    ranking: Ranking, users: Sequence[RankedUser], stars: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return `score` of many users, to rounding, (users, films); `stars` has the same shape."""
    values = exposures(ranking, users)
    values *= root_of_liked(ranking, stars)
    for row, user in enumerate(users):
        _over_best(values[row], user)
    return values


def _over_best(values: NDArray[np.float32], user: RankedUser) -> NDArray[np.float32]:
    """Divide values, (films,), by that of the best unseen film, in place; return them."""
    values /= np.float32(_best_unseen(values, user.rows))
    return np.minimum(values, 1, out=values)


def root_of_liked(ranking: Ranking, stars: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return P(liked)^(1/2) for films with these predicted stars, (films,)."""
    values = np.asarray(stars, dtype=np.float32) - np.float32(ranking.threshold)
    values *= np.float32(-STEEPNESS)
    np.exp(values, out=values)
    values += 1
    np.sqrt(values, out=values)
    np.divide(1, values, out=values)
    return values


def similar(ranking: Ranking, film: int) -> NDArray[np.float32]:
    """Return the cosine of each film's vector with that of one film, (films,), from -1 to 1."""
    lengths = np.maximum(ranking.lengths * ranking.lengths[film], np.finfo(np.float32).tiny)
    cosines: NDArray[np.float32] = ranking.q @ ranking.q[film] / lengths
    return cosines.clip(-1, 1)


def contributions(
    ranking: Ranking, user: RankedUser, film: int
) -> tuple[NDArray[np.float64], float]:
    """Return what each of the user's films adds to the exposure of one film.

    Both parts are linear in the user's targets, so the sum of all is the film's exposure: exactly,
    where neither part is below `FLOOR`. The rest is what the mean user brings.

    Args:
        ranking: knows the films.
        user: with one film at least.
        film: its row.

    Returns:
        Of each of `user.rows`, (n,), and the rest.
    """
    matrix, prior = _equations(ranking, user.rows)
    to_film = np.linalg.solve(matrix, ranking.q[film].astype(np.float64))
    places, place = ranking.places[user.rows], ranking.places[film]
    weights = np.zeros(len(user.rows))
    if place >= 0:
        known = places >= 0
        weights[known] = ranking.weights[places[known], place] * ranking.weight_step
    _, of_vector, of_head = _parts(ranking, user, ranking.q @ user.vector)
    each = of_vector * (ranking.q[user.rows] @ to_film) + of_head * weights
    return each * user.targets, float(of_vector * (prior @ to_film))

"""The ranking as arrays, and the scores it gives: NumPy is all that is needed.

A list should show what its user will see and like. Exposure says which films a user comes to rate,
whatever the stars: graded iALS (Hu, Koren and Volinsky 2008; Rendle et al. 2021) blended with EASE
(Steck 2019) on the most rated films. It is multiplied by a root of P(liked), a logistic of the
predicted stars:

    score = exposure * P(liked)^(1/2), over the user's best unseen film.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LIKED = 4.0
"""Stars from which on a film counts as liked."""
SEEN_TARGET, LIKED_TARGET = 0.75, 1.0
"""Of a film rated lower, or watched and not rated; and of a liked one. To have seen it is exposure
too. Other films have 0, with little weight."""
REG = 0.015
"""Regularisation of a vector: this, times its ratings and the weighted number of the others."""
PRIOR = 10.0
"""Ratings of a user at which their vector's prior mean is half the mean user's."""
HEAD_SHARE = 0.5
"""Of EASE in the exposure of a user with many ratings."""
HEAD_HALF = 10.0
"""Ratings of a user at which EASE has half of that."""
FLOOR = 1e-6
"""Lowest value of each part of the exposure."""
STEEPNESS = 1.7
"""Of P(liked) around its threshold, per star."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """What lists are made of, for the films that are published, over all films of the training."""

    q: NDArray[np.float32]
    """Vectors of the films, (films, factors)."""
    gram: NDArray[np.float64]
    """Sum of q q' over all films of the training, (factors, factors)."""
    mean_vector: NDArray[np.float32]
    """Of the training's users, (factors,)."""
    head: NDArray[np.int32]
    """Rows of the films that EASE knows, the most rated, ascending, (k,)."""
    weights: NDArray[np.float16]
    """EASE: what having rated one head film (row) says for another (column), (k, k)."""
    cold: NDArray[np.float32]
    """Order for a user nothing is known of: each user who likes a film adds one over the root of
    their number of ratings, (films,)."""
    unseen_weight: float
    """Weight of a film that a user did not rate; one that they rated has 1 more."""
    trained_films: int
    """In `gram`."""
    threshold: float
    """Predicted stars at which P(liked) is a half."""


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
    """The ranking of some films alone, in the order given.

    What it gives is what the whole ranking gives of users who rated none of the others, before
    values are divided by the user's highest: `gram`, `mean_vector` and `trained_films` stay those
    of all films, and EASE's weights are the whole one's. Ratings of films that are left out say
    nothing any more: of a user who has some, the rest is folded in.

    Args:
        ranking: of more films.
        rows: of the films to keep, each once, (n,).
    """
    rows = np.asarray(rows, dtype=np.intp)
    new_rows = np.full(len(ranking.q), -1, dtype=np.int32)
    new_rows[rows] = np.arange(len(rows), dtype=np.int32)
    kept = np.flatnonzero(new_rows[ranking.head] >= 0)
    head = new_rows[ranking.head[kept]]
    order = np.argsort(head)
    kept = kept[order]
    return replace(
        ranking,
        q=ranking.q[rows],
        head=head[order],
        weights=ranking.weights[kept[:, None], kept],
        cold=ranking.cold[rows],
    )


def fold_in(
    ranking: Ranking, rows: ArrayLike, stars: ArrayLike, watched: ArrayLike = ()
) -> RankedUser:
    """A user from what they rated and watched, whether or not the training had them.

    With Q the films' vectors and t their targets the user's vector p solves
    (unseen_weight gram + Q'Q + reg I) p = Q't + reg PRIOR / (PRIOR + n) mean_vector.

    Args:
        ranking: knows the films.
        rows: of the rated films, each once, (n,).
        stars: (n,).
        watched: rows of films that were watched; those that are rated count as rated.
    """
    rated = np.asarray(rows, dtype=np.intp)
    also = np.setdiff1d(np.asarray(watched, dtype=np.intp), rated)
    targets = np.full(len(rated) + len(also), SEEN_TARGET, dtype=np.float32)
    targets[: len(rated)][np.asarray(stars) >= LIKED] = LIKED_TARGET
    both = np.concatenate([rated, also])
    matrix, prior = _equations(ranking, both)
    vector = np.linalg.solve(matrix, targets @ ranking.q[both] + prior)
    return RankedUser(both, targets, vector.astype(np.float32))


def _equations(
    ranking: Ranking, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of a user's vector: the matrix (factors, factors) and the prior's share of the right side."""
    q = ranking.q[rows]
    reg = REG * (len(rows) + ranking.unseen_weight * ranking.trained_films)
    matrix = ranking.unseen_weight * ranking.gram + q.T @ q
    matrix.flat[:: len(matrix) + 1] += reg
    prior = ranking.mean_vector * (reg * PRIOR / (PRIOR + len(rows)))
    return matrix, prior


def _parts(
    ranking: Ranking, user: RankedUser
) -> list[tuple[NDArray[np.float32], float]]:
    """Values of all films, (films,), and what they are multiplied by: iALS's, then EASE's."""
    head = np.zeros(len(ranking.q), dtype=np.float32)
    places = places_of(ranking)[user.rows]
    known = places >= 0
    head[ranking.head] = user.targets[known] @ ranking.weights[places[known]].astype(np.float32)
    share = head_share(len(user.rows))
    found = []
    for values, part in ((ranking.q @ user.vector, 1 - share), (head, share)):
        unseen = values.copy()
        unseen[user.rows] = FLOOR
        found.append((values, part / max(float(unseen.max(initial=FLOOR)), FLOOR)))
    return found


def places_of(ranking: Ranking) -> NDArray[np.int32]:
    """Row and column of each film in EASE's weights, -1 of those it does not know, (films,)."""
    places = np.full(len(ranking.q), -1, dtype=np.int32)
    places[ranking.head] = np.arange(len(ranking.head), dtype=np.int32)
    return places


def head_share(ratings: int) -> float:
    """Of EASE in the exposure of a user with so many ratings."""
    return HEAD_SHARE * ratings / (ratings + HEAD_HALF)


def exposure(ranking: Ranking, user: RankedUser | None) -> NDArray[np.float32]:
    """How much the user is one to come to see each film, (films,); of no unseen film above 1.

    Args:
        ranking: knows the films.
        user: None, and one without films, is one nothing is known of: `cold`, as it is.
    """
    if user is None or not len(user.rows):
        return ranking.cold
    total = np.zeros(len(ranking.q), dtype=np.float32)
    for values, scale in _parts(ranking, user):
        total += np.maximum(values, FLOOR) * np.float32(scale)
    return total


def score(
    ranking: Ranking, user: RankedUser | None, stars: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The order of a user's list: from 0 to 1, which their best unseen film has, (films,).

    It does not depend on which films a list is to be made from. A film that the user has seen can
    be worth more than the best unseen one, and then has 1 too.

    Args:
        ranking: knows the films.
        user: see `exposure`.
        stars: the predicted ratings of all films, not clipped to the scale, (films,).
    """
    values = exposure(ranking, user) * root_of_liked(ranking, stars)
    unseen = values
    if user is not None:
        unseen = values.copy()
        unseen[user.rows] = 0
    best = float(unseen.max(initial=0))
    return np.minimum(values / best, 1) if best > 0 else np.minimum(values, 1)


def root_of_liked(
    ranking: Ranking, stars: NDArray[np.floating]
) -> NDArray[np.float64]:
    """P(liked)^(1/2) of films with these predicted stars, of the same shape."""
    return 1 / np.sqrt(1 + np.exp(-STEEPNESS * (np.asarray(stars, np.float64) - ranking.threshold)))


def contributions(
    ranking: Ranking, user: RankedUser, film: int
) -> tuple[NDArray[np.float64], float]:
    """What each of the user's films adds to the exposure of one film, (n,), and what the rest does.

    Both parts are linear in the user's targets, so the sum of all is the film's exposure: exactly,
    where neither part is below `FLOOR`. The rest is what the mean user brings.

    Args:
        ranking: knows the films.
        user: with at least one film.
        film: its row.
    """
    matrix, prior = _equations(ranking, user.rows)
    to_film = np.linalg.solve(matrix, ranking.q[film].astype(np.float64))
    places = places_of(ranking)
    weights = np.zeros(len(user.rows))
    mine = places[user.rows]
    if places[film] >= 0:
        weights[mine >= 0] = ranking.weights[mine[mine >= 0], places[film]]
    (_, by_vector), (_, by_head) = _parts(ranking, user)
    each = by_vector * (ranking.q[user.rows] @ to_film) + by_head * weights
    return each * user.targets, float(by_vector * (prior @ to_film))


def score_users(
    ranking: Ranking,
    users: list[RankedUser],
    stars: NDArray[np.floating],
) -> NDArray[np.float64]:
    """`score` of several users at once, but for rounding, (users, films); one block in memory.

    Args:
        ranking: knows the films.
        users: with or without films.
        stars: see `score`, (users, films).
    """
    vectors = np.array([user.vector for user in users])
    counts = np.array([len(user.rows) for user in users])
    seen = np.repeat(np.arange(len(users)), counts), np.concatenate([u.rows for u in users])
    targets = np.concatenate([user.targets for user in users])
    places = places_of(ranking)[seen[1]]
    of_head = np.zeros((len(users), len(ranking.head)), dtype=np.float32)
    of_head[seen[0][places >= 0], places[places >= 0]] = targets[places >= 0]
    share = HEAD_SHARE * counts / (counts + HEAD_HALF)
    total = np.zeros((len(users), len(ranking.q)), dtype=np.float32)
    total[:, ranking.head] = of_head @ ranking.weights.astype(np.float32)
    total = _scaled(total, seen, share)
    total += _scaled(vectors @ ranking.q.T, seen, 1 - share)
    total[counts == 0] = ranking.cold
    values = total * root_of_liked(ranking, stars)
    unseen = values.copy()
    unseen[seen] = 0
    best = unseen.max(axis=1, initial=0, keepdims=True)
    return np.minimum(values / np.where(best > 0, best, 1), 1)


def _scaled(
    values: NDArray[np.float32],
    seen: tuple[NDArray[np.intp], NDArray[np.intp]],
    parts: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Each user's values over their highest unseen one, times the user's part."""
    unseen = values.copy()
    unseen[seen] = FLOOR
    highest = unseen.max(axis=1, initial=FLOOR)
    np.maximum(values, FLOOR, out=values)
    values *= (parts / highest).astype(np.float32)[:, None]
    return values

"""Lists of films as they are served, for many users at once, and simple lists beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.ranking_scores import cut, exposures, fold_in, root_of_liked
from ..top_n import top_films
from . import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from surprise import SVD

    from ..algorithms.ranking_scores import Ranking
    from ..trainset import ArrayTrainset

CELLS_AT_ONCE = 1 << 20
"""Scores of users by films, at most, in memory together: 8 MiB in each of a few arrays."""
POPULAR, MOST_LIKED = "most rated", "most liked"
BY_STARS, COLD = "{}, by stars", "{}, cold list"
"""What a model's lists in another order than that of the scores are called."""


def make_lists(
    trainset: ArrayTrainset,
    ranking: Ranking,
    models: Mapping[str, SVD],
    users: NDArray[np.intp],
    films: NDArray[np.intp],
) -> dict[str, NDArray[np.intp]]:
    """Return the first `metrics.TOP` films for each user, without those rated in the training.

    Args:
        trainset: what all was trained on.
        ranking: of all its films.
        models: by name, what predicts the stars.
        users: inner ids; -1 for one whom the training does not know, (n,).
        films: inner ids of those to list, ascending. As in a release, what a user gave to other
            films is not known to the ranking.

    Returns:
        Inner ids, (n, places), -1 where there are no more films. By name: each model's lists by
        score, by stars (`BY_STARS`), and by stars and what a user gets of whom nothing is known
        (`COLD`); the most rated and the most liked films.
    """
    part = cut(ranking, films)
    rows = trainset.by_item
    counts = np.diff(rows.starts)
    of_ratings = np.repeat(np.arange(trainset.n_items), counts)
    liked = np.bincount(of_ratings, rows.ratings >= metrics.LIKED, trainset.n_items)
    found: dict[str, list[NDArray[np.intp]]] = {}
    step = max(1, CELLS_AT_ONCE // len(films))
    for start in range(0, max(1, len(users)), step):
        block = users[start : start + step]
        exposed, seen = _look_at(trainset, part, block, films)

        def add(name: str, scores: NDArray[Any], seen: NDArray[np.bool_] = seen) -> None:
            top = top_films(np.broadcast_to(scores, seen.shape), seen, metrics.TOP)
            found.setdefault(name, []).append(np.where(top >= 0, films[top], -1))

        for name, model in models.items():
            stars = predict_all(model, trainset, block)[:, films]
            likely = root_of_liked(part, stars)
            add(name, exposed * likely)
            add(BY_STARS.format(name), stars)
            add(COLD.format(name), part.cold * likely)
        add(POPULAR, counts[films])
        add(MOST_LIKED, liked[films])
    return {name: np.concatenate(tops) for name, tops in found.items()}


def _look_at(
    trainset: ArrayTrainset, ranking: Ranking, users: NDArray[np.intp], films: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return each user's exposure to the films and which of them they rated, (users, films)."""
    places = np.full(trainset.n_items, -1, dtype=np.intp)
    places[films] = np.arange(len(films))
    starts, items, ratings = trainset.by_user
    seen = np.zeros((len(users), len(films)), dtype=bool)
    ranked = []
    for row, user in enumerate(users.tolist()):
        own = slice(*starts[user : user + 2].tolist()) if user >= 0 else slice(0)
        rated = places[items[own]]
        kept = rated >= 0
        ranked.append(fold_in(ranking, rated[kept], ratings[own][kept]))
        seen[row, rated[kept]] = True
    return exposures(ranking, ranked), seen


def predict_all(
    model: SVD, trainset: ArrayTrainset, users: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the stars of all films, not clipped to the scale, (users, films).

    Args:
        model: a trained SVD.
        trainset: what it was trained on.
        users: inner ids; -1 for one whom the training does not know.
    """
    own = model.bu[users][:, None] + model.pu[users] @ model.qi.T
    stars: NDArray[np.float64] = np.where(users[:, None] >= 0, own, 0) + model.bi
    stars += trainset.global_mean
    return stars

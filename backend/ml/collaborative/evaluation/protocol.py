"""How well models predict and rank what they have not seen, beside simple baselines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..algorithms.baselines import fit_biases
from ..algorithms.svd import predict_pairs
from ..progress import progress_bar
from ..ratings import is_app_user, rating_scale
from ..surprise_classes import SVD, AlgoBase
from ..top_n import top_films
from ..trainset import make_trainset
from . import metrics
from .splits import check_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset
    from .splits import Split

    Fits = Mapping[str, Callable[[ArrayTrainset], SVD]]

CELLS_AT_ONCE = 1 << 24
"""Scores of users by films, at most, in memory together: 128 MiB."""
BIASES, MEAN, POPULAR = "user and item biases", "global mean", "most rated"
ALL, APP, MOVIELENS = "all users", "app users", "MovieLens users"


@dataclass(frozen=True)
class Measures:
    """See `metrics`; None where a model predicts or ranks nothing, or it was not asked for."""

    rmse: float | None = None
    mae: float | None = None
    ndcg: float | None = None
    precision: float | None = None
    recall: float | None = None
    hit_rate: float | None = None
    coverage: float | None = None
    popularity: float | None = None


@dataclass(frozen=True)
class Score:
    """One model on one group of users: the mean over the splits that measure it."""

    model: str
    users: str
    measures: Measures
    ratings: int
    """Held out, over all splits."""


class _HeldOut(NamedTuple):
    """Test ratings by inner ids of the trainset, -1 where it does not know them."""

    users: NDArray[np.intp]
    items: NDArray[np.intp]
    people: NDArray[np.intp]
    """A number for each user, known or not."""
    ratings: NDArray[np.float64]
    groups: dict[str, NDArray[np.bool_]]
    """Which rows are of the users of each name."""


def evaluate(
    table: pd.DataFrame,
    splits: Sequence[Split],
    fits: Fits,
    *,
    ranking: bool = True,
    catalog: frozenset[int] | None = None,
) -> list[Score]:
    """Measure errors and rankings of models trained on each split, and of three baselines.

    The baselines are user and item biases (see `fit_best_biases`), the global mean (which ranks
    nothing) and the most rated films (which predict nothing). A ranking is of all films of the
    training, or of those of the catalog, that the user has not rated there. It is measured on users
    with a held-out rating of at least `metrics.LIKED` stars; such films that the training does not
    have count as not found. Where there are app users, they and MovieLens's are measured apart too.

    Args:
        table: a ratings table.
        splits: see `splits`.
        fits: by name, what trains a model.
        ranking: whether to measure rankings too.
        catalog: the films to rank, those of all test rows; None stands for all.

    Raises:
        InputError: a split leaks, see `splits.check_apart`.
    """
    scale = rating_scale(table["rating"])
    rated = table["movie_id"].unique()
    films = len(rated) if catalog is None else int(np.isin(rated, list(catalog)).sum())
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    counts: dict[str, int] = defaultdict(int)
    with progress_bar("evaluation", " fits", len(splits) * len(fits)) as bar:
        for split in splits:
            check_apart(table, split)
            trainset = make_trainset(table.iloc[split.train], scale)
            held_out = _hold_out(table.iloc[split.test], trainset)
            for group, rows in held_out.groups.items():
                counts[group] += int(rows.sum())
            measures: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
            biases = fit_best_biases(trainset, table, split, catalog)
            for name, model in _models(trainset, fits, biases):
                if name != POPULAR:
                    _measure_errors(measures, name, model, held_out)
                if ranking and name != MEAN:
                    _measure_ranking(measures, name, model, held_out, films, catalog)
                if name in fits:
                    bar.update()
            for key, values in measures.items():
                found.setdefault(key, []).append(values)
    scores = []
    for (model_name, users), folds in found.items():
        names = dict.fromkeys(name for fold in folds for name in fold)
        means = {n: float(np.mean([fold[n] for fold in folds if n in fold])) for n in names}
        scores.append(Score(model_name, users, Measures(**means), counts[users]))
    return scores


def _models(trainset: ArrayTrainset, fits: Fits, biases: SVD) -> Iterator[tuple[str, SVD]]:
    """Yield the models to compare, then the baselines in the form of a model."""
    for name, fit in fits.items():
        yield name, fit(trainset)
    yield BIASES, biases
    plain = _without_factors(trainset, np.zeros(trainset.n_users), np.zeros(trainset.n_items))
    yield MEAN, plain
    plain.bi = np.diff(trainset.by_item.starts).astype(np.float64)
    yield POPULAR, plain


def _without_factors(
    trainset: ArrayTrainset, bu: NDArray[np.float64], bi: NDArray[np.float64]
) -> SVD:
    plain = AlgoBase.fit(SVD(n_factors=1), trainset)
    plain.bu, plain.bi = bu, bi
    plain.pu, plain.qi = np.zeros((trainset.n_users, 1)), np.zeros((trainset.n_items, 1))
    return plain


def fit_best_biases(
    trainset: ArrayTrainset, table: pd.DataFrame, split: Split, catalog: frozenset[int] | None
) -> SVD:
    """Fit user and item biases on all films, and on the catalog's alone; return the better.

    Better is what has the smaller RMSE on the test rows, so that no model looks good against a
    weakened baseline.

    Args:
        trainset: of the split's training rows.
        table: a ratings table.
        split: of the table; its test rows are of films of the catalog.
        catalog: TMDB ids; None stands for every film.
    """
    whole = _without_factors(trainset, *fit_biases(trainset))
    train = table.iloc[split.train]
    own = train if catalog is None else train[train["movie_id"].isin(catalog)]
    if catalog is None or own.empty:
        return whole
    part = make_trainset(own, trainset.rating_scale)
    bu, bi = np.zeros(trainset.n_users), np.zeros(trainset.n_items)
    users, items = (
        trainset.find(pd.DataFrame({"user_id": part.raw_users(), "movie_id": 0}))[0],
        trainset.find(pd.DataFrame({"user_id": "", "movie_id": part.raw_items()}))[1],
    )
    bu[users], bi[items] = fit_biases(part)
    bi[items] += part.global_mean - trainset.global_mean
    smaller = _without_factors(trainset, bu, bi)
    test = table.iloc[split.test]
    pairs, ratings = trainset.find(test), test["rating"].to_numpy()
    errors = [metrics.rmse(predict_pairs(model, *pairs) - ratings) for model in (whole, smaller)]
    return whole if errors[0] <= errors[1] else smaller


def _hold_out(rows: pd.DataFrame, trainset: ArrayTrainset) -> _HeldOut:
    groups = {ALL: np.ones(len(rows), dtype=bool)}
    of_app = is_app_user(rows["user_id"].astype("str")).to_numpy()
    if of_app.any():
        groups |= {APP: of_app, MOVIELENS: ~of_app}
    return _HeldOut(
        *trainset.find(rows),
        pd.factorize(rows["user_id"])[0],
        rows["rating"].to_numpy(),
        groups,
    )


def _measure_errors(
    measures: dict[tuple[str, str], dict[str, float]], name: str, model: SVD, held_out: _HeldOut
) -> None:
    errors = predict_pairs(model, held_out.users, held_out.items) - held_out.ratings
    for group, rows in held_out.groups.items():
        if rows.any():
            measures[name, group] |= {
                "rmse": metrics.rmse(errors[rows]),
                "mae": metrics.mae(errors[rows]),
            }


def _measure_ranking(
    measures: dict[tuple[str, str], dict[str, float]],
    name: str,
    model: SVD,
    held_out: _HeldOut,
    films: int,
    catalog: frozenset[int] | None,
) -> None:
    """Measure rankings for the users with a film they like among the held-out ratings."""
    trainset = model.trainset
    likes = held_out.ratings >= metrics.LIKED
    people, first = np.unique(held_out.people[likes], return_index=True)
    inner = held_out.users[likes][first]
    liked = np.bincount(held_out.people[likes])[people]
    known = likes & (held_out.items >= 0)
    wanted = held_out.people[known] * np.int64(trainset.n_items) + held_out.items[known]
    users_at_once = max(1, CELLS_AT_ONCE // trainset.n_items)
    top = np.concatenate(
        [
            rank(model, inner[start : start + users_at_once], catalog)
            for start in range(0, len(inner), users_at_once)
        ]
        or [np.empty((0, metrics.TOP), dtype=np.intp)]
    )
    hits = np.isin(people[:, None] * np.int64(trainset.n_items) + top, wanted) & (top >= 0)
    counts = np.diff(trainset.by_item.starts)
    for group, rows in held_out.groups.items():
        of_group = np.isin(people, held_out.people[rows])
        if of_group.any():
            good = hits[of_group], liked[of_group]
            measures[name, group] |= {
                "ndcg": float(metrics.ndcg(*good).mean()),
                "precision": float(metrics.precision(good[0]).mean()),
                "recall": float(metrics.recall(*good).mean()),
                "hit_rate": float(metrics.hit(good[0]).mean()),
                "coverage": metrics.coverage(top[of_group], films),
                "popularity": metrics.popularity(top[of_group], counts),
            }


def rank(
    model: SVD, users: NDArray[np.intp], catalog: frozenset[int] | None = None
) -> NDArray[np.intp]:
    """Return the first `metrics.TOP` films for each user, without those rated in the training.

    Args:
        model: a trained SVD.
        users: inner ids; -1 for one that the model does not know.
        catalog: the films to rank; None stands for all.
    """
    trainset = model.trainset
    starts, items, _ = trainset.by_user
    scores = np.where(users[:, None] >= 0, model.pu[users] @ model.qi.T, 0) + model.bi
    seen = np.zeros(scores.shape, dtype=bool)
    if catalog is not None:
        seen[:] = ~np.isin(trainset.raw_items(), list(catalog))
    for row, user in enumerate(users.tolist()):
        if user >= 0:
            seen[row, items[starts[user] : starts[user + 1]]] = True
    return top_films(scores, seen, metrics.TOP)

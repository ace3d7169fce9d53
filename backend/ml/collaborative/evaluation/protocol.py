"""How well models predict and rank what they have not seen, beside simple baselines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..algorithms.ranking import fit_ranking
from ..algorithms.svd import predict_pairs
from ..progress import progress_bar
from ..ratings import is_app_user, rating_scale
from ..trainset import make_trainset
from . import metrics
from .biases import fit_best_biases, without_factors
from .lists import make_lists
from .splits import check_apart, user_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from surprise import SVD

    from ..trainset import ArrayTrainset
    from .splits import Split

    Fits = Mapping[str, Callable[[ArrayTrainset], SVD]]

MAX_CELLS = 1 << 27
"""Scores of users by films, at most, that lists are measured on; beyond, some users stand for all.

A million users times a hundred thousand films take a day, and tell no more."""
MIN_LIST_USERS = 1000
"""However many films there are."""
BIASES, MEAN = "user and item biases", "global mean"
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


@dataclass(frozen=True)
class Found:
    """What one split says of the models."""

    measures: Mapping[tuple[str, str], Mapping[str, float]]
    """Those of `Measures` that can be taken, by model and group of users."""
    counts: Mapping[str, int]
    """Held-out ratings by group of users."""
    biases: NDArray[np.float64]
    """What user and item biases predict for each test row, (m,)."""
    people: NDArray[np.intp]
    """Those users with a list, as `pandas.factorize` numbers the users of the test rows, (n,)."""
    ndcg: Mapping[str, NDArray[np.float64]]
    """Of each of their lists, (n,), by the names of `lists.make_lists`."""


class _HeldOut(NamedTuple):
    """Test ratings by inner ids of the trainset, -1 where it does not know them."""

    users: NDArray[np.intp]
    items: NDArray[np.intp]
    people: NDArray[np.intp]
    """A number for each user, known or not."""
    names: pd.Index[str]
    """Of those numbers."""
    ratings: NDArray[np.float64]
    groups: dict[str, NDArray[np.bool_]]
    """Which rows are of the users of each name."""


class _Readers(NamedTuple):
    """The users with a held-out film they like."""

    people: NDArray[np.intp]
    inner: NDArray[np.intp]
    liked: NDArray[np.intp]
    """How many, known to the training or not, (n,)."""


def evaluate(
    table: pd.DataFrame,
    splits: Sequence[Split],
    fits: Fits,
    *,
    catalog: frozenset[int] | None = None,
) -> list[Score]:
    """Measure errors and lists of models trained on each split, and of simple baselines.

    See `measure_split`; a measure is the mean over the splits.

    Args:
        table: a ratings table.
        splits: see `splits`.
        fits: by name, what trains a model.
        catalog: the films to list, those of all test rows; None stands for all.

    Raises:
        InputError: a split leaks, see `splits.check_apart`.
    """
    with progress_bar("evaluation", " fits", len(splits) * len(fits)) as bar:
        return mean_scores(
            [measure_split(table, split, fits, catalog, bar.update) for split in splits]
        )


def mean_scores(found: Sequence[Found]) -> list[Score]:
    """Return the mean of each measure over the splits, for each model and group of users."""
    folds: dict[tuple[str, str], list[Mapping[str, float]]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for one in found:
        for key, values in one.measures.items():
            folds[key].append(values)
        for group, count in one.counts.items():
            counts[group] += count
    scores = []
    for (model, users), values_of in folds.items():
        names = dict.fromkeys(name for fold in values_of for name in fold)
        means = {n: float(np.mean([fold[n] for fold in values_of if n in fold])) for n in names}
        scores.append(Score(model, users, Measures(**means), counts[users]))
    return scores


def measure_split(
    table: pd.DataFrame,
    split: Split,
    fits: Fits,
    catalog: frozenset[int] | None = None,
    update: Callable[[], object] = lambda: None,
) -> Found:
    """Train models on a split's training rows, and measure them and simple baselines on the others.

    Predicted stars stand beside those of user and item biases (see `fit_best_biases`) and of the
    global mean; the lists of `lists.make_lists` beside the most rated and the most liked films.
    Lists are of all films of the training, or of those of the catalog, that the user has not rated
    there. They are measured for users with a held-out rating of at least `metrics.LIKED` stars;
    such films that the training does not have count as not found. Where there are app users, they
    and MovieLens's are measured apart too.

    Args:
        table: a ratings table.
        split: see `splits`.
        fits: by name, what trains a model.
        catalog: the films to list, those of all test rows; None stands for all.
        update: called after each training.

    Raises:
        InputError: the split leaks, see `splits.check_apart`.
    """
    check_apart(table, split)
    trainset = make_trainset(table.iloc[split.train], rating_scale(table["rating"]))
    held_out = _hold_out(table.iloc[split.test], trainset)
    biases = fit_best_biases(trainset, table, split, catalog)
    models: dict[str, SVD] = {}
    for name, fit in fits.items():
        models[name] = fit(trainset)
        update()
    measures: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    mean = without_factors(trainset, np.zeros(trainset.n_users), np.zeros(trainset.n_items))
    predictions = {
        name: predict_pairs(model, held_out.users, held_out.items)
        for name, model in {**models, BIASES: biases, MEAN: mean}.items()
    }
    for name, found in predictions.items():
        _measure_errors(measures, name, found - held_out.ratings, held_out.groups)
    films = np.arange(trainset.n_items)
    if catalog is not None:
        films = np.flatnonzero(np.isin(trainset.raw_items(), list(catalog)))
    readers = _find_readers(held_out, len(films))
    ndcg: dict[str, NDArray[np.float64]] = {}
    if len(readers.people) and len(films):
        ranking = fit_ranking(trainset, seed=0)
        rated = table["movie_id"].unique()
        shown = len(rated) if catalog is None else int(np.isin(rated, list(catalog)).sum())
        for name, top in make_lists(trainset, ranking, models, readers.inner, films).items():
            ndcg[name] = _measure_lists(measures, name, top, readers, held_out, trainset, shown)
    counts = {group: int(rows.sum()) for group, rows in held_out.groups.items()}
    return Found(measures, counts, predictions[BIASES], readers.people, ndcg)


def _hold_out(rows: pd.DataFrame, trainset: ArrayTrainset) -> _HeldOut:
    groups = {ALL: np.ones(len(rows), dtype=bool)}
    of_app = is_app_user(rows["user_id"].astype("str")).to_numpy()
    if of_app.any():
        groups |= {APP: of_app, MOVIELENS: ~of_app}
    return _HeldOut(
        *trainset.find(rows),
        *pd.factorize(rows["user_id"]),
        rows["rating"].to_numpy(),
        groups,
    )


def _measure_errors(
    measures: dict[tuple[str, str], dict[str, float]],
    name: str,
    errors: NDArray[np.float64],
    groups: Mapping[str, NDArray[np.bool_]],
) -> None:
    for group, rows in groups.items():
        if rows.any():
            measures[name, group] |= {
                "rmse": metrics.rmse(errors[rows]),
                "mae": metrics.mae(errors[rows]),
            }


def _find_readers(held_out: _HeldOut, films: int) -> _Readers:
    """Return the users with a held-out film they like; of very many those with low hashes."""
    likes = held_out.ratings >= metrics.LIKED
    people, first = np.unique(held_out.people[likes], return_index=True)
    inner = held_out.users[likes][first]
    liked = np.bincount(held_out.people[likes])[people]
    most = max(MIN_LIST_USERS, MAX_CELLS // max(1, films))
    if len(people) > most:
        kept = np.sort(np.argsort(user_hashes(held_out.names[people]))[:most])
        people, inner, liked = people[kept], inner[kept], liked[kept]
    return _Readers(people, inner, liked)


def _measure_lists(
    measures: dict[tuple[str, str], dict[str, float]],
    name: str,
    top: NDArray[np.intp],
    readers: _Readers,
    held_out: _HeldOut,
    trainset: ArrayTrainset,
    films: int,
) -> NDArray[np.float64]:
    """Measure lists, (n, places), of which `films` could be shown; return the NDCG of each."""
    known = (held_out.ratings >= metrics.LIKED) & (held_out.items >= 0)
    size = np.int64(trainset.n_items)
    wanted = held_out.people[known] * size + held_out.items[known]
    hits = np.isin(readers.people[:, None] * size + top, wanted) & (top >= 0)
    ndcg = metrics.ndcg(hits, readers.liked)
    counts = np.diff(trainset.by_item.starts)
    for group, rows in held_out.groups.items():
        own = np.isin(readers.people, held_out.people[rows])
        if own.any():
            measures[name, group] |= {
                "ndcg": float(ndcg[own].mean()),
                "precision": float(metrics.precision(hits[own]).mean()),
                "recall": float(metrics.recall(hits[own], readers.liked[own]).mean()),
                "hit_rate": float(metrics.hit(hits[own]).mean()),
                "coverage": metrics.coverage(top[own], films),
                "popularity": metrics.popularity(top[own], counts),
            }
    return ndcg

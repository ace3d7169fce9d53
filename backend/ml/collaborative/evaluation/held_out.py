"""Train on four fifths of the ratings, and look closely at how the rest is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..algorithms.svd import predict_pairs
from ..algorithms.training import ALGORITHMS, PLAN, Training
from ..progress import progress_bar
from ..ratings import is_app_user, rating_scale
from . import metrics
from .chance import compare_gains
from .lists import COLD, MOST_LIKED, POPULAR
from .protocol import mean_scores, measure_split
from .splits import Split, fixed_fifth, user_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from surprise import SVD

    from ..algorithms.training import Predict
    from ..trainset import ArrayTrainset
    from .protocol import Found, Score


RANKED, COLD_LIST = "ranking", "cold"
"""What lists are made by, in the manifest; see `serving.snapshot.Snapshot.score_all`."""


@dataclass(frozen=True)
class Lists:
    """Lists for each user who likes a held-out film, (n,); empty arrays where nobody does."""

    served: str
    """`RANKED` where the ranking beats the most liked films beyond chance, else `COLD_LIST`."""
    films: NDArray[np.uint64]
    """Hash of the held-out films that the user likes."""
    ndcg: NDArray[np.float64]
    """NDCG@10 of what is served."""
    most_liked: NDArray[np.float64]
    """Of the most liked films."""
    most_rated: NDArray[np.float64]
    """Of the most rated films."""

    def rows(self) -> NDArray[Any]:
        """Return what a later build compares with, (n,): hash, and how far above most liked."""
        rows = np.empty(len(self.films), dtype=[("films", "<u8"), ("above", "<f8")])
        rows["films"], rows["above"] = self.films, self.ndcg - self.most_liked
        return rows


@dataclass(frozen=True)
class HoldOut:
    """What the held-out fifth says of a training, the best of those that were asked for."""

    training: Training
    scores: list[Score]
    """This training first, then the others, then the baselines."""
    curves: list[list[float]]
    """RMSE after each epoch; or for each chain, of the mean of its samples so far.

    On the ratings whose user and film were trained on."""
    known_rmse: float
    """Of the trained model, on those."""
    ratings: NDArray[np.float64]
    """Those held out, (n,)."""
    predictions: NDArray[np.float64]
    """Of each of them, (n,)."""
    of_app: NDArray[np.bool_]
    """Which of them are of the app's users, (n,)."""
    pairs: NDArray[np.uint64]
    """Hash of the user and film of each of them, (n,)."""
    users: NDArray[np.intp]
    """A number for the user of each of them, (n,)."""
    baseline: NDArray[np.float64]
    """What user and item biases predict for each of them, (n,)."""
    is_of_catalog: bool
    """Whether they are all of the catalog's films; else it had too few to judge by."""
    lists: Lists

    def rows(self) -> dict[str, NDArray[Any]]:
        """Return what a later build compares with, by name.

        `held_out`: hash and prediction of each rating; `held_out_lists`: see `Lists.rows`.
        """
        rows = np.empty(len(self.pairs), dtype=[("pair", "<u8"), ("prediction", "<f8")])
        rows["pair"], rows["prediction"] = self.pairs, self.predictions
        return {"held_out": rows, "held_out_lists": self.lists.rows()}


MIN_CATALOG = 20
"""Held-out ratings of the catalog below which nothing can be said of its errors."""
MAX_RATINGS = 4_000_000
"""Ratings to judge a training by: more would take as long as the training itself, and longer."""


def name_trainings(training: Training) -> dict[str, Training]:
    """Return the training, and the plan's SVD where that is another, by name for people."""
    plan = Training(ALGORITHMS["svd"], PLAN, training.seed)
    named = {} if training == plan else {training.title: training}
    return named | {plan.title: plan}


def sample_users(table: pd.DataFrame) -> pd.DataFrame:
    """Return all rows of some users, at most `MAX_RATINGS`; a smaller table as it is.

    The users are those with the lowest hashes, so that they are much the same from day to day.
    """
    if len(table) <= MAX_RATINGS:
        return table
    codes = table["user_id"].cat.codes.to_numpy()
    counts = np.bincount(codes)
    order = np.argsort(user_hashes(table["user_id"].cat.categories), kind="stable")
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[: max(1, int((counts[order].cumsum() <= MAX_RATINGS).sum()))]] = True
    rows = table[chosen[codes]].reset_index(drop=True)
    return rows.assign(user_id=rows["user_id"].cat.remove_unused_categories())


def hold_out(
    table: pd.DataFrame,
    trainings: Sequence[Training],
    catalog: frozenset[int] | None = None,
    *,
    with_plan: bool = True,
) -> HoldOut:
    """Train on a ratings table but for a fifth of the catalog's ratings, and measure on that fifth.

    The fifth is `splits.fixed_fifth`. Of a table of over `MAX_RATINGS` it takes the ratings of as
    many users as have so many together. If the catalog has fewer than `MIN_CATALOG` held-out
    ratings, all films' are held out in place of the catalog's.

    Args:
        table: enough ratings that a fifth of them is some.
        trainings: what is judged; the best by RMSE comes first.
        catalog: TMDB ids of the films that are to be published; None stands for every film.
        with_plan: whether to measure the plan's SVD beside other trainings.
    """
    table = sample_users(table)
    split, pairs = fixed_fifth(table)
    is_of_catalog = True
    if catalog is not None:
        own = split.test[np.isin(table["movie_id"].to_numpy()[split.test], list(catalog))]
        is_of_catalog = len(own) >= MIN_CATALOG
        if is_of_catalog:
            split = Split(np.setdiff1d(np.arange(len(table)), own), own)
        else:
            catalog = None
    watched = {training.title: _Watched(training, table, split) for training in trainings}
    fits: dict[str, Callable[[ArrayTrainset], SVD]] = {
        name: one.fit for name, one in watched.items()
    }
    if with_plan:
        others = name_trainings(trainings[0]).items()
        fits |= {name: other.fit for name, other in others if name not in fits}
    with progress_bar("evaluation", " fits", len(fits)) as bar:
        found = measure_split(table, split, fits, catalog, bar.update)
    test = table.iloc[split.test]
    ratings = test["rating"].to_numpy()
    best = min(watched.values(), key=lambda one: metrics.rmse(one.predictions - ratings))
    name = best.training.title
    users = pd.factorize(test["user_id"])[0]
    return HoldOut(
        training=best.training,
        scores=sorted(mean_scores([found]), key=lambda score: score.model != name),
        curves=[best.curves[chain] for chain in sorted(best.curves)],
        known_rmse=best.known_rmse,
        ratings=ratings,
        predictions=best.predictions,
        of_app=is_app_user(test["user_id"].astype("str")).to_numpy(),
        pairs=pairs[split.test],
        users=users,
        baseline=found.biases,
        is_of_catalog=is_of_catalog,
        lists=_judge_lists(found, name, users, pairs[split.test] * (ratings >= metrics.LIKED)),
    )


def _judge_lists(
    found: Found, name: str, users: NDArray[np.intp], liked: NDArray[np.uint64]
) -> Lists:
    """Choose what is to be served.

    Args:
        found: what the split says.
        name: of the model.
        users: a number for the user of each test row, (m,).
        liked: hash of each test row whose film the user likes, else 0, (m,).
    """
    if not found.ndcg:
        nothing = np.empty(0)
        return Lists(COLD_LIST, np.empty(0, dtype=np.uint64), nothing, nothing, nothing)
    by_score, plain = found.ndcg[name], found.ndcg[MOST_LIKED]
    beats = compare_gains(plain, by_score).beyond_chance
    films = np.zeros(users.max() + 1, dtype=np.uint64)
    np.add.at(films, users, liked)  # a sum, so that their order has no part in it; it wraps around
    return Lists(
        RANKED if beats else COLD_LIST,
        films[found.people],
        by_score if beats else found.ndcg[COLD.format(name)],
        plain,
        found.ndcg[POPULAR],
    )


class _Watched:
    """A training that is watched while it learns."""

    def __init__(self, training: Training, table: pd.DataFrame, split: Split) -> None:
        self.training = training
        self.test = table.iloc[split.test]
        self.scale = rating_scale(table["rating"])
        self.curves: dict[int, list[float]] = {}
        self.predictions = np.empty(0)
        self.known_rmse = np.nan

    def fit(self, trainset: ArrayTrainset) -> SVD:
        """Train; keep the errors on the test rows after each step, and the predictions."""
        pairs = users, items = trainset.find(self.test)
        ratings = self.test["rating"].to_numpy()
        known = (users >= 0) & (items >= 0)
        sums: dict[int, NDArray[np.float64]] = {}

        def watch(chain: int, predict: Predict) -> None:
            curve = self.curves.setdefault(chain, [])
            found = predict(users[known], items[known])
            if self.training.algorithm.samples:
                found = sums[chain] = sums.get(chain, 0) + found
                found = found / (len(curve) + 1)
            curve.append(metrics.rmse(found.clip(*self.scale) - ratings[known]))

        model = self.training.fit(trainset, watch)
        self.predictions = predict_pairs(model, *pairs)
        self.known_rmse = metrics.rmse((self.predictions - ratings)[known])
        return model

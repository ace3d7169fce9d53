"""Train on four fifths of the ratings, and look closely at how the rest is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.svd import predict_pairs
from ..algorithms.training import ALGORITHMS, PLAN, Training
from ..ratings import is_app_user, rating_scale
from . import metrics
from .protocol import evaluate
from .splits import fixed_fifth, user_hashes

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from ..algorithms.training import Predict
    from ..trainset import ArrayTrainset
    from .protocol import Score


@dataclass(frozen=True)
class HoldOut:
    """What the held-out fifth says of a training."""

    scores: list[Score]
    """This training first, then the plan's where that is another, then the baselines."""
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

    def rows(self) -> NDArray[Any]:
        """Return what a later build compares with: hash and prediction of each rating, (n,)."""
        rows = np.empty(len(self.pairs), dtype=[("pair", "<u8"), ("prediction", "<f8")])
        rows["pair"], rows["prediction"] = self.pairs, self.predictions
        return rows


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


def hold_out(table: pd.DataFrame, training: Training, *, ranking: bool = True) -> HoldOut:
    """Train on a ratings table but for a fifth (see `splits.fixed_fifth`), and measure on that.

    Of a table of over `MAX_RATINGS`, on the ratings of as many users as have so many together.

    Args:
        table: enough ratings that a fifth of them is some.
        training: what is judged.
        ranking: whether to measure rankings, and the plan's SVD beside another training.
    """
    table = sample_users(table)
    split, pairs = fixed_fifth(table)
    test = table.iloc[split.test]
    ratings = test["rating"].to_numpy()
    scale = rating_scale(table["rating"])
    curves: dict[int, list[float]] = {}
    sums: dict[int, NDArray[np.float64]] = {}
    predictions: list[NDArray[np.float64]] = []
    known_rmse: list[float] = []

    def fit_watched(trainset: ArrayTrainset) -> SVD:
        pairs = users, items = trainset.find(test)
        known = (users >= 0) & (items >= 0)

        def watch(chain: int, predict: Predict) -> None:
            curve = curves.setdefault(chain, [])
            found = predict(users[known], items[known])
            if training.algorithm.samples:
                found = sums[chain] = sums.get(chain, 0) + found
                found = found / (len(curve) + 1)
            curve.append(metrics.rmse(found.clip(*scale) - ratings[known]))

        model = training.fit(trainset, watch)
        predictions.append(predict_pairs(model, *pairs))
        known_rmse.append(metrics.rmse((predictions[0] - ratings)[known]))
        return model

    fits: dict[str, Callable[[ArrayTrainset], SVD]] = {training.title: fit_watched}
    if ranking:
        others = name_trainings(training).items()
        fits |= {name: other.fit for name, other in others if name not in fits}
    scores = evaluate(table, [split], fits, ranking=ranking)
    of_app = is_app_user(test["user_id"].astype("str")).to_numpy()
    lines = [curves[chain] for chain in sorted(curves)]
    return HoldOut(scores, lines, known_rmse[0], ratings, predictions[0], of_app, pairs[split.test])

"""Train on four fifths of the ratings, and look closely at how the rest is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algorithms.training import PLAN, TITLES, make_fit
from ..ratings import is_app_user, rating_scale
from . import metrics
from .protocol import evaluate
from .splits import fixed_fifth, user_hashes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from ..algorithms.training import Parameters, Predict
    from ..spark.session import Cluster
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
        """What a later build needs to compare with: hash and prediction of each, (n,)."""
        import numpy as np

        rows = np.empty(len(self.pairs), dtype=[("pair", "<u8"), ("prediction", "<f8")])
        rows["pair"], rows["prediction"] = self.pairs, self.predictions
        return rows


MOST = 4_000_000
"""Ratings to judge a training by: more would take as long as the training itself, and longer."""
_KINDS = {
    (True, True): ", tuned on these ratings",
    (True, False): " as asked for",
    (False, False): "",
}


def name_trainings(
    algorithm: str, parameters: Parameters, *, tuned: bool
) -> dict[str, tuple[str, Parameters]]:
    """What is to be trained, and the plan's SVD where that is another, by name for people."""
    named = {}
    if (algorithm, parameters) != ("svd", PLAN):
        name = TITLES[algorithm] + _KINDS[algorithm == "svd", tuned]
        named[name] = algorithm, parameters
    return named | {TITLES["svd"]: ("svd", PLAN)}


def sample_users(table: pd.DataFrame) -> pd.DataFrame:
    """All rows of some users, at most `MOST` or those of one user; a smaller table as it is.

    The users are those with the lowest hashes, so that they are much the same from day to day.
    """
    import numpy as np

    if len(table) <= MOST:
        return table
    codes = table["user_id"].cat.codes.to_numpy()
    counts = np.bincount(codes)
    order = np.argsort(user_hashes(table["user_id"].cat.categories), kind="stable")
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[: max(1, int((counts[order].cumsum() <= MOST).sum()))]] = True
    rows = table[chosen[codes]].reset_index(drop=True)
    return rows.assign(user_id=rows["user_id"].cat.remove_unused_categories())


def hold_out(
    table: pd.DataFrame,
    algorithm: str,
    parameters: Parameters,
    seed: int,
    *,
    tuned: bool = False,
    ranking: bool = True,
    cluster: Cluster | None = None,
) -> HoldOut:
    """Train on a ratings table but for a fifth (see `splits.fixed_fifth`), and measure on that.

    Of a table of over `MOST` ratings, on those of as many users as have so many together.

    Args:
        table: enough ratings that a fifth of them is some.
        algorithm: see `training.TITLES`.
        parameters: of the training.
        seed: of the training.
        tuned: whether the parameters were chosen by their error on these ratings.
        ranking: whether to measure rankings, and the plan's SVD beside another training.
        cluster: of the training, where it is `als`.
    """
    from ..algorithms.svd import predict_pairs

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
            if algorithm == "bayesian":
                found = sums[chain] = sums.get(chain, 0) + found
                found = found / (len(curve) + 1)
            curve.append(metrics.rmse(found.clip(*scale) - ratings[known]))

        model = make_fit(algorithm, parameters, seed, watch, cluster=cluster)(trainset)
        predictions.append(predict_pairs(model, *pairs))
        known_rmse.append(metrics.rmse((predictions[0] - ratings)[known]))
        return model

    named = name_trainings(algorithm, parameters, tuned=tuned)
    fits = {name: make_fit(*training, seed, cluster=cluster) for name, training in named.items()}
    fits[next(iter(named))] = fit_watched
    if not ranking:
        fits = dict([next(iter(fits.items()))])
    scores = evaluate(table, [split], fits, ranking=ranking)
    of_app = is_app_user(test["user_id"].astype("str")).to_numpy()
    lines = [curves[chain] for chain in sorted(curves)]
    return HoldOut(scores, lines, known_rmse[0], ratings, predictions[0], of_app, pairs[split.test])

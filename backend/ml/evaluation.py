"""How well a model predicts ratings it has not seen, beside simple baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .progress import progress_bar
from .ratings import rating_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from .trainset import ArrayTrainset


@dataclass(frozen=True)
class Score:
    """Errors of one model over all folds, in stars."""

    model: str
    rmse: float
    """Root of the mean squared error: mean over the folds."""
    mae: float
    """Mean absolute error: mean over the folds."""


def cross_validate(
    table: pd.DataFrame, fit: Callable[[ArrayTrainset], SVD], folds: int, seed: int
) -> list[Score]:
    """k-fold cross-validation over ratings: each fold is predicted from the others.

    Args:
        table: a ratings table.
        fit: trains the model.
        folds: from 2 to the number of ratings.
        seed: of the shuffle; the folds are those of Surprise's `KFold(folds, random_state=seed)`.

    Returns:
        The model, then two baselines on the same folds: user and item biases, and the global mean.
    """
    import numpy as np
    import pandas as pd

    from .svd import predict_pairs
    from .trainset import make_trainset

    scale = rating_scale(table["rating"])
    errors: dict[str, list[tuple[float, float]]] = {}
    with progress_bar("cross-validation", " folds", folds) as bar:
        for train, test in k_folds(len(table), folds, seed):
            trainset = make_trainset(table.iloc[train], scale)
            held_out = table.iloc[test]
            pairs = (
                pd.Index(trainset.raw_users()).get_indexer(held_out["user_id"].astype("object")),
                pd.Index(trainset.raw_items()).get_indexer(held_out["movie_id"]),
            )
            model = fit(trainset)
            predictions = {"SVD": predict_pairs(model, *pairs)}
            model.bu, model.bi = fit_biases(trainset)
            model.pu[:] = 0  # what is left of the model is its biases
            predictions["user and item biases"] = predict_pairs(model, *pairs)
            predictions["global mean"] = np.full(len(test), trainset.global_mean)
            truth = held_out["rating"].to_numpy()
            for name, predicted in predictions.items():
                off = predicted - truth
                rmse, mae = float(np.sqrt(np.mean(off**2))), float(np.mean(np.abs(off)))
                errors.setdefault(name, []).append((rmse, mae))
            bar.update()
    return [Score(name, *np.mean(pairs, axis=0)) for name, pairs in errors.items()]


def fit_biases(
    trainset: ArrayTrainset,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """User and item biases by regularised alternating least squares.

    The method and its constants are those of Surprise's BaselineOnly (Koren 2010, section 2.1):
    ten rounds, 10 added to an item's count of ratings and 15 to a user's.

    Returns:
        bu (users,) and bi (items,).
    """
    import numpy as np

    rows = trainset.by_user
    users = np.repeat(np.arange(trainset.n_users), np.diff(rows.starts))
    rest = rows.ratings.astype(np.float64) - trainset.global_mean
    user_weights = 15 + np.bincount(users, minlength=trainset.n_users)
    item_weights = 10 + np.bincount(rows.others, minlength=trainset.n_items)
    bu = np.zeros(trainset.n_users)
    for _ in range(10):
        bi = np.bincount(rows.others, rest - bu[users], trainset.n_items) / item_weights
        bu = np.bincount(users, rest - bi[rows.others], trainset.n_users) / user_weights
    return bu, bi


def k_folds(
    count: int, folds: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Row numbers to train on and to test on, fold after fold."""
    import numpy as np

    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    ends = np.cumsum([count // folds + (fold < count % folds) for fold in range(folds)])
    for start, end in zip([0, *ends], ends, strict=False):
        yield np.concatenate([order[:start], order[end:]]), order[start:end]

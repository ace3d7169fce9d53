"""How well a model predicts ratings it has not seen, beside simple baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from surprise.dataset import DatasetAutoFolds


@dataclass(frozen=True)
class Score:
    """Errors of one model over all folds, in stars."""

    model: str
    rmse: float
    """Root of the mean squared error: mean over the folds."""
    mae: float
    """Mean absolute error: mean over the folds."""


def cross_validate(
    data: DatasetAutoFolds, make_svd: Callable[[], Any], folds: int, seed: int
) -> list[Score]:
    """k-fold cross-validation over ratings: each fold is predicted from the others.

    Args:
        data: the ratings.
        make_svd: makes the untrained model.
        folds: at least 2.
        seed: of the shuffle.

    Returns:
        The model, then two baselines on the same folds: user and item biases (Koren 2010, by
        alternating least squares; Surprise's BaselineOnly with its defaults) and the global mean.
    """
    import numpy as np
    from surprise import BaselineOnly, accuracy
    from surprise.model_selection import KFold

    models: dict[str, Callable[[], Any]] = {
        "SVD": make_svd,
        "user and item biases": lambda: BaselineOnly(verbose=False),
        "global mean": _make_global_mean,
    }
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    with progress_bar("cross-validation", " fits", folds * len(models)) as bar:
        for trainset, testset in KFold(n_splits=folds, random_state=seed).split(data):
            for name, make in models.items():
                predictions = make().fit(trainset).test(testset)
                errors[name].append(
                    (
                        accuracy.rmse(predictions, verbose=False),
                        accuracy.mae(predictions, verbose=False),
                    )
                )
                bar.update()
    return [Score(name, *np.mean(pairs, axis=0)) for name, pairs in errors.items()]


def _make_global_mean() -> Any:
    """A Surprise algorithm that predicts the training set's mean rating for everyone."""
    from surprise import AlgoBase

    class GlobalMean(AlgoBase):  # type: ignore[misc]
        def estimate(self, *_: object) -> float:
            return float(self.trainset.global_mean)

    return GlobalMean()

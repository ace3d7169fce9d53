"""What user and item biases alone predict: the least that a model has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..algorithms.baselines import fit_biases
from ..algorithms.svd import predict_pairs
from ..surprise_classes import SVD, AlgoBase
from ..trainset import make_trainset
from . import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset
    from .splits import Split


def without_factors(
    trainset: ArrayTrainset, bu: NDArray[np.float64], bi: NDArray[np.float64]
) -> SVD:
    """Return the model of these biases, (users,) and (films,), and nothing else."""
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
    whole = without_factors(trainset, *fit_biases(trainset))
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
    smaller = without_factors(trainset, bu, bi)
    test = table.iloc[split.test]
    pairs, ratings = trainset.find(test), test["rating"].to_numpy()
    errors = [metrics.rmse(predict_pairs(model, *pairs) - ratings) for model in (whole, smaller)]
    return whole if errors[0] <= errors[1] else smaller

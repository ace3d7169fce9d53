"""Train ALS on the residuals of biases, in NumPy, to compare the training on a cluster with."""

from __future__ import annotations

import numpy as np
from surprise import SVD, AlgoBase

from ml.collaborative.spark.als import regularisation
from ml.collaborative.spark.ranking import Size
from ml.collaborative.trainset import ArrayTrainset, Rows


def fit_local_als(
    trainset: ArrayTrainset,
    *,
    factors: int,
    iterations: int,
    reg: float,
    item_bias_reg: float,
    user_bias_reg: float,
    seed: int,
) -> SVD:
    """Return the model of `spark.als.fit_als`, except for the draw of the first factors."""
    reg = regularisation(reg, Size(trainset.n_ratings, trainset.n_users, trainset.n_items))
    by_user, by_item = trainset.by_user, trainset.by_item
    mean = trainset.global_mean
    model = SVD(n_factors=factors)
    AlgoBase.fit(model, trainset)
    bi = _sums(by_item, by_item.ratings - mean) / (item_bias_reg + np.diff(by_item.starts))
    left = by_user.ratings - mean - bi[by_user.others]
    bu = _sums(by_user, left) / (user_bias_reg + np.diff(by_user.starts))
    users = by_user._replace(ratings=left - np.repeat(bu, np.diff(by_user.starts)))
    left = by_item.ratings - mean - np.repeat(bi, np.diff(by_item.starts))
    items = by_item._replace(ratings=left - bu[by_item.others])
    pu = np.random.default_rng(seed).normal(size=(trainset.n_users, factors))
    pu /= np.linalg.norm(pu, axis=1, keepdims=True)
    for _ in range(iterations):
        qi = _solve(items, pu, reg)
        pu = _solve(users, qi, reg)
    model.bu, model.bi, model.pu, model.qi = bu, bi, pu, qi
    return model


def _sums(rows: Rows, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values.astype(np.float64), rows.starts[:-1])


def _solve(rows: Rows, others: np.ndarray, reg: float) -> np.ndarray:
    """Solve a ridge regression for each row, weighted by its ratings (Zhou et al. 2008)."""
    found = np.empty((len(rows.starts) - 1, others.shape[1]))
    eye = np.eye(others.shape[1])
    for row, (start, end) in enumerate(
        zip(rows.starts[:-1].tolist(), rows.starts[1:].tolist(), strict=True)
    ):
        z = others[rows.others[start:end]]
        weight = reg * (end - start)
        found[row] = np.linalg.solve(z.T @ z + weight * eye, z.T @ rows.ratings[start:end])
    return found

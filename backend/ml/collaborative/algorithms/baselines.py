"""Simple predictions to hold models against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset


def fit_biases(
    trainset: ArrayTrainset,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit user and item biases by regularised alternating least squares.

    The method and its constants are those of Surprise's BaselineOnly (Koren 2010, section 2.1):
    ten rounds, 10 added to an item's count of ratings and 15 to a user's.

    Returns:
        bu (users,) and bi (items,).
    """
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

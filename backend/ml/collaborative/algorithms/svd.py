"""SGD training into a surprise.SVD."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GateError
from ..progress import progress_bar
from ..surprise_classes import SVD, AlgoBase
from .fold_in import multiply_pairs
from .loops.parallel_sgd import in_parallel
from .loops.sgd import aligned_rows, compiled_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset, Rows
    from .training import Watch

PARALLEL_FROM = 1_000_000
"""Ratings from which on several threads are worth their shorter rows (benchmarks/RESULTS.md)."""

DIVERGED = (
    "training diverged: errors are not finite. Nothing was published; lower --lr or raise --reg"
)


def fit_svd(
    trainset: ArrayTrainset,
    *,
    factors: int,
    epochs: int,
    lr: float,
    reg: float,
    seed: int,
    parallel: bool | None = None,
    watch: Watch | None = None,
) -> SVD:
    """Train scikit-surprise's SVD on arrays.

    In sequence, the steps, their order and the initial factors are Surprise's, so bu, bi, pu and qi
    agree with `SVD(..., random_state=seed).fit(trainset)` up to rounding (1e-9 on ML-100K, by
    test). In parallel the steps come in another order: the RMSE is within 0.001 of that in
    sequence, and the number of threads has no part in the result (see `parallel_sgd`).

    Args:
        trainset: at least one rating.
        factors: length of the film and user vectors.
        epochs: passes over the ratings.
        lr: learning rate of all parameters.
        reg: regularisation of all parameters.
        seed: of the initial factors, drawn from N(0, 0.1).
        parallel: whether to use several threads; by default from `PARALLEL_FROM` ratings on.
        watch: called after each epoch.

    Raises:
        InputError: ids out of range, or ratings that are not finite.
        GateError: training diverged.
    """
    trainset.check()
    model = SVD(n_factors=factors, n_epochs=epochs, lr_all=lr, reg_all=reg, random_state=seed)
    AlgoBase.fit(model, trainset)
    rng = np.random.RandomState(seed)
    model.bu = np.zeros(trainset.n_users)
    model.bi = np.zeros(trainset.n_items)
    model.pu, model.qi = (
        aligned_rows(rng.normal(model.init_mean, model.init_std_dev, (count, factors)))
        for count in (trainset.n_users, trainset.n_items)
    )
    rows = trainset.by_user
    epoch = compiled_epoch(rows.ratings.dtype.name)

    def step(
        part: Rows, bu: NDArray[Any], bi: NDArray[Any], pu: NDArray[Any], qi: NDArray[Any]
    ) -> float:
        return epoch(*part, trainset.global_mean, bu, bi, pu, qi, lr, reg)

    if parallel is None:
        parallel = trainset.n_ratings >= PARALLEL_FROM
    run = in_parallel if parallel else _in_sequence
    arrays = model.bu, model.bi, model.pu, model.qi
    with progress_bar("training", " ratings", epochs * trainset.n_ratings) as bar:
        for squares in run(step, rows, arrays, epochs):
            if not math.isfinite(squares):
                raise GateError(DIVERGED)
            bar.set_postfix_str(f"RMSE {math.sqrt(squares / trainset.n_ratings):.4f}")
            bar.update(trainset.n_ratings)
            if watch:
                watch(0, partial(predict_pairs, model))
    if not all(np.isfinite(array).all() for array in arrays):  # by the last epoch's own steps
        raise GateError(DIVERGED)
    return model


def _in_sequence(
    step: Callable[..., float], rows: Rows, arrays: tuple[NDArray[np.float64], ...], epochs: int
) -> Iterator[float]:
    """Yield the sum of squared errors of epoch after epoch."""
    for _ in range(epochs):
        yield step(rows, *arrays)


def predict_pairs(
    model: SVD, users: NDArray[np.integer], items: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return what `model.predict(user, item).est` gives for each pair, clipped to the rating scale.

    Args:
        model: a trained, biased SVD.
        users: inner ids, (n,); -1 where the model does not know the user.
        items: inner ids, (n,); -1 where the model does not know the item.
    """
    known_user, known_item = users >= 0, items >= 0
    estimates = np.full(len(users), model.trainset.global_mean)
    estimates[known_user] += model.bu[users[known_user]]
    estimates[known_item] += model.bi[items[known_item]]
    both = known_user & known_item
    estimates[both] += multiply_pairs(model.pu, users[both], model.qi, items[both])
    low, high = model.trainset.rating_scale
    return estimates.clip(low, high)

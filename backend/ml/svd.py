"""SGD training into a surprise.SVD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .errors import GateError
from .progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD

    from .trainset import ArrayTrainset


def fit_svd(
    trainset: ArrayTrainset, *, factors: int, epochs: int, lr: float, reg: float, seed: int
) -> SVD:
    """Train scikit-surprise's SVD on arrays, to the same numbers as its own `fit`.

    The steps, their order and the initial factors are Surprise's, so bu, bi, pu and qi agree with
    `SVD(..., random_state=seed).fit(trainset)` up to rounding (1e-9 on ML-100K, by test).

    Args:
        trainset: at least one rating.
        factors: length of the film and user vectors.
        epochs: passes over the ratings.
        lr: learning rate of all parameters.
        reg: regularisation of all parameters.
        seed: of the initial factors, drawn from N(0, 0.1).

    Raises:
        GateError: training diverged.
    """
    import numpy as np
    from surprise import SVD, AlgoBase

    from .sgd import compiled_epoch

    model = SVD(n_factors=factors, n_epochs=epochs, lr_all=lr, reg_all=reg, random_state=seed)
    AlgoBase.fit(model, trainset)
    rng = np.random.RandomState(seed)
    model.bu = np.zeros(trainset.n_users)
    model.bi = np.zeros(trainset.n_items)
    model.pu = rng.normal(model.init_mean, model.init_std_dev, (trainset.n_users, factors))
    model.qi = rng.normal(model.init_mean, model.init_std_dev, (trainset.n_items, factors))
    rows = trainset.by_user
    run_epoch = compiled_epoch(rows.ratings.dtype.name)
    with progress_bar("training", " ratings", epochs * trainset.n_ratings) as bar:
        for _ in range(epochs):
            squares = run_epoch(
                *rows, trainset.global_mean, model.bu, model.bi, model.pu, model.qi, lr, reg
            )
            if not math.isfinite(squares):
                raise GateError(
                    "training diverged: errors are not finite. Nothing was published; "
                    "lower --lr or raise --reg"
                )
            bar.set_postfix_str(f"RMSE {math.sqrt(squares / trainset.n_ratings):.4f}")
            bar.update(trainset.n_ratings)
    return model


def predict_pairs(
    model: SVD, users: NDArray[np.integer], items: NDArray[np.integer]
) -> NDArray[np.float64]:
    """What `model.predict(user, item).est` gives for each pair, clipped to the rating scale.

    Args:
        model: a trained, biased SVD.
        users: inner ids, (n,); -1 where the model does not know the user.
        items: inner ids, (n,); -1 where the model does not know the item.
    """
    import numpy as np

    known_user, known_item = users >= 0, items >= 0
    estimates = np.full(len(users), model.trainset.global_mean)
    estimates[known_user] += model.bu[users[known_user]]
    estimates[known_item] += model.bi[items[known_item]]
    both = known_user & known_item
    estimates[both] += np.einsum("nf,nf->n", model.pu[users[both]], model.qi[items[both]])
    low, high = model.trainset.rating_scale
    return estimates.clip(low, high)

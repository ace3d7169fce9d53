"""The algorithms by name, and their parameters."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..ratings import check_ratings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from ..spark.session import Cluster
    from ..trainset import ArrayTrainset

    Predict = Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.float64]]
    """Predictions (n,) of pairs of inner user and item ids, (n,) each, not clipped or clipped."""
    Watch = Callable[[int, Predict], None]
    """Called after each epoch of the SVD, with 0 and the model so far; and of the Bayesian training
    with the chain's number and each of the samples whose mean is to be the model."""

logger = logging.getLogger(__name__)

ALGORITHMS = {"svd": "SVD", "bayesian": "Bayesian"}
"""What people call them, by name."""
ALS = "als"
"""The algorithm of --engine spark."""
TITLES = ALGORITHMS | {ALS: "ALS"}
"""What people call all of them."""


@dataclass(frozen=True)
class Parameters:
    """What a training takes besides the seed; the defaults are the plan's."""

    factors: int = 100
    """Length of the film and user vectors."""
    epochs: int = 20
    """Passes over the ratings, of `svd` as the two below."""
    lr: float = 0.005
    """Learning rate of all parameters."""
    reg: float = 0.02
    """Regularisation of all parameters."""

    def as_flags(self) -> str:
        """As one would type them."""
        return " ".join(f"--{name} {value:g}" for name, value in asdict(self).items())


PLAN = Parameters()
DEFAULTS = {"svd": PLAN, "bayesian": PLAN, ALS: Parameters(factors=20, epochs=10, reg=0.15)}
"""By algorithm."""


def make_fit(
    algorithm: str,
    parameters: Parameters,
    seed: int,
    watch: Watch | None = None,
    *,
    cluster: Cluster | None = None,
) -> Callable[[ArrayTrainset], SVD]:
    """What trains a model on a trainset; `als` on a cluster, which nobody watches.

    Raises:
        UsageError: there is no such algorithm.
    """
    if algorithm == ALS:
        from ..spark.als import fit_als

        return partial(fit_als, parameters=parameters, seed=seed, cluster=cluster)
    if algorithm == "svd":
        from .svd import fit_svd

        return partial(fit_svd, **asdict(parameters), seed=seed, watch=watch)
    if algorithm == "bayesian":
        from .bayesian import fit_bayesian

        return partial(fit_bayesian, factors=parameters.factors, seed=seed, watch=watch)
    raise UsageError(f"algorithm {algorithm!r} is none of {', '.join(ALGORITHMS)}")


def train(
    table: pd.DataFrame,
    algorithm: str,
    parameters: Parameters,
    seed: int,
    *,
    cluster: Cluster | None = None,
) -> tuple[SVD, ArrayTrainset]:
    """A model of every row of a ratings table, and the trainset it was trained on.

    Raises:
        InputError: no ratings, or not a ratings table.
        GateError: training diverged.
    """
    from ..trainset import make_trainset

    fit = make_fit(algorithm, parameters, seed, cluster=cluster)
    trainset = make_trainset(check_ratings(table))
    low, high = trainset.rating_scale
    logger.info("training on %s ratings, scale %g to %g", f"{trainset.n_ratings:,}", low, high)
    return fit(trainset), trainset


def describe_parameters(algorithm: str, parameters: Parameters) -> dict[str, float]:
    """Every parameter of a training but the seed, by name."""
    if algorithm == "svd":
        return asdict(parameters)
    if algorithm == ALS:
        from ..spark.als import describe_als

        return describe_als(parameters)
    from . import bayesian

    return {
        "factors": parameters.factors,
        "rank": bayesian.RANK,
        "chains": bayesian.CHAINS,
        "sweeps": bayesian.SWEEPS,
        "burn_in": bayesian.BURN_IN,
    }

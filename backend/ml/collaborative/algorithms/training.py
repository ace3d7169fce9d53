"""The algorithms by name, their parameters, and a training: an algorithm with both and a seed."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..process import give_back_memory
from ..ratings import check_ratings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from ..trainset import ArrayTrainset

    Predict = Callable[[NDArray[np.integer], NDArray[np.integer]], NDArray[np.float64]]
    """Returns predictions (n,) of pairs of inner user and item ids, (n,) each, clipped or not."""
    Watch = Callable[[int, Predict], None]
    """Called after each epoch of the SVD with 0 and the model so far; by the Bayesian training with
    the number of the chain and each sample of which the model is the mean."""
    Fit = Callable[[ArrayTrainset, "Parameters", int, Watch | None], SVD]
    """Trains a model: trainset, parameters, seed, and what is called meanwhile."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parameters:
    """What a training takes besides the seed; the defaults are the plan's."""

    factors: int = 100
    """Length of the film and user vectors."""
    epochs: int = 20
    """Passes over the ratings."""
    lr: float = 0.005
    """Learning rate of all parameters."""
    reg: float = 0.02
    """Regularisation of all parameters."""

    def as_flags(self) -> str:
        """Return them as one would type them."""
        return " ".join(f"--{name} {value:g}" for name, value in asdict(self).items())


PLAN = Parameters()
AUTO = "auto"
"""In place of an algorithm: all on this machine, of which the best is published."""


@dataclass(frozen=True)
class Algorithm:
    """A way to train a model."""

    name: str
    """As in `--algorithm` and the manifest."""
    title: str
    """For people."""
    defaults: Parameters
    uses: tuple[str, ...]
    """Which of the parameters it reads."""
    fit: Fit
    describe: Callable[[Parameters, int], dict[str, float]]
    """Returns every number that decides the result, but the seed, by name: of parameters and the
    number of ratings."""
    samples: bool = False
    """Whether the model is the mean of samples, rather than the last of many epochs."""


@dataclass(frozen=True)
class Training:
    """An algorithm with its parameters and seed."""

    algorithm: Algorithm
    parameters: Parameters
    seed: int = 0

    @property
    def title(self) -> str:
        """For people: the algorithm, and whether its parameters were chosen by hand."""
        default = self.parameters == self.algorithm.defaults
        return self.algorithm.title + ("" if default else " as asked for")

    def fit(self, trainset: ArrayTrainset, watch: Watch | None = None) -> SVD:
        """Train a model.

        Raises:
            InputError: the trainset has no ratings, or invalid ones.
            GateError: training diverged.
        """
        return self.algorithm.fit(trainset, self.parameters, self.seed, watch)

    def as_keywords(self) -> dict[str, Any]:
        """Return it as the keyword arguments of the plan's `train_svd_model`."""
        used = {name: getattr(self.parameters, name) for name in self.algorithm.uses}
        return {"algorithm": self.algorithm, "seed": self.seed, **used}

    def describe(self, ratings: int) -> dict[str, float]:
        """Return every number that decides the result, but the seed, by name.

        Args:
            ratings: how many it is of.
        """
        return self.algorithm.describe(self.parameters, ratings)


def _fit_svd(
    trainset: ArrayTrainset, parameters: Parameters, seed: int, watch: Watch | None
) -> SVD:
    from .svd import fit_svd

    return fit_svd(trainset, **asdict(parameters), seed=seed, watch=watch)


def _fit_bayesian(
    trainset: ArrayTrainset, parameters: Parameters, seed: int, watch: Watch | None
) -> SVD:
    from .bayesian import fit_bayesian

    return fit_bayesian(trainset, factors=parameters.factors, seed=seed, watch=watch)


def _describe_svd(parameters: Parameters, ratings: int) -> dict[str, float]:  # noqa: ARG001
    return asdict(parameters)


def _describe_bayesian(parameters: Parameters, ratings: int) -> dict[str, float]:
    from .bayesian import RANK, schedule_for

    drawn = schedule_for(ratings)._asdict()
    return {"factors": parameters.factors, "rank": RANK, **drawn}


ALGORITHMS: Mapping[str, Algorithm] = {
    found.name: found
    for found in (
        Algorithm("svd", "SVD", PLAN, ("factors", "epochs", "lr", "reg"), _fit_svd, _describe_svd),
        Algorithm(
            "bayesian",
            "Bayesian",
            PLAN,
            ("factors",),
            _fit_bayesian,
            _describe_bayesian,
            samples=True,
        ),
    )
}
"""By name. ALS, which needs a Spark cluster, is `spark.ALS`."""


def find_algorithm(name: str) -> Algorithm:
    """Return the algorithm of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in ALGORITHMS:
        raise UsageError(f"found algorithm {name!r}, expected one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def make_training(algorithm: Algorithm, seed: int = 0, **asked: float | None) -> Training:
    """Return a training with the parameters that were asked for, else the algorithm's defaults.

    Args:
        algorithm: how to train.
        seed: of what is drawn at random.
        **asked: parameters by name; None where the default will do.

    Raises:
        UsageError: the algorithm does not use a parameter that was asked for.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given:
        if name not in algorithm.uses:
            raise UsageError(
                f"--{name} has no meaning for {algorithm.title}, which takes "
                f"{', '.join(f'--{use}' for use in algorithm.uses)}: leave it out"
            )
    return Training(algorithm, replace(algorithm.defaults, **given), seed)  # type: ignore[arg-type]


def train(table: pd.DataFrame, training: Training) -> tuple[SVD, ArrayTrainset]:
    """Train a model on every row of a ratings table.

    Returns:
        The model, and the trainset it was trained on.

    Raises:
        InputError: there are no ratings, or it is not a ratings table.
        GateError: training diverged.
    """
    from ..trainset import make_trainset

    trainset = make_trainset(check_ratings(table))
    low, high = trainset.rating_scale
    logger.info("training on %s ratings, scale %g to %g", f"{trainset.n_ratings:,}", low, high)
    model = training.fit(trainset)
    give_back_memory()
    return model, trainset

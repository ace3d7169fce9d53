"""ALS as one of the algorithms; it trains on a Spark cluster."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..algorithms.training import Algorithm, Parameters, Training
from ..errors import UsageError

if TYPE_CHECKING:
    from surprise import SVD

    from ..algorithms.training import Watch
    from ..trainset import ArrayTrainset
    from .session import Cluster


def _fit_nowhere(*_: object) -> SVD:
    raise UsageError("algorithm 'als' needs a Spark cluster: say --spark")


def _fit(
    cluster: Cluster,
    folded: bool,
    trainset: ArrayTrainset,
    parameters: Parameters,
    seed: int,
    _: Watch | None,
) -> SVD:
    """Train on the cluster; it does not report its epochs."""
    from .als import fit_als
    from .item_only import fit_folded

    if folded:
        return fit_folded(cluster, trainset, parameters, seed)
    return fit_als(trainset, parameters=parameters, seed=seed, cluster=cluster)


def _describe(parameters: Parameters, ratings: int) -> dict[str, float]:  # noqa: ARG001
    from .als import describe_als

    return describe_als(parameters)


ALS = Algorithm(
    "als", "ALS", Parameters(factors=20, epochs=10, reg=0.15), ("factors", "epochs", "reg"),
    _fit_nowhere, _describe,
)  # fmt: skip
"""Its parameters and defaults; to train, it needs a cluster, see `on_cluster`."""


def on_cluster(training: Training, cluster: Cluster, *, folded: bool = False) -> Training:
    """Return the same training, bound to a cluster on which it is done.

    Args:
        training: of ALS.
        cluster: where to train.
        folded: have folded-in users in the model, as an item-only release serves them.
    """
    algorithm = replace(training.algorithm, fit=partial(_fit, cluster, folded))
    return replace(training, algorithm=algorithm)

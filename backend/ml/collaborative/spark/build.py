"""What a build does on a Spark cluster in place of this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ratings import GIVEN
from .failures import as_source_error, without_secrets
from .item_only import fit_items
from .ratings import read_given

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame
    from surprise import SVD, Trainset

    from ..algorithms.training import Training
    from .ratings import Given
    from .session import Cluster

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """The ratings that --ratings names."""

    table: pd.DataFrame
    """All of them; for an item-only release a sample, which the training is judged on."""
    whole: Given | None
    """All of them, on the cluster, for an item-only release; None for a full one."""


def load_ratings(cluster: Cluster, source: str, *, item_only: bool, factors: int) -> Loaded:
    """Read the ratings that --ratings names.

    Args:
        cluster: where to read.
        source: see `ratings.read_given`.
        item_only: make the release item-only even if a full one would be small enough.
        factors: of the training; with users, they decide how large a full release is.

    Raises:
        InputError, SourceError: see `ratings.read_given`.
    """
    given = read_given(cluster, source)
    with as_source_error():
        if not item_only and given.fits_full_release(factors):
            return Loaded(given.collect(), None)
        logger.info("this release is item-only: users are folded in when it is served")
        return Loaded(given.sample(), given)


def train_items(
    cluster: Cluster, given: Given, training: Training
) -> tuple[SVD, Trainset, DataFrame]:
    """Train an item-only model, see `item_only.fit_items`.

    Returns:
        The model, its trainset, and on the cluster user_id (string), bias (double) and factors
        (array of float) of all users.
    """
    svd, trainset, fitted = fit_items(
        cluster, given.ratings, given.size, given.scale, given.movie_ids,
        training.parameters, training.seed, given.fingerprint,
    )  # fmt: skip
    users = given.user_ids.join(fitted.users, "user").select("user_id", "bias", "factors")
    return svd, trainset, users


def write_users(users: DataFrame, place: str, build_id: str) -> None:
    """Write a release's users as Parquet into the folder `build_id` in `place`.

    Raises:
        SourceError: the cluster failed.
    """
    path = f"{place.rstrip('/')}/{build_id}"
    with as_source_error():
        users.write.parquet(path)
    logger.info("users' vectors are in %s", without_secrets(path))


def describe_whole(given: Given) -> dict[str, Any]:
    """Return the manifest's part `data` for ratings that stay on the cluster."""
    films = len(given.movie_ids)
    source = {
        "name": GIVEN, "rows": given.rows, "dropped": given.dropped,
        "kept": given.counts["ratings"], "users": given.counts["users"], "films": films,
    }  # fmt: skip
    return {**given.counts, "films": films, "is_sample": False, "sources": [source]}


def spark_version() -> dict[str, str]:
    """Return the version of pyspark by package name, for the manifest."""
    import pyspark

    return {"pyspark": pyspark.__version__}

"""What a build does on a Spark cluster in place of this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ratings import GIVEN
from .als import failures, fit_items
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
    """All of them; for an item-only release a sample, to judge the training by."""
    whole: Given | None
    """For an item-only release: all of them, on the cluster."""


def load_ratings(
    cluster: Cluster, source: str, films: frozenset[int] | None, *, item_only: bool, factors: int
) -> Loaded:
    """Read the ratings that --ratings names.

    Args:
        cluster: where.
        source: see `ratings.read_given`.
        films: TMDB ids to keep; None keeps all.
        item_only: whether the release is to be item-only however few users there are.
        factors: of the training; the more, the fewer users make a release too large.

    Raises:
        InputError, SourceError: see `ratings.read_given`.
    """
    given = read_given(cluster, source, films)
    with failures():
        if not item_only and given.is_usual(factors):
            return Loaded(given.collect(), None)
        logger.info("an item-only release: users are to be folded in")
        return Loaded(given.sample(), given)


def train_items(
    cluster: Cluster, given: Given, training: Training
) -> tuple[SVD, Trainset, DataFrame]:
    """Train an item-only model, see `als.fit_items`.

    Returns:
        The model, its trainset, and user_id, bias and factors of all users, on the cluster.
    """
    svd, trainset, fitted = fit_items(
        cluster, given.ratings, given.counts["ratings"], given.scale, given.movie_ids,
        training.parameters, training.seed, given.fingerprint,
    )  # fmt: skip
    users = given.user_ids.join(fitted.users, "user").select("user_id", "bias", "factors")
    return svd, trainset, users


def write_users(users: DataFrame, place: str, build_id: str) -> None:
    """Write users' vectors of a release as Parquet, in a folder of its name in `place`."""
    path = f"{place.rstrip('/')}/{build_id}"
    with failures():
        users.write.parquet(path)
    logger.info("users' vectors are in %s", path)


def describe_whole(given: Given) -> dict[str, Any]:
    """Return the manifest's part `data` of ratings that stay on the cluster."""
    films = len(given.movie_ids)
    source = {
        "name": GIVEN, "rows": given.rows, "dropped": given.dropped,
        "kept": given.counts["ratings"], "users": given.counts["users"], "films": films,
    }  # fmt: skip
    return {**given.counts, "films": films, "is_sample": False, "sources": [source]}


def spark_version() -> dict[str, str]:
    """Return the version of pyspark, by its name."""
    import pyspark

    return {"pyspark": pyspark.__version__}

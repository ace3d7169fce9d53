"""What a build does otherwise where its ratings are on a Spark cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..algorithms.training import ALS
from ..datasets.movielens import DEFAULT_DATASET
from ..errors import UsageError

if TYPE_CHECKING:
    import argparse

    from pyspark.sql import DataFrame
    from surprise import SVD, Trainset

    from ..algorithms.training import Parameters
    from ..datasets.movielens import MappedRatings
    from .ratings import Given
    from .session import Cluster

FLAGS = (
    "master", "ratings", "films_only", "user_vectors", "checkpoint_dir", "partitions",
    "storage_level",
)  # fmt: skip
"""Of --engine spark alone, as they are in the parsed arguments."""
FILMS_ONLY = "films only"
"""What the manifest calls a release without users."""

logger = logging.getLogger(__name__)


def check_flags(args: argparse.Namespace) -> None:
    """Settle the algorithm, once the flags of Spark go together.

    Raises:
        UsageError: they do not.
    """
    if args.engine == "spark":
        if args.algorithm:
            raise UsageError(
                f"--engine spark trains by ALS: leave --algorithm {args.algorithm} out, "
                "or take --engine local"
            )
        if args.report:
            raise UsageError("--report is of --engine local: leave it out with --engine spark")
        for name in ("lr", "tune"):
            if getattr(args, name) is not None:
                raise UsageError(f"--engine spark takes no --{name}: leave it out")
        for name in ("cv", "evaluate"):
            if args.films_only and getattr(args, name):
                raise UsageError(
                    f"--{name} is of a release of all users: leave it out with --films-only"
                )
        if args.ratings and args.dataset != DEFAULT_DATASET:
            raise UsageError(f"--ratings is in place of --dataset {args.dataset}: leave one out")
        if args.films_only and not args.ratings:
            raise UsageError("--films-only is of ratings on the cluster: name them by --ratings")
        if args.user_vectors and not args.ratings:
            raise UsageError("--user-vectors is of ratings on the cluster: name them by --ratings")
    else:
        for name in FLAGS:
            if getattr(args, name):
                raise UsageError(f"--{name.replace('_', '-')} is of --engine spark")
    args.algorithm = args.algorithm or (ALS if args.engine == "spark" else "svd")


def read_ratings(
    cluster: Cluster,
    args: argparse.Namespace,
    parameters: Parameters,
    catalog: frozenset[int] | None,
) -> tuple[MappedRatings, Given | None]:
    """The ratings of --ratings.

    Returns:
        All of them, and None; or, where they are for a release of films alone, a sample to judge
        the training by, and what is on the cluster.

    Raises:
        InputError, SourceError: see `spark_ratings.read_given`.
        UsageError: flags that do not go with a release of films alone, or are of it alone.
    """
    from .als import failures
    from .ratings import read_given

    given = read_given(cluster, args.ratings, catalog)
    with failures():
        if not args.films_only and given.is_usual(parameters.factors):
            if args.user_vectors:
                raise UsageError(
                    "--user-vectors is of a release of films alone, and this one has all users: "
                    "leave it out, or say --films-only"
                )
            return given.map_to(given.collect(), catalog), None
        for flag in ("cv", "evaluate"):
            if getattr(args, flag):
                raise UsageError(
                    f"--{flag} is of a release of all users, and this one is of films alone"
                )
        logger.info("a release of films alone: users are to be folded in")
        return given.map_to(given.sample(), catalog), given


def train_films(
    cluster: Cluster, given: Given, seed: int, parameters: Parameters
) -> tuple[SVD, Trainset, DataFrame]:
    """A model of films alone, see `spark.fit_films`; and user_id, bias and factors of all users."""
    from .als import fit_films

    svd, trainset, fitted = fit_films(
        cluster, given.ratings, given.counts["ratings"], given.scale, given.movie_ids, parameters,
        seed, given.fingerprint,
    )  # fmt: skip
    users = given.user_ids.join(fitted.users, "user").select("user_id", "bias", "factors")
    return svd, trainset, users


def write_users(users: DataFrame, place: str, build_id: str) -> None:
    """Users' vectors of a release as Parquet, in a folder of its name in `place`."""
    from .als import failures

    path = f"{place.rstrip('/')}/{build_id}"
    with failures():
        users.write.parquet(path)
    logger.info("users' vectors are in %s", path)


def describe_whole(given: Given) -> dict[str, Any]:
    """The manifest's part `data` of ratings that stay on the cluster."""
    from ..report.summary import GIVEN

    films = len(given.movie_ids)
    source = {
        "name": GIVEN,
        "rows": given.rows,
        "dropped": given.dropped,
        "kept": given.counts["ratings"],
        "users": given.counts["users"],
        "films": films,
    }
    return {**given.counts, "films": films, "is_sample": False, "sources": [source]}


def spark_version(engine: str) -> dict[str, str]:
    """Of pyspark, where it trains."""
    if engine != "spark":
        return {}
    import pyspark

    return {"pyspark": pyspark.__version__}

"""The ratings of --ratings on a Spark cluster, with ids mapped to integers as ALS needs them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import InputError, MlError
from ..evaluation import splits
from ..evaluation.held_out import MAX_RATINGS
from ..ratings import (
    COLUMNS,
    GIVEN,
    HIGHEST,
    LOWEST,
    NOT_APP_PREFIX,
    NOT_IN_CATALOG,
    RATED_AGAIN,
    make_ratings,
    make_source,
    with_sources,
)
from .failures import as_source_error
from .reading import check_rows, open_ratings

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from .session import Cluster

MAX_FULL_RATINGS = 50_000_000
"""Ratings above which a release is item-only: a full one would hold more than 600 MB of them."""
MAX_FULL_NUMBERS = 200_000_000
"""The same for users times factors, that is 1.6 GB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """The ratings of --ratings: the rows on the cluster, and what a build needs to know of them."""

    ratings: DataFrame
    """user (int), item (int), rating (double); each pair once."""
    user_ids: DataFrame
    """user (int), user_id (string)."""
    movie_ids: NDArray[np.int64]
    """TMDB ids by item, ascending, (films,)."""
    rows: int
    """Rows of the source."""
    dropped: dict[str, int]
    """Rows that were left out, by reason."""
    counts: dict[str, int]
    """ratings, users, app_ratings and app_users."""
    scale: tuple[float, float]
    """Lowest and highest rating."""
    fingerprint: str
    """SHA-256 of the ratings' content, whatever their order; see `_fingerprint`."""

    def fits_full_release(
        self, factors: int, max_ratings: int = MAX_FULL_RATINGS, max_numbers: int = MAX_FULL_NUMBERS
    ) -> bool:
        """Return whether a release with all users is small enough to be built and served."""
        ratings, users = self.counts["ratings"], self.counts["users"]
        return ratings <= max_ratings and users * factors <= max_numbers

    def collect(self) -> pd.DataFrame:
        """Return all ratings as a ratings table, in order of user and film."""
        return self._with_source(_to_table(self.ratings, self.user_ids, self.movie_ids))

    def sample(self) -> pd.DataFrame:
        """Return a ratings table of the users that `held_out.sample_users` would choose."""
        if self.counts["ratings"] <= MAX_RATINGS:
            return self.collect()
        users = self.ratings.join(_lowest_users(self), "user", "left_semi")
        return self._with_source(_to_table(users, self.user_ids, self.movie_ids))

    def _with_source(self, table: pd.DataFrame) -> pd.DataFrame:
        return with_sources(table, make_source(GIVEN, self.rows, self.dropped, table))


def read_given(cluster: Cluster, source: str, catalog: Collection[int] | None) -> Given:
    """Read, check and map ratings on the cluster.

    Where a user rated a film several times the highest rating counts, as with the app's own.

    Args:
        cluster: where to read.
        source: a path of Parquet or CSV files (with a header), or a `jdbc:` URL of a database with
            the table `ratings`; columns user_id (of any simple type), movie_id (TMDB) and rating.
        catalog: films to keep; None keeps all.

    Raises:
        InputError: there is nothing at the source, or it has rows that are not valid ratings.
        SourceError: it could not be reached.
    """
    with as_source_error():
        raw = cluster.persist(open_ratings(cluster, source), 0)
        rows = check_rows(raw, source)
        cluster.expect(rows)
        kept = raw
        if catalog is not None:
            films = cluster.session.createDataFrame([(film,) for film in catalog], "movie_id long")
            kept = kept.join(films, "movie_id", "left_semi")
        return _map(cluster, raw, kept, rows, catalog is not None)


def _map(cluster: Cluster, raw: DataFrame, kept: DataFrame, rows: int, in_catalog: bool) -> Given:
    """Keep each pair of user and film once, and number both; `raw` is no longer cached after."""
    from pyspark.sql import functions as F  # noqa: N812

    once = kept.groupBy("user_id", F.col("movie_id").cast("long").alias("movie_id")).agg(
        F.max("rating").alias("rating"), F.count("*").alias("times")
    )
    once = cluster.persist(once, rows)
    once.count()
    raw.unpersist()
    of_app = ~F.col("user_id").startswith(NOT_APP_PREFIX)
    totals = once.agg(
        F.count("*"), F.coalesce(F.sum("times"), F.lit(0)), F.count_if(of_app),
        F.count_if(F.col("rating") % 1 != 0),
        F.coalesce(F.sum(F.xxhash64(*COLUMNS).cast("decimal(38,0)")), F.lit(0)),
    ).first()  # fmt: skip
    ratings, in_films, app_ratings, halves, hashes = map(int, totals or ())
    if not ratings:
        raise InputError(
            "no rating is of a film in the catalog: check the catalog, or use --catalog all"
        )
    films = once.select("movie_id").distinct().sort("movie_id").toArrow()["movie_id"].to_numpy()
    items = cluster.session.createDataFrame(
        list(zip(films.tolist(), range(len(films)), strict=True)), "movie_id long, item int"
    )
    user_ids = _number(cluster, once.select("user_id").distinct(), rows)
    users, app_users = map(int, user_ids.agg(F.count("*"), F.count_if(of_app)).first() or ())
    mapped = once.join(F.broadcast(items), "movie_id").join(user_ids, "user_id")
    dropped = {
        NOT_IN_CATALOG: rows - in_films if in_catalog else 0,
        RATED_AGAIN: in_films - ratings,
    }
    logger.info("%s ratings by %s users of %s films", f"{ratings:,}", f"{users:,}", len(films))
    return Given(
        mapped.select("user", "item", "rating"), user_ids, films, rows,
        {reason: count for reason, count in dropped.items() if count},
        {"ratings": ratings, "users": users, "app_ratings": app_ratings, "app_users": app_users},
        (LOWEST if halves else 1.0, HIGHEST), _fingerprint(ratings, hashes),
    )  # fmt: skip


def _fingerprint(ratings: int, hashes: int) -> str:
    """Return SHA-256 of the number of ratings and the sum of their rows' xxHash64, in decimal."""
    return hashlib.sha256(f"{ratings}\n{hashes}\n".encode()).hexdigest()


def _number(cluster: Cluster, ids: DataFrame, rows: int) -> DataFrame:
    """Number user ids: columns user (int, from 0 in the order of user_id's bytes) and user_id."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F  # noqa: N812

    parts = ids.repartitionByRange(cluster.partitions_for(rows), "user_id")
    parts = cluster.persist(parts.withColumn("part", F.spark_partition_id()), rows)
    sizes = sorted((row[0], row[1]) for row in parts.groupBy("part").count().collect())
    starts, total = {}, 0
    for part, size in sizes:
        starts[part] = total
        total += size
    if total >= 2**31:
        raise MlError(
            f"found {total:,} users, expected at most {2**31 - 1:,}: Spark's ALS numbers no more"
        )
    offsets = cluster.session.createDataFrame(list(starts.items()), "part int, start int")
    place = F.row_number().over(Window.partitionBy("part").orderBy("user_id"))
    return parts.join(F.broadcast(offsets), "part").select(
        (F.col("start") + place - 1).alias("user"), "user_id"
    )


def _lowest_users(given: Given) -> DataFrame:
    """Return the `user` of those with the lowest hashes, with `MAX_RATINGS` ratings together."""
    from pyspark.cloudpickle import register_pickle_by_value
    from pyspark.sql import functions as F  # noqa: N812

    hashing = splits.user_hashes
    register_pickle_by_value(splits)  # it travels to workers that have no package `ml`

    def hash_of(user_id: str) -> int:  # in the order of the unsigned hashes
        return int(hashing([user_id])[0]) - 2**63

    hashed = given.user_ids.withColumn("hash", F.udf(hash_of, "long", useArrow=False)("user_id"))
    share = MAX_RATINGS / given.counts["ratings"]
    session = given.ratings.sparkSession
    while True:  # hashes are uniform: twice the share of the users is nearly always enough
        share = min(1.0, 2 * share)
        low = hashed.where(F.col("hash") <= min(int(share * 2**64) - 2**63, 2**63 - 1))
        found = (
            given.ratings.join(low, "user").groupBy("user", "hash").count().sort("hash", "user")
        ).toArrow()
        counts = found["count"].to_numpy()
        if share == 1 or counts.sum() > MAX_RATINGS:
            break
    chosen = max(1, int((np.cumsum(counts) <= MAX_RATINGS).sum()))
    users = found["user"].to_pylist()[:chosen]
    return F.broadcast(session.createDataFrame([(user,) for user in users], "user int"))


def _to_table(ratings: DataFrame, user_ids: DataFrame, films: NDArray[np.int64]) -> pd.DataFrame:
    """Return ratings that are on the cluster as a ratings table, in order of user and film."""
    found = ratings.toArrow()
    users, items = found["user"].to_numpy(), found["item"].to_numpy()
    known = user_ids.join(ratings.select("user").distinct(), "user", "left_semi").toArrow()
    order = np.argsort(known["user"].to_numpy())
    names = pd.Index(known["user_id"].take(order).to_pylist(), dtype="str")
    codes = np.searchsorted(known["user"].to_numpy()[order], users)
    rows = np.lexsort((items, codes))
    return make_ratings(
        pd.Categorical.from_codes(codes[rows], names),
        films[items[rows]],
        found["rating"].to_numpy()[rows],
    )

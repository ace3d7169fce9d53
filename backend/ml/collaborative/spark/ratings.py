"""The ratings of --ratings on a Spark cluster, with ids mapped to integers as ALS needs them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import InputError
from ..evaluation import splits
from ..evaluation.held_out import MAX_RATINGS
from ..ratings import (
    COLUMNS,
    GIVEN,
    HIGHEST,
    LOWEST,
    NOT_APP_PREFIX,
    RATED_AGAIN,
    make_ratings,
    make_source,
    with_sources,
)
from .als import cache_by_user
from .failures import as_source_error
from .ranking import Size
from .reading import check_rows, is_parquet, open_ratings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from .session import Cluster

MAX_FILMS = 2_000_000
"""Films, twice as many as TMDB has: what is collected here is some numbers for each of them, up to
64 for the ranking."""
MAX_FULL_RATINGS = 50_000_000
"""Ratings above which a release is item-only: a full one would hold more than 600 MB of them."""
MAX_FULL_NUMBERS = 200_000_000
"""The same for users times factors, that is 1.6 GB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """The ratings of --ratings: the rows on the cluster, and what a build needs to know of them."""

    ratings: DataFrame
    """user (int), item (int), rating (double); each pair once; see `als.cache_by_user`."""
    user_ids: DataFrame
    """user (int), user_id (string)."""
    movie_ids: NDArray[np.int64]
    """TMDB ids by item, ascending, (films,)."""
    of_app: NDArray[np.bool_]
    """Which of the films the app's users rated, (films,)."""
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

    @property
    def size(self) -> Size:
        """Return how much there is."""
        return Size(self.counts["ratings"], self.counts["users"], len(self.movie_ids))

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


def read_given(cluster: Cluster, source: str) -> Given:
    """Read, check and map ratings on the cluster.

    Where a user rated a film several times the highest rating counts, as with the app's own.

    Args:
        cluster: where to read.
        source: a path of Parquet or CSV files (with a header), or a `jdbc:` URL of a database with
            the table `ratings`; columns user_id (of any simple type), movie_id (TMDB) and rating.

    Raises:
        InputError: there is nothing at the source, or it has rows that are not valid ratings, or
            more films or users than there can be.
        SourceError: it could not be reached.
    """
    with as_source_error():
        raw = open_ratings(cluster, source)
        if not is_parquet(source):  # which is read twice in less time than it takes to cache it
            raw = cluster.persist(raw, 0)
        rows = check_rows(raw, source)
        cluster.expect(rows)
        given = _map(cluster, raw, rows)
        raw.unpersist()
    return given


def _map(cluster: Cluster, raw: DataFrame, rows: int) -> Given:
    """Keep each pair of user and film once, and number both.

    Ids as text go over the network once, to where all rows of their user are.
    """
    import pyarrow as pa
    from pyspark.sql import functions as F  # noqa: N812

    once = (
        raw.withColumn("movie_id", F.col("movie_id").cast("long"))
        .repartition(cluster.partitions_for(rows), "user_id")
        .groupBy("user_id", "movie_id")
        .agg(F.max("rating").alias("rating"))
    )
    once = cluster.persist(once, rows)
    of_app = ~F.col("user_id").startswith(NOT_APP_PREFIX)
    found = (
        once.groupBy("movie_id")
        .agg(
            F.count("*").alias("ratings"), F.count_if(of_app).alias("app_ratings"),
            F.count_if(F.col("rating") % 1 != 0).alias("halves"),
            F.sum(F.xxhash64(*COLUMNS).cast("decimal(38,0)")).alias("hashes"),
        )
        .limit(MAX_FILMS + 1)
        .toArrow()
        .sort_by("movie_id")
    )  # fmt: skip
    films, of_film = found["movie_id"].to_numpy(), found["app_ratings"].to_numpy()
    if len(films) > MAX_FILMS:
        raise InputError(
            f"found more than {MAX_FILMS:,} films, expected fewer: is movie_id the film's TMDB id?"
        )
    ratings = int(found["ratings"].to_numpy().sum())
    hashes = sum(map(int, found["hashes"].to_pylist()))
    numbers = pa.table({"movie_id": films, "item": np.arange(len(films), dtype=np.int32)})
    items = F.broadcast(cluster.session.createDataFrame(numbers))
    user_ids = _number(cluster, once.select("user_id").distinct(), rows)
    users, app_users = map(int, user_ids.agg(F.count("*"), F.count_if(of_app)).first() or ())
    mapped = once.join(items, "movie_id").join(user_ids, "user_id")
    kept = cache_by_user(cluster, mapped, ratings)
    kept.count()
    once.unpersist()
    logger.info("%s ratings by %s users of %s films", f"{ratings:,}", f"{users:,}", len(films))
    return Given(
        kept, user_ids, films, of_film > 0, rows,
        {RATED_AGAIN: rows - ratings} if rows > ratings else {},
        {"ratings": ratings, "users": users, "app_ratings": int(of_film.sum()),
         "app_users": app_users},
        (LOWEST if found["halves"].to_numpy().any() else 1.0, HIGHEST),
        _fingerprint(ratings, hashes),
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
        raise InputError(
            f"found {total:,} users, expected at most {2**31 - 1:,}: Spark's ALS numbers no more"
        )
    offsets = cluster.session.createDataFrame(list(starts.items()), "part int, start int")
    place = F.row_number().over(Window.partitionBy("part").orderBy("user_id"))
    numbered = parts.join(F.broadcast(offsets), "part").select(
        (F.col("start") + place - 1).alias("user"), "user_id"
    )
    return cluster.persist(numbered, rows)


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

"""Ratings read on a Spark cluster: what --ratings names, checked, its ids mapped to integers."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError, MlError, SourceError
from ..evaluation import splits
from ..evaluation.held_out import MAX_RATINGS
from ..ratings import (
    COLUMNS,
    GIVEN,
    HIGHEST,
    LOWEST,
    NOT_APP_PREFIX,
    make_ratings,
    make_source,
    with_sources,
)
from .als import USUAL_NUMBERS, USUAL_RATINGS, failures
from .session import first_line

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame

    from .session import Cluster

TABLE = "ratings"
"""The table that is read over JDBC."""
FETCH = "10000"
"""Rows that a database gives at a time: a driver's own default can be all of them."""
SIMPLE = "string", "tinyint", "smallint", "int", "bigint", "float", "double", "decimal"
"""Types that a column can have, as Spark names them."""
DRIVERS = {"postgresql": "org.postgresql.Driver"}
"""Of databases, by the word after jdbc: in their URLs."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """The ratings of --ratings, on the cluster; what a build needs to know of them, here."""

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
    """Of the ratings."""
    fingerprint: str
    """SHA-256 of the ratings' content, whatever their order; see `_fingerprint`."""

    def is_usual(
        self, factors: int, most_ratings: int = USUAL_RATINGS, most_numbers: int = USUAL_NUMBERS
    ) -> bool:
        """Whether a release of all users is small enough to be made and served."""
        ratings, users = self.counts["ratings"], self.counts["users"]
        return ratings <= most_ratings and users * factors <= most_numbers

    def collect(self) -> pd.DataFrame:
        """All of them as a ratings table, by user and film."""
        return self._with_source(_to_table(self.ratings, self.user_ids, self.movie_ids))

    def sample(self) -> pd.DataFrame:
        """All ratings of the users that `hold_out.sample_users` would choose, as a table."""
        if self.counts["ratings"] <= MAX_RATINGS:
            return self.collect()
        users = self.ratings.join(_lowest_users(self), "user", "left_semi")
        return self._with_source(_to_table(users, self.user_ids, self.movie_ids))

    def _with_source(self, table: pd.DataFrame) -> pd.DataFrame:
        return with_sources(table, make_source(GIVEN, self.rows, self.dropped, table))


SECOND = "second rating of a film"


def read_given(cluster: Cluster, source: str, catalog: Collection[int] | None) -> Given:
    """Read, check and map ratings on the cluster.

    Of one user's several ratings of a film the highest stays, as with the app's own.

    Args:
        cluster: where.
        source: a path of Parquet or CSV files (with a header), or a `jdbc:` URL of a database with
            the table `ratings`; columns user_id (of any simple type), movie_id (TMDB) and rating.
        catalog: films to keep to; None for all.

    Raises:
        InputError: it is not there, or holds what is no rating.
        SourceError: it could not be reached.
    """
    with failures():
        raw = cluster.persist(_read(cluster, source), 0)
        rows = _check(raw, source)
        cluster.expect(rows)
        kept = raw
        if catalog is not None:
            films = cluster.session.createDataFrame([(film,) for film in catalog], "movie_id long")
            kept = kept.join(films, "movie_id", "left_semi")
        return _map(cluster, raw, kept, rows, catalog is not None)


def _read(cluster: Cluster, source: str) -> DataFrame:
    """user_id (string), movie_id (long or double), rating (double), as they stand."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F  # noqa: N812

    shown = _shown(source)
    try:
        if source.startswith("jdbc:"):
            parts = cluster.session.sparkContext.defaultParallelism
            slices = [f"MOD(movie_id, {parts}) = {part}" for part in range(parts)]
            within = ", ".join(map(str, range(parts)))
            slices[0] += f" OR movie_id IS NULL OR NOT MOD(movie_id, {parts}) IN ({within})"
            # By name: a driver of --jars is not where Java looks for one by URL.
            driver = DRIVERS.get(source.split(":")[1])
            named = {"fetchsize": FETCH} | ({"driver": driver} if driver else {})
            frame = cluster.session.read.jdbc(source, TABLE, predicates=slices, properties=named)
        elif source.rstrip("/").lower().endswith((".csv", ".csv.gz")):
            frame = cluster.session.read.csv(
                source, header=True, quote='"', escape='"', multiLine=True
            )
        else:
            frame = cluster.session.read.parquet(source)
    except AnalysisException as error:
        text = first_line(error)
        if "PATH_NOT_FOUND" in text:
            raise InputError(
                f"there is nothing at {shown}: check the path, which is one of the cluster's own "
                "file system, or of this machine where the master is local"
            ) from None
        if "FAILED_JDBC" in text:
            raise SourceError(
                f"{shown} could not be reached ({text}): see that it is up and has a table {TABLE}"
            ) from None
        raise InputError(
            f"{shown} cannot be read as ratings ({text}): expected Parquet, a .csv with a "
            "header and a name that ends so, or a jdbc: URL"
        ) from None
    except Py4JJavaError as error:
        text = first_line(error)
        if source.startswith("jdbc:") and ("suitable driver" in text or "ClassNotFound" in text):
            raise InputError(
                f"Spark has no driver for {shown}: give its jar, as in "
                'PYSPARK_SUBMIT_ARGS="--jars postgresql.jar pyspark-shell"; other databases\' with '
                "--driver-class-path too"
            ) from None
        if "Exception in thread" in text or source.startswith("jdbc:") or "connect" in text.lower():
            raise SourceError(f"{shown} could not be read ({text}): see that it is up") from None
        if "FileSystem" in text:
            raise InputError(
                f"Spark has no connector for {shown} ({text}): give its jar by --jars in "
                "PYSPARK_SUBMIT_ARGS; of S3 it is hadoop-aws, and the path begins with s3a://"
            ) from None
        raise InputError(f"{shown} cannot be read ({text}): expected Parquet or CSV") from None
    names = {name.lower(): name for name in frame.columns}
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        found = ", ".join(frame.columns[:10]) or "no columns"
        raise InputError(
            f"{shown} lacks {', '.join(missing)}: found {found}; "
            f"expected the columns {', '.join(COLUMNS)}, in CSV with commas between"
        )
    types = dict(frame.dtypes)
    for name in COLUMNS:
        if not types[names[name]].startswith(SIMPLE):
            raise InputError(
                f"{shown} has {name} as {types[names[name]]}: expected text or a number"
            )
    user, film, stars = (F.col(f"`{names[name]}`") for name in COLUMNS)
    if types[names["user_id"]].startswith(("float", "double", "decimal")):
        # Whole ones are meant where a blank among them has made them so.
        user = F.when(user % 1 == 0, user.cast("long").cast("string")).otherwise(
            user.cast("string")
        )
    return frame.select(
        user.cast("string").alias("user_id"),
        film.try_cast("double").alias("movie_id"),
        stars.try_cast("double").alias("rating"),
    )


def _shown(source: str) -> str:
    """The source for people: without what can be a secret."""
    return "the database" if source.startswith("jdbc:") else re.sub(r"//[^/]*@", "//…@", source)


def _check(raw: DataFrame, source: str) -> int:
    """The number of rows, once all of them are ratings."""
    from pyspark.sql import functions as F  # noqa: N812

    shown = _shown(source)
    user, film, stars = (F.col(name) for name in COLUMNS)
    wrong: dict[str, Column] = {
        "without a user": F.coalesce(F.trim(user) == "", F.lit(True)),
        "whose movie_id is no positive integer": ~F.coalesce(
            (film % 1 == 0) & (film > 0) & (film < 2**53), F.lit(False)
        ),
        f"whose rating is no number from {LOWEST} to {HIGHEST:g}": ~F.coalesce(
            stars.between(LOWEST, HIGHEST), F.lit(False)
        ),
    }
    counts = raw.agg(F.count("*"), *(F.count_if(applies) for applies in wrong.values())).first()
    rows, *found = map(int, counts or ())
    for reason, count in zip(wrong, found, strict=True):
        if count:
            raise InputError(
                f"{shown} has {count:,} of {rows:,} rows {reason}: leave them out, or map another "
                "scale to stars first"
            )
    if not rows:
        raise InputError(f"{shown} has no ratings: name others by --ratings")
    return rows


def _map(cluster: Cluster, raw: DataFrame, kept: DataFrame, rows: int, in_catalog: bool) -> Given:
    """Each pair once, with numbers for ids; `raw` is let go."""
    from pyspark.sql import functions as F  # noqa: N812

    once = kept.groupBy("user_id", F.col("movie_id").cast("long").alias("movie_id")).agg(
        F.max("rating").alias("rating"), F.count("*").alias("times")
    )
    once = cluster.persist(once, rows)
    once.count()
    raw.unpersist()
    of_app = ~F.col("user_id").startswith(NOT_APP_PREFIX)
    told = once.agg(
        F.count("*"), F.coalesce(F.sum("times"), F.lit(0)), F.count_if(of_app),
        F.count_if(F.col("rating") % 1 != 0),
        F.coalesce(F.sum(F.xxhash64(*COLUMNS).cast("decimal(38,0)")), F.lit(0)),
    ).first()  # fmt: skip
    ratings, in_films, app_ratings, halves, hashes = map(int, told or ())
    if not ratings:
        raise InputError("no rating is of a film of the catalog: check it, or take --catalog all")
    films = once.select("movie_id").distinct().sort("movie_id").toArrow()["movie_id"].to_numpy()
    items = cluster.session.createDataFrame(
        list(zip(films.tolist(), range(len(films)), strict=True)), "movie_id long, item int"
    )
    user_ids = _number(cluster, once.select("user_id").distinct(), rows)
    users, app_users = map(int, user_ids.agg(F.count("*"), F.count_if(of_app)).first() or ())
    mapped = once.join(F.broadcast(items), "movie_id").join(user_ids, "user_id")
    dropped = {
        "the film is not in the catalog": rows - in_films if in_catalog else 0,
        SECOND: in_films - ratings,
    }
    logger.info("%s ratings by %s users of %s films", f"{ratings:,}", f"{users:,}", len(films))
    return Given(
        mapped.select("user", "item", "rating"), user_ids, films, rows,
        {reason: count for reason, count in dropped.items() if count},
        {"ratings": ratings, "users": users, "app_ratings": app_ratings, "app_users": app_users},
        (LOWEST if halves else 1.0, HIGHEST), _fingerprint(ratings, hashes),
    )  # fmt: skip


def _fingerprint(ratings: int, hashes: int) -> str:
    """SHA-256 of the number of ratings and the sum of their rows' xxHash64, in decimal."""
    return hashlib.sha256(f"{ratings}\n{hashes}\n".encode()).hexdigest()


def _number(cluster: Cluster, ids: DataFrame, rows: int) -> DataFrame:
    """Numbers `user` (int), from 0 in the order of user_id's bytes, for user_id."""
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
        raise MlError(f"{total:,} users, and Spark's ALS takes {2**31 - 1:,} at most")
    offsets = cluster.session.createDataFrame(list(starts.items()), "part int, start int")
    place = F.row_number().over(Window.partitionBy("part").orderBy("user_id"))
    return parts.join(F.broadcast(offsets), "part").select(
        (F.col("start") + place - 1).alias("user"), "user_id"
    )


def _lowest_users(given: Given) -> DataFrame:
    """Numbers `user` of those with the lowest hashes, who have `MAX_RATINGS` ratings together."""
    import numpy as np
    from pyspark.cloudpickle import register_pickle_by_value
    from pyspark.sql import functions as F  # noqa: N812

    hashing = splits.user_hashes
    register_pickle_by_value(splits)  # it travels to workers that have no package `ml`

    def hash_of(user_id: str) -> int:  # in the order of the unsigned hashes
        return int(hashing([user_id])[0]) - 2**63

    hashed = given.user_ids.withColumn("hash", F.udf(hash_of, "long", useArrow=False)("user_id"))
    share = MAX_RATINGS / given.counts["ratings"]
    session = given.ratings.sparkSession
    while True:  # hashes are even: twice the share of the users is all but sure to be enough
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
    """A ratings table of what is on the cluster, by user and film."""
    import numpy as np
    import pandas as pd

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

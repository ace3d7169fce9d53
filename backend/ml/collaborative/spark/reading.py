"""What --ratings names, read on a Spark cluster and checked: Parquet, CSV or a database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, SourceError
from ..files import refuse_lfs_pointer
from ..ratings import COLUMNS, HIGHEST, LOWEST
from .failures import first_line, without_secrets

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from .session import Cluster

TABLE = "ratings"
"""The table that is read over JDBC."""
FETCH_ROWS = "10000"
"""Rows that a database sends at a time: a driver's own default can be all of them."""
SIMPLE = "string", "tinyint", "smallint", "int", "bigint", "float", "double", "decimal"
"""Types that a column can have, as Spark names them."""
DRIVERS = {"postgresql": "org.postgresql.Driver"}
"""Class of a database's driver, by the word after jdbc: in its URL."""


def open_ratings(cluster: Cluster, source: str) -> DataFrame:
    """Return the columns user_id (string), movie_id (double) and rating (double), unchecked.

    Values that are not numbers are null.

    Args:
        cluster: where to read.
        source: see `ratings.read_given`.

    Raises:
        InputError: there is nothing at the source, or it is not a table of ratings.
        SourceError: it could not be reached.
    """
    local = Path(source.removeprefix("file://"))
    for path in local.rglob("*.parquet") if os.path.isdir(local) else [local]:  # noqa: PTH112
        refuse_lfs_pointer(path)
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
            # Named, because Java does not find a driver of --jars by its URL.
            driver = DRIVERS.get(source.split(":")[1])
            named = {"fetchsize": FETCH_ROWS} | ({"driver": driver} if driver else {})
            frame = cluster.session.read.jdbc(source, TABLE, predicates=slices, properties=named)
        elif not is_parquet(source):
            frame = cluster.session.read.csv(
                source, header=True, quote='"', escape='"', multiLine=True
            )
        else:
            frame = cluster.session.read.parquet(source)
    except AnalysisException as error:
        text = first_line(error)
        if "PATH_NOT_FOUND" in text:
            raise InputError(
                f"there is nothing at {shown}: check the path; it is a path of the cluster's file "
                "system, or of this machine if the master is local"
            ) from None
        if "FAILED_JDBC" in text:
            raise SourceError(
                f"{shown} could not be reached ({text}): check that it is up and has the table "
                f"{TABLE}"
            ) from None
        raise InputError(
            f"{shown} cannot be read as ratings ({text}): expected Parquet, a file named "
            ".csv with a header, or a jdbc: URL"
        ) from None
    except Py4JJavaError as error:
        text = first_line(error)
        if source.startswith("jdbc:") and ("suitable driver" in text or "ClassNotFound" in text):
            raise InputError(
                f"Spark has no driver for {shown}: name its jar, as in "
                'PYSPARK_SUBMIT_ARGS="--jars postgresql.jar pyspark-shell"; for databases other '
                "than PostgreSQL, with --driver-class-path too"
            ) from None
        if "Exception in thread" in text or source.startswith("jdbc:") or "connect" in text.lower():
            raise SourceError(f"{shown} could not be read ({text}): check that it is up") from None
        if "FileSystem" in text:
            raise InputError(
                f"Spark has no connector for {shown} ({text}): name its jar with --jars in "
                "PYSPARK_SUBMIT_ARGS; for S3 it is hadoop-aws, and the path begins with s3a://"
            ) from None
        raise InputError(f"{shown} cannot be read ({text}): expected Parquet or CSV") from None
    names = {name.lower(): name for name in frame.columns}
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        found = ", ".join(frame.columns[:10]) or "no columns"
        raise InputError(
            f"{shown} lacks {', '.join(missing)}: found {found}; "
            f"expected the columns {', '.join(COLUMNS)}, with commas between them in CSV"
        )
    types = dict(frame.dtypes)
    for name in COLUMNS:
        if not types[names[name]].startswith(SIMPLE):
            raise InputError(
                f"{shown} has {name} as {types[names[name]]}: expected text or a number"
            )
    user, film, stars = (F.col(f"`{names[name]}`") for name in COLUMNS)
    if types[names["user_id"]].startswith(("float", "double", "decimal")):
        # A blank among integers has made the whole column float.
        user = F.when(user % 1 == 0, user.cast("long").cast("string")).otherwise(
            user.cast("string")
        )
    return frame.select(
        user.cast("string").alias("user_id"),
        film.try_cast("double").alias("movie_id"),
        stars.try_cast("double").alias("rating"),
    )


def is_parquet(source: str) -> bool:
    """Return whether a source is Parquet, rather than CSV or a database."""
    name = source.rstrip("/").lower()
    return not (source.startswith("jdbc:") or name.endswith((".csv", ".csv.gz")))


def _shown(source: str) -> str:
    """Return the source as messages show it: without what can be a secret."""
    return "the database" if source.startswith("jdbc:") else without_secrets(source)


def check_rows(raw: DataFrame, source: str) -> int:
    """Return the number of rows, all of which are valid ratings.

    Args:
        raw: see `open_ratings`.
        source: for messages.

    Raises:
        InputError: a row is not a valid rating, or there are no rows.
    """
    from pyspark.sql import functions as F  # noqa: N812

    shown = _shown(source)
    user, film, stars = (F.col(name) for name in COLUMNS)
    wrong: dict[str, Column] = {
        "without a user": F.coalesce(F.trim(user) == "", F.lit(True)),
        "whose movie_id is not a positive integer": ~F.coalesce(
            (film % 1 == 0) & (film > 0) & (film < 2**53), F.lit(False)
        ),
        f"whose rating is not a number from {LOWEST} to {HIGHEST:g}": ~F.coalesce(
            stars.between(LOWEST, HIGHEST), F.lit(False)
        ),
    }
    counts = raw.agg(F.count("*"), *(F.count_if(applies) for applies in wrong.values())).first()
    rows, *found = map(int, counts or ())
    for reason, count in zip(wrong, found, strict=True):
        if count:
            raise InputError(
                f"{shown} has {count:,} of {rows:,} rows {reason}: remove them, or convert "
                "another scale to stars first"
            )
    if not rows:
        raise InputError(f"{shown} has no ratings: check what --ratings names")
    return rows

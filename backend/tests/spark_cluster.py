"""A real Spark cluster of several processes on this machine, for the tests that need one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.make_archive import draw_ratings
from ml.collaborative.ratings import make_ratings
from ml.collaborative.spark.ratings import Given, read_given
from ml.collaborative.spark.session import Cluster, open_cluster

ON_SPARK = [
    pytest.mark.spark,
    pytest.mark.xdist_group("spark"),
    pytest.mark.filterwarnings(
        "ignore:PySpark does not yet:FutureWarning"
    ),  # as `open_cluster` does
    pytest.mark.skipif(
        not (os.environ.get("JAVA_HOME") or shutil.which("java")),
        reason="no Java: the tests on Spark need Java 17 or newer",
    ),
]
"""Marks of the tests that need Spark; one worker runs them all, and shares one cluster."""
QUICK_JAVA = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""Environment in which Java compiles less: it halves the processor time of a short Spark job."""
MASTER = "local-cluster[2,1,1024]"
"""Two executors, each a process with one core and 1 GiB."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster whose two executors are both up."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK_JAVA.items():
            patch.setenv(name, value)
        with open_cluster(MASTER) as found:
            found.session.sparkContext.parallelize(range(8), 8).count()
            yield found


def executors(cluster: Cluster) -> set[int]:
    """Return the process ids of the cluster's executors, and of no others."""
    own = str(cluster.session.sparkContext.applicationId)
    found = set()
    for folder in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", folder.name):
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            if any(word.endswith("CoarseGrainedExecutorBackend") for word in words):
                found |= {int(folder.name)} if own in words else set()
    return found


@pytest.fixture(scope="session")
def drawn() -> pd.DataFrame:
    """20,000 generated ratings of 300 users and 200 films; every third user is the app's."""
    table = draw_ratings(20_000, 300, 200)
    users = [f"ml_{user}" if user % 3 else str(user) for user in table["userId"]]
    return make_ratings(users, table["movieId"] * 7, table["rating"])


@pytest.fixture(scope="session")
def given(cluster: Cluster, drawn: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """The same, read on the cluster."""
    path = tmp_path_factory.mktemp("given") / "ratings.parquet"
    write(path, drawn)
    return read_given(cluster, str(path))


def write(path: Path, table: pd.DataFrame) -> None:
    """Write a ratings table as Parquet, with plain text as user ids."""
    table.astype({"user_id": "str"}).to_parquet(path, index=False)


def in_order(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The rows of a ratings table, sorted."""
    columns = table["user_id"].astype("str"), table["movie_id"], table["rating"]
    return sorted(zip(*columns, strict=True))

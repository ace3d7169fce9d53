"""A real Spark cluster of several processes on this machine, for the tests that need one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.collaborative.spark.session import Cluster, open_cluster

NEEDS_JAVA = pytest.mark.skipif(
    not (os.environ.get("JAVA_HOME") or shutil.which("java")),
    reason="no Java: the tests on Spark need Java 17 or newer",
)
MASTER = "local-cluster[2,1,1024]"
"""Two executors, each a process with one core and 1 GiB."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """It is up once both executors are."""
    with open_cluster(MASTER) as found:
        found.session.sparkContext.parallelize(range(8), 8).count()
        yield found


def executors(cluster: Cluster) -> set[int]:
    """Process ids of the cluster's executors, and of no others."""
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

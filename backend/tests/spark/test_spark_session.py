"""A Spark session is sized by the data, reachable from this machine alone, and left if not ours."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from spark_cluster import ON_SPARK, executors

from ml.collaborative.spark.session import Cluster, open_cluster

pytestmark = ON_SPARK


def test_partitions_and_storage_follow_the_number_of_ratings(cluster: Cluster) -> None:
    assert cluster.partitions_for(10_000_000) == 10
    assert cluster.partitions_for(10) >= 2
    assert cluster.storage_for(1_000) == "MEMORY_AND_DISK"
    assert cluster.storage_for(10**9) == "MEMORY_AND_DISK_SER"


def test_an_open_session_is_used_and_left_open(cluster: Cluster) -> None:
    with open_cluster("local[7]") as again:
        assert again.session.sparkContext is cluster.session.sparkContext
    assert cluster.session.range(3).count() == 3


def test_nothing_listens_but_on_127_0_0_1(cluster: Cluster) -> None:
    driver = cluster.session.sparkContext._jvm.java.lang.ProcessHandle.current().pid()
    for pid in {driver, *executors(cluster)}:
        inodes = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(link.readlink()))
        lines = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        ]
        listening = {
            words[1].partition(":")[0]
            for words in lines
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes
        }
        assert listening
        assert listening <= {"0100007F", "0000000000000000FFFF00000100007F"}

"""A Spark session is sized by the data, reachable from this machine alone, and left if not ours."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from spark_cluster import ON_SPARK, executors

from ml.collaborative import __main__ as tool
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


def test_checkpoints_of_another_version_are_not_used_and_a_command_clears_all(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept = {"mine", "collaborative.txt", "collaborative", "0123-items", "collaborative-2.0",
            "collaborative-filtering", "collaborative-data.parquet"}  # fmt: skip
    a, b, c = (f"0123456789abcdef-{stage}" for stage in ("items", "users", "ranking"))
    for name in (*kept, "collaborative-0.1.9", a):
        (tmp_path / name / a).mkdir(parents=True)
        (tmp_path / name / a / "_SUCCESS").touch()
    (tmp_path / "collaborative-2.0" / "somebody's").touch()
    for _ in range(2):
        with open_cluster(checkpoints=str(tmp_path)) as again:
            assert again.checkpoints
            assert not again.is_whole(a)
            assert again.stage(b, cluster.session.range(3), 3).count() == 3
            assert again.is_whole(b)
            arrays = again.checkpoints.arrays(c, lambda: {"x": np.arange(3), "y": 0.5})
    assert arrays["x"].tolist() == [0, 1, 2]
    assert arrays["y"].item() == 0.5
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert f"{tmp_path} has checkpoints of another version (0.1.9, unknown), and" in said[0]
    assert said[0].endswith(f"clear-checkpoints {tmp_path}")
    assert tool.main(["clear-checkpoints", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"3 folders of checkpoints deleted from {tmp_path}\n"
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert tool.main(["clear-checkpoints", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err

"""A Spark session, quiet and bound to this machine where its master is, and stopped cleanly."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from ..errors import MlError, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

JAVA = 17
"""Oldest that Spark 4 runs on."""
IN_OBJECTS, SERIALISED = "MEMORY_AND_DISK", "MEMORY_AND_DISK_SER"
"""Storage levels."""
PER_PARTITION = 1_000_000
"""Ratings in a partition, about: 12 MB of them, in a task of some seconds."""
MAX_OBJECTS = 100_000_000
"""Ratings above which what is kept in memory is kept serialised."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A session, and how it is to work."""

    session: SparkSession
    checkpoints: str | None = None
    """Folder on any Hadoop path: of what a build that was killed need not do again."""

    def partitions_for(self, ratings: int) -> int:
        """Return the number of partitions: one a million ratings, and work for each core."""
        cores = self.session.sparkContext.defaultParallelism
        return max(cores, -(-ratings // PER_PARTITION))

    def storage_for(self, ratings: int) -> str:
        """Return the storage level: in memory, many serialised, what does not fit on disks."""
        return SERIALISED if ratings > MAX_OBJECTS else IN_OBJECTS

    def expect(self, ratings: int) -> None:
        """Shuffle in as many parts as so many ratings need; Spark's own number is 200."""
        parts = str(self.partitions_for(ratings))
        self.session.conf.set("spark.sql.shuffle.partitions", parts)

    def persist(self, frame: DataFrame, ratings: int) -> DataFrame:
        """Keep what was computed, see `storage_for`."""
        from pyspark import StorageLevel

        name = self.storage_for(ratings).removesuffix("_SER")  # Spark's tables always are
        return frame.persist(getattr(StorageLevel, name))

    def stage(self, name: str, frame: DataFrame, ratings: int) -> DataFrame:
        """`frame`, computed once for all: as Parquet in the folder of checkpoints.

        Where an earlier build has written it there to the end, it is taken from there; where
        there is no such folder it is kept in memory.

        Args:
            name: of the stage: it tells all that decides the result.
            frame: what is to be computed.
            ratings: how many there are, see `storage_for`.
        """
        if self.checkpoints is None:
            return self.persist(frame, ratings)
        path = f"{self.checkpoints.rstrip('/')}/{name}"
        if self.is_whole(name):
            logger.info("taken up from %s", name)
        else:
            frame.write.mode("overwrite").parquet(path)
        return self.session.read.parquet(path)

    def is_whole(self, name: str) -> bool:
        """Whether a stage has been written to its end."""
        if self.checkpoints is None:
            return False
        context = self.session.sparkContext
        mark = f"{self.checkpoints.rstrip('/')}/{name}/_SUCCESS"
        path = context._jvm.org.apache.hadoop.fs.Path(mark)  # type: ignore[union-attr]
        return bool(path.getFileSystem(context._jsc.hadoopConfiguration()).exists(path))


@contextmanager
def open_cluster(
    master: str | None = None,
    *,
    checkpoints: str | None = None,
) -> Iterator[Cluster]:
    """A session on `master`, stopped at the end whatever happens; or that which is there already.

    Args:
        master: `local[*]`, `spark://HOST:PORT`, `yarn`, …; by default that of spark-submit, else
            all cores of this machine.
        checkpoints: see `Cluster`.

    Raises:
        MlError: pyspark or a Java that runs it is not there.
        SourceError: the master cannot be reached, or Spark does not start.
        UsageError: no such master, or the folder of checkpoints cannot be used.
    """
    version = check_installed()
    # Of pandas 3: Spark's pandas API is not used here.
    warnings.filterwarnings("ignore", "PySpark does not yet", FutureWarning)
    from pyspark import SparkContext

    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    active = SparkContext._active_spark_context  # Databricks has one before a job's first line
    if not submitted:
        master = master or "local[*]"
    logger.info("starting Spark %s on %s", version, master or "what spark-submit names")
    with NamedTemporaryFile("w+", prefix="spark-", suffix=".log", encoding="utf-8") as log:
        context, gateway = (
            (active, None)
            if active
            else _start(master, submitted, None if logger.isEnabledFor(logging.DEBUG) else log)
        )
        try:
            from py4j.protocol import Py4JJavaError
            from pyspark.sql import SparkSession

            if checkpoints:
                try:
                    context.setCheckpointDir(checkpoints)
                except Py4JJavaError as error:
                    raise UsageError(
                        f"checkpoints cannot be written to {checkpoints} ({first_line(error)}): "
                        "name a folder that every executor can write"
                    ) from None
            session = SparkSession(context)
            session.conf.set("spark.sql.session.timeZone", "UTC")
            cluster = Cluster(session, checkpoints)
            cluster.expect(0)
            yield cluster
        finally:
            if not active:
                _stop(context, gateway)


def check_installed() -> str:
    """The version of pyspark, once it and a Java that runs it are there.

    Raises:
        MlError: they are not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet", FutureWarning)
        try:  # not by its metadata, which the pyspark of a Spark that is no wheel has not
            from pyspark import __version__ as found
        except ModuleNotFoundError:
            found = ""
    if not found:
        raise MlError(
            "pyspark is not installed, and --spark needs it: pip install -r requirements-spark.txt"
        )
    fix = (
        "install it (Debian: apt-get install default-jre-headless), or set JAVA_HOME to the folder "
        "that has its bin/java"
    )
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    try:
        done = subprocess.run(  # noqa: S603  what the user's own environment names
            [java or "java", "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        where = f"at JAVA_HOME={home} (unset it to use that on the path)" if home else "on the path"
        raise MlError(f"no Java {where}, and Spark needs {JAVA} or newer: {fix}") from None
    number = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if number is None or int(number[1]) < JAVA:
        said = (done.stderr + done.stdout).strip().partition("\n")[0]
        raise MlError(f"found {said or 'no Java'}, and Spark needs Java {JAVA} or newer: {fix}")
    return found


def _start(master: str | None, submitted: bool, log: IO[str] | None) -> tuple[Any, Any]:
    """The context, and the gateway to its Java process; None where spark-submit has started it."""
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException

    is_local = master is not None and master.startswith("local")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if is_local:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    gateway = None
    try:
        conf = SparkConf(loadDefaults=submitted)
        for key, value in _settings(master, is_local).items():
            conf.setIfMissing(key, value)
        if not submitted:
            from pyspark.java_gateway import launch_gateway

            gateway = launch_gateway(conf, {"stderr": log} if log else None)
        return SparkContext(conf=conf, gateway=gateway), gateway
    except (Py4JError, PySparkException, RuntimeError, OSError) as error:
        said = text = first_line(error)  # Java is asked for it
        if gateway:
            with suppress(OSError, Py4JError):  # it may be what has failed
                _close(gateway)
        if log:
            log.seek(0)
            text += log.read()
        if "Master must" in text or "Could not parse Master URL" in text or "MASTER_URL" in text:
            raise UsageError(
                f"Spark knows no master {master!r}: take local[*], spark://HOST:PORT, yarn or k8s://…"
            ) from None
        if "HADOOP_CONF_DIR" in text:
            raise UsageError(
                "--master yarn needs HADOOP_CONF_DIR or YARN_CONF_DIR, the folder of the cluster's "
                "settings: set it"
            ) from None
        raise SourceError(
            f"Spark did not start on {master or 'what spark-submit names'} ({said}): "
            "see that its master is up, or look at Spark's own log by --verbose"
        ) from None


def _settings(master: str | None, is_local: bool) -> dict[str, str]:
    """What is set where the user has not."""
    settings = {
        "spark.app.name": "collaborative filtering",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.driver.maxResultSize": "0",
        "spark.sql.execution.pythonUDF.arrow.enabled": "false",
        # Else a table sent from here stays in the query's plan, and each step reads it anew.
        "spark.sql.execution.arrow.localRelationThreshold": "0",
    }
    if master:
        settings["spark.master"] = master
    if is_local:
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        if hasattr(os, "sysconf"):  # in a local session the driver does all the work
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            share = 2 if master and master.startswith("local[") else 8
            settings["spark.driver.memory"] = f"{max(1, memory // share >> 30)}g"
    return settings


def _stop(context: Any, gateway: Any) -> None:
    from py4j.protocol import Py4JError
    from pyspark.sql import SparkSession

    try:
        with suppress(OSError, Py4JError):  # Java may have ended, which is said already
            session = SparkSession.getActiveSession()
            if session is not None:
                session.stop()
            context.stop()
    finally:
        if gateway:
            with suppress(OSError, Py4JError):
                _close(gateway)


def _close(gateway: Any) -> None:
    """End the Java process, and forget it, so that another session can start."""
    from pyspark import SparkContext

    gateway.shutdown()
    gateway.proc.stdin.close()  # at which Spark's launcher ends
    try:
        gateway.proc.wait(30)
    except subprocess.TimeoutExpired:
        gateway.proc.kill()
        gateway.proc.wait(30)
    SparkContext._gateway = SparkContext._jvm = None


def first_line(error: BaseException) -> str:
    """What an error of Spark says, in a line, without the addresses and secrets of a URL."""
    java = getattr(error, "java_exception", None)
    text = str(error)
    if java is not None:
        with suppress(OSError):  # Java has ended
            text = str(java.getMessage() or java.toString())
    text = re.sub(r"jdbc:\S+", "jdbc:…", text.strip().partition("\n")[0])
    return text[:200]

"""A Spark session: quiet, on 127.0.0.1 alone if its master is local, and stopped cleanly."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from ..errors import SourceError, UsageError
from ..files import new_umask
from ..process import check_resources
from .checkpoints import Checkpoints, open_checkpoints
from .failures import check_account, check_installed, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

IN_OBJECTS, SERIALISED = "MEMORY_AND_DISK", "MEMORY_AND_DISK_SER"
"""Storage levels."""
STACK = "-Xss16m"
"""Stack of Java's threads: the default of 1 MB overflows after some ten iterations."""
RATINGS_PER_PARTITION = 1_000_000
"""About 12 MB, and a task of a few seconds."""
MAX_OBJECTS = 100_000_000
"""Ratings above which cached data is kept serialised."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A Spark session, and how data is partitioned, cached and checkpointed there."""

    session: SparkSession
    checkpoints: Checkpoints | None = None
    """Where finished stages are kept, so that a build that was killed resumes."""
    cached: list[DataFrame] = field(default_factory=list)
    """What `persist` has cached; see `scope`."""

    def partitions_for(self, ratings: int) -> int:
        """Return the number of partitions: one per million ratings, and at least one per core."""
        cores = self.session.sparkContext.defaultParallelism
        return max(cores, -(-ratings // RATINGS_PER_PARTITION))

    def storage_for(self, ratings: int) -> str:
        """Return the storage level: in memory, serialised if large; the rest goes to disks."""
        return SERIALISED if ratings > MAX_OBJECTS else IN_OBJECTS

    def expect(self, ratings: int) -> None:
        """Set the partitions of a shuffle for so many ratings; Spark's default is 200."""
        parts = str(self.partitions_for(ratings))
        self.session.conf.set("spark.sql.shuffle.partitions", parts)

    def persist(self, frame: DataFrame, ratings: int) -> DataFrame:
        """Cache a frame, see `storage_for`."""
        from pyspark import StorageLevel

        name = self.storage_for(ratings).removesuffix("_SER")  # a DataFrame is always serialised
        self.cached.append(frame)
        return frame.persist(getattr(StorageLevel, name))

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Drop at the end what was cached within, and nothing else."""
        from py4j.protocol import Py4JError

        before = len(self.cached)
        try:
            yield
        finally:
            with suppress(OSError, Py4JError):  # Java has ended, which another error reports
                while len(self.cached) > before:
                    self.cached.pop().unpersist()

    def stage(self, name: str, frame: DataFrame, ratings: int) -> DataFrame:
        """Compute a frame once: keep it among the checkpoints, or cache it.

        Args:
            name: of the stage, see `Checkpoints.frame`.
            frame: what is to be computed.
            ratings: number of ratings, see `storage_for`.
        """
        if self.checkpoints is None:
            return self.persist(frame, ratings)
        return self.checkpoints.frame(name, frame)

    def is_whole(self, name: str) -> bool:
        """Return whether an earlier build has finished a stage."""
        return self.checkpoints is not None and self.checkpoints.is_whole(name)


@contextmanager
def open_cluster(
    master: str | None = None,
    *,
    checkpoints: str | None = None,
) -> Iterator[Cluster]:
    """Open a session on `master` and stop it at the end; or use the one that is open already.

    Args:
        master: `local[*]`, `spark://HOST:PORT`, `yarn`, …; by default spark-submit's, else all
            cores of this machine.
        checkpoints: folder of finished stages, a Hadoop path; None keeps none.

    Raises:
        MlError: pyspark is not installed, or no Java that is new enough.
        SourceError: the master cannot be reached, or Spark does not start.
        UsageError: the master is invalid, or the folder of checkpoints cannot be written.
    """
    version = check_installed()
    # About pandas 3; Spark's pandas API is not used here.
    warnings.filterwarnings("ignore", "PySpark does not yet", FutureWarning)
    from pyspark import SparkContext

    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    active = SparkContext._active_spark_context  # Databricks opens one before a job starts
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
            from pyspark.sql import SparkSession

            session = SparkSession(context)
            session.conf.set("spark.sql.session.timeZone", "UTC")
            cluster = Cluster(
                session, open_checkpoints(session, checkpoints) if checkpoints else None
            )
            cluster.expect(0)
            with cluster.scope():
                yield cluster
        finally:
            if not active:
                _stop(context, gateway)


def _start(master: str | None, submitted: bool, log: IO[str] | None) -> tuple[Any, Any]:
    """Return the context and the gateway to its Java process; None if spark-submit started it."""
    from py4j.protocol import Py4JError
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException

    if not submitted:
        check_account()
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
        handler = signal.getsignal(signal.SIGINT)
        context = SparkContext(conf=conf, gateway=gateway)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # pyspark sets one of its own
        return context, gateway
    except (Py4JError, PySparkException, RuntimeError, OSError) as error:
        check_resources()
        said = text = first_line(error)  # before Java is closed, which has the message
        if gateway:
            with suppress(OSError, Py4JError):  # the connection may be what failed
                _close(gateway)
        if log:
            log.seek(0)
            text += log.read()
        if "Master must" in text or "Could not parse Master URL" in text or "MASTER_URL" in text:
            raise UsageError(
                f"found master {master!r}, expected local[*], spark://HOST:PORT, yarn or k8s://…"
            ) from None
        if "HADOOP_CONF_DIR" in text:
            raise UsageError(
                "--spark yarn needs HADOOP_CONF_DIR or YARN_CONF_DIR: set it to the folder of the "
                "cluster's settings"
            ) from None
        raise SourceError(
            f"Spark did not start on {master or 'what spark-submit names'} ({said}): "
            "check that its master is up, or see Spark's own log with --verbose"
        ) from None


def _settings(master: str | None, is_local: bool) -> dict[str, str]:
    """Return the settings for what the user has not set."""
    settings = {
        "spark.app.name": "collaborative filtering",
        # Checkpoints and users' vectors hold user ids.
        "spark.hadoop.fs.permissions.umask-mode": f"{new_umask():03o}",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.driver.maxResultSize": "0",
        "spark.sql.execution.pythonUDF.arrow.enabled": "false",
        # ALS without checkpoints nests its RDDs, and Java serialises them by recursion.
        "spark.driver.defaultJavaOptions": STACK,
        "spark.executor.defaultJavaOptions": STACK,
        # Otherwise a table sent from here stays in the query's plan, and each step reads it again.
        "spark.sql.execution.arrow.localRelationThreshold": "0",
    }
    if master:
        settings["spark.master"] = master
    if is_local:
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        if hasattr(os, "sysconf"):  # a local driver does all the work
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            share = 2 if master and master.startswith("local[") else 8
            settings["spark.driver.memory"] = f"{max(1, memory // share >> 30)}g"
    return settings


def _stop(context: Any, gateway: Any) -> None:
    from py4j.protocol import Py4JError
    from pyspark.sql import SparkSession

    try:
        with suppress(OSError, Py4JError):  # Java may have ended, which another error reports
            session = SparkSession.getActiveSession()
            if session is not None:
                session.stop()
            context.stop()
    finally:
        if gateway:
            with suppress(OSError, Py4JError):
                _close(gateway)


def _close(gateway: Any) -> None:
    """End the Java process and reset pyspark's state, so that another session can start."""
    from pyspark import SparkContext

    gateway.shutdown()
    gateway.proc.stdin.close()  # this ends Spark's launcher
    try:
        gateway.proc.wait(30)
    except subprocess.TimeoutExpired:
        gateway.proc.kill()
        gateway.proc.wait(30)
    SparkContext._gateway = SparkContext._jvm = None

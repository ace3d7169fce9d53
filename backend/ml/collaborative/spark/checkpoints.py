"""Finished stages of a training in a folder of the cluster, so that a killed build resumes.

All of them are in one folder for each version of this project, so another version's are not used.
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..version import __version__
from .failures import first_line, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

STAGE = "[0-9a-f]{16}-((item|user)(s|-biases)|ranking)"
OURS = re.compile(rf"collaborative-(?P<version>\d+(\.\d+)+)|{STAGE}")
"""Names in the folder that can be this project's; the second are of versions without folders."""
INSIDE = re.compile(rf"{STAGE}|[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}")
"""All names in a version's folder: stages, and Spark's own checkpoints."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """The stages that this version has finished."""

    session: SparkSession
    folder: str
    """A Hadoop path that all machines share."""

    def is_whole(self, name: str) -> bool:
        """Return whether a stage has been written completely."""
        files, path = _open(self.session, f"{self.folder}/{name}/_SUCCESS")
        return bool(files.exists(path))

    def frame(self, name: str, frame: DataFrame) -> DataFrame:
        """Write a frame as Parquet, unless an earlier build did; return what is written.

        Args:
            name: of the stage; it must differ for everything that changes the result.
            frame: what is to be computed.
        """
        path = f"{self.folder}/{name}"
        if self.is_whole(name):
            logger.info("stage %s was done before: read from the checkpoints", name)
        else:
            frame.write.mode("overwrite").parquet(path)
            logger.info("stage %s is done", name)
        return self.session.read.parquet(path)

    def arrays(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        """Write arrays that are collected here, unless an earlier build did; return them.

        Args:
            name: see `frame`.
            make: computes arrays and numbers by name.
        """
        if self.is_whole(name):
            found = self.frame(name, self.session.createDataFrame([], "data binary"))
        else:
            file = io.BytesIO()
            np.savez(file, **make())
            row = [(bytearray(file.getbuffer()),)]
            found = self.frame(name, self.session.createDataFrame(row, "data binary"))
        (written,) = found.collect()
        with np.load(io.BytesIO(written[0]), allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}


def open_checkpoints(session: SparkSession, place: str) -> Checkpoints:
    """Return the checkpoints in a folder; warn of those of other versions.

    Args:
        session: whose trainings are to be resumed.
        place: a Hadoop path; it need not be there.

    Raises:
        UsageError: it cannot be written.
    """
    from py4j.protocol import Py4JJavaError

    place = place.rstrip("/") or "/"
    own = f"collaborative-{__version__}"
    try:
        names = [name for name in _list(session, place) if name != own]
        session.sparkContext.setCheckpointDir(f"{place}/{own}")
    except Py4JJavaError as error:
        raise UsageError(
            f"checkpoints cannot be written to {without_secrets(place)} ({first_line(error)}): "
            "name a folder that every executor can write"
        ) from None
    if names:
        versions = {OURS.fullmatch(name)["version"] or "unknown" for name in names}  # type: ignore[index]
        logger.warning(
            "%s has checkpoints of another version (%s), and version %s starts over: delete them "
            "with python -m ml.collaborative clear-checkpoints %s",
            without_secrets(place), ", ".join(sorted(versions)), __version__,
            without_secrets(place),
        )  # fmt: skip
    return Checkpoints(session, f"{place}/{own}")


def clear_checkpoints(session: SparkSession, place: str) -> int:
    """Delete every version's checkpoints in a folder and nothing else; return how many there were.

    Raises:
        UsageError: there is no such folder, or it cannot be read or written.
    """
    from py4j.protocol import Py4JJavaError

    place = place.rstrip("/") or "/"
    try:
        files, path = _open(session, place)
        if not files.exists(path):
            raise UsageError(
                f"there is no folder {without_secrets(place)}: name the one of --checkpoint-dir"
            )
        names = _list(session, place)
        for name in names:
            files.delete(_open(session, f"{place}/{name}")[1], True)
    except Py4JJavaError as error:
        raise UsageError(
            f"{without_secrets(place)} cannot be cleared: {first_line(error)}"
        ) from None
    return len(names)


def _list(session: SparkSession, place: str) -> list[str]:
    """Return the names in a folder that are this project's; none where there is no folder."""
    files, path = _open(session, place)
    if not files.exists(path):
        return []
    found = {status.getPath().getName(): status for status in files.listStatus(path)}
    return sorted(name for name, status in found.items() if _is_ours(files, name, status))


def _is_ours(files: Any, name: str, status: Any) -> bool:
    """Return whether a folder has this project's name and nothing but its stages inside."""
    match = OURS.fullmatch(name)
    if match is None or not status.isDirectory():
        return False
    inside = files.listStatus(status.getPath()) if match["version"] else []
    return all(INSIDE.fullmatch(inner.getPath().getName()) for inner in inside)


def _open(session: SparkSession, place: str) -> tuple[Any, Any]:
    """Return Hadoop's file system of a path, and its path."""
    context: Any = session.sparkContext
    path = context._jvm.org.apache.hadoop.fs.Path(place)
    return path.getFileSystem(context._jsc.hadoopConfiguration()), path

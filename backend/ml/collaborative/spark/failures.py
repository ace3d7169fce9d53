"""Failures of a Spark cluster, each in one line."""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def as_source_error() -> Iterator[None]:
    """Raise any failure of the cluster as SourceError."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException, ConnectionError) as error:
        raise SourceError(
            f"the Spark cluster failed ({type(error).__name__}: {first_line(error)}): see its "
            "executors' logs, give it more memory, or resume with the same --checkpoint-dir"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the address and secrets of a URL."""
    java = getattr(error, "java_exception", None)
    text = str(error)
    if java is not None:
        with suppress(OSError):  # Java has ended
            text = str(java.getMessage() or java.toString())
    text = re.sub(r"jdbc:\S+", "jdbc:…", text.strip().partition("\n")[0])
    return text[:200]

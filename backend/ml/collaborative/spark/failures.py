"""What Spark lacks on this machine, and failures of a cluster, each in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MlError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

JAVA = 17
"""Oldest version that Spark 4 runs on."""


def check_installed() -> str:
    """Return the version of pyspark.

    Raises:
        MlError: it is not installed, or no Java that is new enough.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet", FutureWarning)
        try:  # not by metadata, which a pyspark that is not from a wheel lacks
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
        done = subprocess.run(  # noqa: S603  the user's own Java
            [java or "java", "-version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        where = (
            f"at JAVA_HOME={home} (unset it to use the one on the path)" if home else "on the path"
        )
        raise MlError(f"found no Java {where}, expected {JAVA} or newer for Spark: {fix}") from None
    number = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if number is None or int(number[1]) < JAVA:
        said = (done.stderr + done.stdout).strip().partition("\n")[0]
        raise MlError(f"found {said or 'no Java'}, expected Java {JAVA} or newer for Spark: {fix}")
    return found


def check_account() -> None:
    """Raise MlError where Hadoop would not start: this user has a number, but no name."""
    with suppress(ImportError):  # Windows has no such accounts
        import pwd

        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise MlError(
                f"Spark needs a user with a name; user {os.geteuid()} is not in /etc/passwd: add "
                "a line for it, or run the build as another user"
            ) from None


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
    """Return the first line of an error's message, see `without_secrets`."""
    java = getattr(error, "java_exception", None)
    text = str(error)
    if java is not None:
        with suppress(OSError):  # Java has ended
            text = str(java.getMessage() or java.toString())
    return without_secrets(text.strip().partition("\n")[0])[:200]


def without_secrets(text: str) -> str:
    """Return a text without what can be a secret in its URLs: user, password and parameters."""
    text = re.sub(r"jdbc:\S+", "jdbc:…", text)
    text = re.sub(r"//\S*@", "//…@", text)  # a password can have a slash
    return re.sub(r"(//[^\s?]*)\?\S+", r"\1?…", text)

"""Without Spark nothing of it is imported, and what --spark lacks or forbids is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml.build_collaborative import main
from ml.collaborative.errors import InputError, MlError
from ml.collaborative.spark.failures import (
    check_account,
    check_installed,
    first_line,
    without_secrets,
)
from ml.collaborative.spark.reading import open_ratings


def test_nothing_of_spark_is_imported_without_it() -> None:
    code = (
        "import sys; import ml.build_collaborative, ml.collaborative.serving; "
        "print([name for name in sys.modules if name.startswith(('pyspark', 'py4j'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_or_old_java_is_an_error_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MlError, match=r"no Java on the path.*apt-get install default-jre"):
        check_installed()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MlError, match="no Java at JAVA_HOME="):
        check_installed()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    for said in ('openjdk version "11.0.2" 2019-01-15', 'java version "1.8.0_392"'):
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
        with pytest.raises(MlError, match=r"found .* expected Java 17 or newer"):
            check_installed()


def test_a_missing_pyspark_is_an_error_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(MlError, match=r"pip install -r requirements-spark\.txt"):
        check_installed()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--spark", "--algorithm", "bayesian"], "leave --algorithm bayesian out"),
        (["--spark", "--lr", "0.1"], "--lr has no meaning for ALS"),
        (["--spark", "--report"], "--report is not available with --spark"),
        (["--spark", "--item-only"], "name them with --ratings"),
        (["--spark", "--item-only", "x"], "name them with --ratings"),
        (["--spark", "--ratings", "x", "--dataset", "sample"], "leave one out"),
        (["--spark", "--ratings", " "], "expected a path or URL"),
        (["--ratings", "x"], "--ratings needs --spark"),
        (["--item-only"], "--item-only needs --spark"),
        (["--checkpoint-dir", "x"], "--checkpoint-dir needs --spark"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code = main([*flags, "--models-dir", str(tmp_path)])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ratings.parquet", "ratings.csv", "parts/part-0.parquet"])
def test_a_pointer_of_git_lfs_in_place_of_ratings_says_how_to_fetch_it(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2149\n")
    source = path.parent if "parts" in name else path
    with pytest.raises(InputError, match=f"^{path} is a Git LFS pointer.*`git lfs pull`"):
        open_ratings(None, str(source))


def test_a_user_without_a_name_is_an_error_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hadoop does not start there, and says only that its process ended."""
    check_account()
    monkeypatch.setattr(os, "geteuid", lambda: 123_456_789)
    with pytest.raises(MlError, match=r"user 123456789 is not in /etc/passwd: add"):
        check_account()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3a://KEY:SEC/RET@bucket/stages", "s3a://…@bucket/stages"),
        ("hdfs://SECRET@host:8020/a", "hdfs://…@host:8020/a"),
        ("https://host/a?sig=SECRET", "https://host/a?…"),
        ("jdbc:postgresql://host/db?password=SECRET", "jdbc:…"),
        ("hdfs://host/a/stages", "hdfs://host/a/stages"),
    ],
)
def test_secrets_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert first_line(OSError(f"no {url} here\nat Java")) == f"no {shown} here"

"""`build_collaborative --engine spark`: releases of both shapes, resuming, and its errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import BACKEND
from jsonschema import Draft202012Validator
from small_builds import BUILD
from spark_cluster import NEEDS_JAVA
from surprise import SVD

from benchmarks.make_archive import draw_ratings
from benchmarks.service_load import wait_until
from ml.build_collaborative import main
from ml.collaborative.errors import MlError
from ml.collaborative.release import load_models, verify_release
from ml.collaborative.serving.model import load_collaborative
from ml.collaborative.spark.session import Cluster, check_installed

Run = Callable[..., subprocess.CompletedProcess[str]]
SCHEMA = json.loads((BACKEND / "docs/manifest.schema.json").read_text(encoding="utf-8"))
SPARK = "--engine", "spark", "--master", "local[2]", "--catalog", "all"


def published(models: Path) -> dict[str, Any]:
    manifest = verify_release(models / "live")
    Draft202012Validator(SCHEMA).validate(manifest)
    return manifest


def check_output(done: subprocess.CompletedProcess[str]) -> None:
    """Done, and nothing on stderr but lines of this project's."""
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("INFO: ") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@NEEDS_JAVA
def test_the_builds_own_ratings_become_a_usual_release(run: Run, tmp_path: Path) -> None:
    done = run(BUILD, "--dataset", "sample", "--epochs", "3", "--models-dir", tmp_path,
               "--force-publish", *SPARK)  # fmt: skip
    check_output(done)
    manifest = published(tmp_path)
    assert manifest["algorithm"] == "als"
    assert manifest["parameters"]["iterations"] == 3
    assert manifest["metrics"][0]["model"] == "ALS"
    assert "pyspark" in manifest["versions"]
    assert "shape" not in manifest["model"]
    svd, trainset = load_models(tmp_path)
    assert type(svd) is SVD
    model = load_collaborative(tmp_path)
    user, films = trainset.to_raw_uid(5), model.movie_ids[:50]
    est = [svd.predict(user, int(film)).est for film in films]
    np.testing.assert_allclose(model.predict(user, films), est)
    assert model.knows_user(user)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@NEEDS_JAVA
def test_a_build_of_a_database_that_was_killed_resumes_and_serves_films_alone(
    start: Callable[..., subprocess.Popen[str]], run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    """Over JDBC from Derby, whose driver comes with Spark."""
    drawn = draw_ratings(3_000, 90, 60)
    make_database(cluster, tmp_path / "db", drawn)
    stages = tmp_path / "stages"
    command = (
        BUILD, "--ratings", f"jdbc:derby:{tmp_path / 'db'}", "--films-only", "--models-dir",
        tmp_path / "models", "--checkpoint-dir", stages, "--user-vectors", tmp_path / "users",
        "--epochs", "4", "--factors", "4", *SPARK,
    )  # fmt: skip
    quiet = {"SPARK_SUBMIT_OPTS": f"-Dderby.stream.error.file={tmp_path / 'derby.log'}"}
    process = start(*command, **quiet)
    wait_until(lambda: list(stages.glob("*-user-biases/_SUCCESS")), "the users' biases", 100)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "models" / "live").exists()
    done = run(*command, "--force-publish", **quiet)
    check_output(done)
    assert "INFO: taken up from " in done.stderr
    assert "-item-biases" in done.stderr
    manifest = published(tmp_path / "models")
    assert manifest["model"]["shape"] == "item-only"
    data = manifest["data"]
    users = drawn["userId"].nunique()
    assert (data["ratings"], data["users"], data["app_users"]) == (3_000, users, users)
    model = load_collaborative(tmp_path / "models")
    loved, hated = model.movie_ids[:2].tolist()
    folded = model.fold_in({loved: 5.0, hated: 0.5})
    found = model.recommend(folded, 5)
    assert len(found) == 5
    assert not {loved, hated} & {film.movie_id for film in found}
    stranger = model.predict("1", model.movie_ids)
    svd = joblib.load(tmp_path / "models" / "svd_model.pkl")
    np.testing.assert_allclose(
        stranger, [svd.predict("1", int(film)).est for film in model.movie_ids]
    )
    assert len(model.similar(loved, 3)) == 3
    assert not model.knows_user("1")
    same = run(*command, "--if-changed")
    assert same.stdout == f"Nothing changed since release {manifest['build_id']}: nothing built\n"
    listed = run(BUILD, "--list", "--models-dir", tmp_path / "models")
    assert "als, item-only" in listed.stdout
    top = run(
        "ml.collaborative",
        "export",
        tmp_path / "top.parquet",
        "--models-dir",
        tmp_path / "models",
    )
    assert top.returncode == 2
    assert "is of films alone and knows no users" in top.stderr
    vectors = pq.read_table(tmp_path / "users" / manifest["build_id"])
    assert vectors.num_rows == users
    own = vectors.to_pylist()[0]
    known = dict(
        drawn.loc[drawn["userId"] == int(own["user_id"]), ["movieId", "rating"]].to_numpy().tolist()
    )
    again = model.fold_in({int(film): stars for film, stars in known.items()})
    assert abs(again.bias - own["bias"]) < 1


def make_database(cluster: Cluster, path: Path, drawn: Any) -> None:
    jvm: Any = cluster.session.sparkContext._jvm
    jvm.java.lang.System.setProperty("derby.stream.error.file", str(path.with_suffix(".log")))
    connection = jvm.java.sql.DriverManager.getConnection(f"jdbc:derby:{path};create=true")
    statement = connection.createStatement()
    statement.execute(
        "CREATE TABLE ratings (user_id BIGINT, movie_id BIGINT, rating DOUBLE, "
        "PRIMARY KEY (user_id, movie_id))"
    )
    rows = zip(drawn["userId"], drawn["movieId"], drawn["rating"], strict=True)
    values = [f"({user}, {film}, {stars})" for user, film, stars in rows]
    for start in range(0, len(values), 100):
        statement.execute(f"INSERT INTO ratings VALUES {', '.join(values[start : start + 100])}")
    connection.close()
    with pytest.raises(Exception, match="08006"):  # as Derby says that it has closed it
        jvm.java.sql.DriverManager.getConnection(f"jdbc:derby:{path};shutdown=true")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "spark", "--algorithm", "bayesian"], "leave --algorithm bayesian out"),
        (["--engine", "spark", "--tune", "3"], "--engine spark takes no --tune"),
        (["--engine", "spark", "--lr", "0.1"], "--engine spark takes no --lr"),
        (["--engine", "spark", "--report"], "--report is of --engine local"),
        (["--engine", "spark", "--films-only"], "name them by --ratings"),
        (["--engine", "spark", "--user-vectors", "x"], "name them by --ratings"),
        (["--engine", "spark", "--ratings", "x", "--dataset", "sample"], "leave one out"),
        (
            ["--engine", "spark", "--ratings", "x", "--films-only", "--cv", "3"],
            "leave it out with --films-only",
        ),
        (["--ratings", "x"], "--ratings is of --engine spark"),
        (["--checkpoint-dir", "x"], "--checkpoint-dir is of --engine spark"),
        (["--engine", "spark", "--ratings", " "], "expected a path or URL"),
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


def test_a_missing_or_old_java_is_said_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MlError, match=r"no Java on the path.*apt-get install default-jre-headless"):
        check_installed()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MlError, match="no Java at JAVA_HOME="):
        check_installed()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    for said in ('openjdk version "11.0.2" 2019-01-15', 'java version "1.8.0_392"'):
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
        with pytest.raises(MlError, match=r"found .* and Spark needs Java 17 or newer"):
            check_installed()


def test_a_missing_pyspark_is_said_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(MlError, match=r"pip install -r requirements-spark\.txt"):
        check_installed()


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@NEEDS_JAVA
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--master", "nonsense://x"], 2, "Spark knows no master 'nonsense://x'"),
        (["--master", "local[x]"], 2, "Spark knows no master 'local[x]'"),
        (["--master", "yarn"], 2, "--master yarn needs HADOOP_CONF_DIR"),
        (["--master", "local[1]", "--ratings", "/none.csv"], 3, "there is nothing at /none.csv"),
    ],
)
def test_a_cluster_or_ratings_that_are_not_there_have_their_exit_codes(
    run: Run, tmp_path: Path, flags: list[str], code: int, message: str
) -> None:
    done = run(BUILD, "--engine", "spark", "--catalog", "all", "--models-dir", tmp_path, *flags)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in done.stderr

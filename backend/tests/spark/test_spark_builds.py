"""`build_collaborative --spark`: full and item-only releases, resuming, and its errors."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_builds import BUILD, build
from spark_cluster import ON_SPARK, QUICK_JAVA
from surprise import SVD

from benchmarks.make_archive import draw_ratings
from ml.build_collaborative import main
from ml.collaborative import __main__ as tool
from ml.collaborative.release import ReleaseStore, load_models, verify_release
from ml.collaborative.serving import load_collaborative
from ml.collaborative.spark.session import Cluster

pytestmark = ON_SPARK

Run = Callable[..., subprocess.CompletedProcess[str]]
SPARK = "--spark", "local[2]", "--catalog", "all"
TOOL = "ml.collaborative"


def published(models: Path) -> dict[str, Any]:
    return verify_release(ReleaseStore(models).live_folder())


def check_output(done: subprocess.CompletedProcess[str]) -> None:
    """It succeeded, and nothing is on stderr but this project's log lines."""
    assert done.returncode == 0, done.stderr
    ours = "INFO: ", "WARNING: lists: "
    assert all(line.startswith(ours) for line in done.stderr.splitlines()), done.stderr


def test_the_builds_own_ratings_become_a_full_release(run: Run, tmp_path: Path) -> None:
    done = run(BUILD, "--dataset", "sample", "--epochs", "3", "--models-dir", tmp_path,
               "--force-publish", *SPARK, **QUICK_JAVA)  # fmt: skip
    check_output(done)
    manifest = published(tmp_path)
    assert manifest["algorithm"] == "als"
    assert manifest["parameters"]["iterations"] == 3
    assert manifest["metrics"][0]["model"] == "ALS as asked for"
    assert "pyspark" in manifest["versions"]
    assert "shape" not in manifest["model"]
    svd, trainset = load_models(tmp_path)
    assert type(svd) is SVD
    model = load_collaborative(tmp_path)
    user, films = trainset.to_raw_uid(5), model.movie_ids[:50]
    est = [svd.predict(user, int(film)).est for film in films]
    np.testing.assert_allclose(model.predict(user, films), est)
    assert model.knows_user(user)


def test_a_killed_item_only_build_of_a_database_resumes_and_is_served(
    start: Callable[..., subprocess.Popen[str]], run: Run, cluster: Cluster, tmp_path: Path
) -> None:
    """Over JDBC from Derby, whose driver comes with Spark."""
    drawn = draw_ratings(3_000, 90, 60)
    make_database(cluster, tmp_path / "db", drawn)
    command = (
        BUILD, "--ratings", f"jdbc:derby:{tmp_path / 'db'}", "--item-only", tmp_path / "users",
        "--models-dir", tmp_path / "models", "--checkpoint-dir", tmp_path / "stages",
        "--epochs", "2", "--factors", "4", *SPARK,
    )  # fmt: skip
    derby = f"-Dderby.stream.error.file={tmp_path / 'derby.log'}"
    env = {**QUICK_JAVA, "SPARK_SUBMIT_OPTS": derby}
    process = start(*command, **env)
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "-user-biases is done" in line:
            break
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, lines
    assert ReleaseStore(tmp_path / "models").live_id() is None
    done = run(*command, "--force-publish", **env)
    check_output(done)
    for side in ("item", "user"):
        assert f"-{side}-biases was done before" in done.stderr
    assert "-ranking is done" in done.stderr
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
    assert model.snapshot.ranking is not None
    same = run(*command, "--if-changed", **env)
    assert same.stdout == f"Nothing changed since release {manifest['build_id']}: nothing built\n"
    listed = run(TOOL, "releases", "--models-dir", tmp_path / "models")
    assert "als, item-only" in listed.stdout
    top = run(TOOL, "export", tmp_path / "top.parquet", "--models-dir", tmp_path / "models")
    assert top.returncode == 2
    assert "is item-only and knows no users" in top.stderr
    vectors = pq.read_table(tmp_path / "users" / manifest["build_id"])
    assert vectors.num_rows == users
    own = vectors.to_pylist()[0]
    known = dict(
        drawn.loc[drawn["userId"] == int(own["user_id"]), ["movieId", "rating"]].to_numpy().tolist()
    )
    again = model.fold_in({int(film): stars for film, stars in known.items()})
    assert abs(again.bias - own["bias"]) < 1


def test_item_only_builds_keep_to_a_catalog_the_gate_and_the_history(
    cluster: Cluster, real_ratings: pd.DataFrame, tmp_path: Path
) -> None:
    """In the session that is open; a quarter of ML-100K's users, and one of the app's."""
    ids = real_ratings["user_id"].astype("str")
    rows = real_ratings.assign(user_id=ids)[ids.str[-1].isin(["1", "4", "7"])]
    rows = rows.reset_index(drop=True)
    rows.loc[:2, "user_id"] = "me"
    films = np.unique(rows["movie_id"])
    catalog, own = {*films[::2].tolist(), 999_999}, {*rows["movie_id"][:3].tolist()}
    joblib.dump(catalog, tmp_path / "movie_ids.pkl")
    path, models = tmp_path / "ratings.parquet", tmp_path / "models"
    flags = ("--spark", "--ratings", path, "--item-only", "--catalog", tmp_path / "movie_ids.pkl",
             "--epochs", "3", "--factors", "4")  # fmt: skip
    rows.to_parquet(path, index=False)
    first = build(models, *flags)
    model = load_collaborative(models)
    assert {*model.movie_ids.tolist()} == catalog & {*films.tolist()} | own
    assert model.manifest["catalog"]["published"] == len(model.movie_ids)
    assert model.manifest["data"]["films"] == len(films)
    assert model.manifest["gate"]["passed"]
    assert model.manifest["model"]["lists"] == "ranking"
    ranking = model.snapshot.ranking
    assert ranking is not None
    assert (ranking.trained_films, len(ranking.q)) == (len(films), len(model.movie_ids))
    assert ranking.head.max() < len(model.movie_ids)
    new = model.fold_in(dict.fromkeys(model.movie_ids[:5].tolist(), 5.0))
    listed = model.recommend(new, 5)
    assert model.because(new, listed[0].movie_id, 1)
    assert listed != model.recommend(new, 5, by="stars")
    assert len(model.recommend("somebody", 5)) == 5
    assert build(models, *flags, "--if-changed") == first
    rows.assign(rating=rows["rating"].where(rows.index > 0, 0.5)).to_parquet(path, index=False)
    second = build(models, *flags, "--if-changed")
    assert second != first
    rows[::2].to_parquet(path, index=False)
    assert main([*map(str, flags), "--models-dir", str(models)]) == 5
    assert ReleaseStore(models).live_id() == second
    assert model.reload_if_changed()
    assert tool.main(["rollback", "--models-dir", str(models)]) == 0
    assert model.reload_if_changed()
    assert model.recommend(model.fold_in(new.ratings), 5) == listed
    assert model.manifest["build_id"] == first


def test_vectors_that_cannot_be_written_leave_what_is_published(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw_ratings(400, 40, 20)
    names = {"userId": "user_id", "movieId": "movie_id"}
    drawn.rename(columns=names).to_parquet(tmp_path / "ratings.parquet", index=False)
    (tmp_path / "file").touch()
    models = tmp_path / "models"
    flags = ("--spark", "--ratings", tmp_path / "ratings.parquet", "--item-only", tmp_path / "file",
             "--catalog", "all", "--epochs", "1", "--factors", "2", "--force-publish",
             "--models-dir", models)  # fmt: skip
    assert main([*map(str, flags)]) == 4
    said = capsys.readouterr().err
    assert "ranking: training on 400 ratings" in said
    assert said.splitlines()[-1].startswith("error: the Spark cluster failed")
    assert ReleaseStore(models).live_id() is None


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
    with pytest.raises(Exception, match="08006"):  # Derby's code for a database that it has closed
        jvm.java.sql.DriverManager.getConnection(f"jdbc:derby:{path};shutdown=true")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["nonsense://x"], 2, "found master 'nonsense://x'"),
        (["local[x]"], 2, "found master 'local[x]'"),
        (["yarn"], 2, "--spark yarn needs HADOOP_CONF_DIR"),
        (["local[1]", "--ratings", "/none.csv"], 3, "there is nothing at /none.csv"),
    ],
)
def test_a_missing_cluster_or_ratings_have_their_exit_codes(
    run: Run, tmp_path: Path, flags: list[str], code: int, message: str
) -> None:
    done = run(BUILD, "--models-dir", tmp_path, "--catalog", "all", "--spark", *flags, **QUICK_JAVA)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in done.stderr

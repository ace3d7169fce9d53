"""Training on a real Spark cluster gives what the same training gives here, also when parts die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from spark_cluster import NEEDS_JAVA, executors
from surprise import SVD

from benchmarks.local_als import fit_local_als
from benchmarks.make_archive import draw_ratings
from ml.collaborative.algorithms.svd import predict_pairs
from ml.collaborative.algorithms.training import ALS, DEFAULTS, make_fit
from ml.collaborative.errors import GateError, InputError, SourceError, UsageError
from ml.collaborative.evaluation import hold_out
from ml.collaborative.evaluation.metrics import rmse
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.ratings import combine, empty_ratings, make_ratings, rating_scale
from ml.collaborative.release import model_arrays
from ml.collaborative.spark.als import describe_als, fit_als, fit_films
from ml.collaborative.spark.ratings import Given, read_given
from ml.collaborative.spark.session import Cluster, open_cluster
from ml.collaborative.trainset import make_trainset

pytestmark = [pytest.mark.spark, pytest.mark.xdist_group("spark"), NEEDS_JAVA]

ODD = ["ml_1", " a b", "a,b\n\"c'", "ünï\u0000", "\U0001f3ac", "0", "00", "A", "a"]
"""Users' ids that CSV, SQL, JSON or a sort might trip over."""
QUICK = replace(DEFAULTS[ALS], factors=3, epochs=2)
PARTS = "bu", "bi", "pu", "qi"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """20,000 generated ratings of 300 users and 200 films, some of the app."""
    drawn = draw_ratings(20_000, 300, 200)
    users = [f"ml_{user}" if user % 3 else str(user) for user in drawn["userId"]]
    return make_ratings(users, drawn["movieId"] * 7, drawn["rating"])


@pytest.fixture(scope="module")
def given(cluster: Cluster, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Given:
    path = tmp_path_factory.mktemp("given") / "ratings.parquet"
    write(path, table)
    return read_given(cluster, str(path), None)


def write(path: Path, rows: pd.DataFrame) -> None:
    rows.astype({name: "str" for name in rows if isinstance(rows[name].dtype, pd.CategoricalDtype)}
                ).to_parquet(path, index=False)  # fmt: skip


def in_order(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return sorted(
        zip(table["user_id"].astype("str"), table["movie_id"], table["rating"], strict=True)
    )


def test_errors_on_ml_100k_are_those_of_the_same_training_here(
    cluster: Cluster, real_ratings: pd.DataFrame
) -> None:
    """One of five folds; all of them are in benchmarks/RESULTS.md."""
    split = next(k_folds(len(real_ratings), 5, 0))
    test = real_ratings.iloc[split.test]
    trainset = make_trainset(real_ratings.iloc[split.train])
    parameters = DEFAULTS[ALS]
    models = (
        fit_als(trainset, parameters=parameters, seed=0, cluster=cluster),
        fit_local_als(trainset, seed=0, **describe_als(parameters)),
    )
    here = [
        rmse(predict_pairs(model, *trainset.find(test)) - test["rating"].to_numpy())
        for model in models
    ]
    assert here[0] == pytest.approx(here[1], abs=0.01)
    assert here[0] < 0.92
    assert type(models[0]) is SVD
    np.testing.assert_allclose(models[0].bi, models[1].bi, atol=1e-5)
    np.testing.assert_allclose(models[0].bu, models[1].bu, atol=1e-5)


def test_a_fit_outlives_its_executors_and_is_the_same(
    cluster: Cluster, table: pd.DataFrame
) -> None:
    trainset = make_trainset(table)
    parameters = replace(QUICK, epochs=8)
    calm = fit_als(trainset, parameters=parameters, seed=1, cluster=cluster)
    killed: list[int] = []
    done = Event()

    def kill() -> None:
        """One executor, once ALS is at work: its jobs come after those of the biases."""
        tracker = cluster.session.sparkContext.statusTracker()
        before = max(tracker.getJobIdsForGroup(None), default=0)
        while not done.is_set():
            jobs = tracker.getJobIdsForGroup(None)
            if max(jobs, default=0) > before + 5 and tracker.getActiveStageIds():
                killed.append(min(executors(cluster)))
                os.kill(killed[0], signal.SIGKILL)
                return

    killer = Thread(target=kill)
    killer.start()
    found = fit_als(trainset, parameters=parameters, seed=1, cluster=cluster)
    done.set()
    killer.join()
    assert killed
    assert killed[0] not in executors(cluster)
    for part in PARTS:
        np.testing.assert_allclose(getattr(found, part), getattr(calm, part), atol=1e-3)


def test_ratings_come_back_with_the_ids_they_went_with(cluster: Cluster, tmp_path: Path) -> None:
    rows = make_ratings(
        np.repeat(ODD, 3), [603, 9_007_199_254_740_991, 12] * len(ODD), [0.5, 5, 3] * len(ODD)
    )
    write(tmp_path / "r.parquet", rows)
    given = read_given(cluster, str(tmp_path / "r.parquet"), None)
    found = given.collect()
    assert in_order(found) == in_order(rows)
    assert in_order(combine(found, empty_ratings())) == in_order(rows)
    assert given.counts == {"ratings": 27, "users": 9, "app_ratings": 24, "app_users": 8}
    assert given.scale == (0.5, 5)


def test_integers_from_csv_keep_the_highest_of_several_ratings_and_the_catalogs_films(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("rating,user_id,movie_id,x\n3,7,10,a\n5,7,10,b\n1,8,20,\n2,9,10,\n")
    given = read_given(cluster, str(path), {10, 99})
    assert in_order(given.collect()) == [("7", 10, 5), ("9", 10, 2)]
    assert given.dropped == {
        "the film is not in the catalog": 1, "second rating of a film": 1,
    }  # fmt: skip
    assert given.scale == (1, 5)
    with pytest.raises(InputError, match="no rating is of a film of the catalog"):
        read_given(cluster, str(path), {99})


def test_ids_of_csv_and_of_columns_with_blanks_are_those_that_were_meant(
    cluster: Cluster, tmp_path: Path
) -> None:
    ids = ["a,b", 'say "hi"', "two\nlines", " x "]
    rows = pd.DataFrame({"user_id": ids, "movie_id": 11, "rating": 3.0})
    rows.to_csv(tmp_path / "r.csv", index=False)
    assert in_order(read_given(cluster, str(tmp_path / "r.csv"), None).collect()) == [
        (name, 11, 3.0) for name in sorted(ids)
    ]
    rows.assign(user_id=[7.0, 7e9, 1.5, 8.0]).to_parquet(tmp_path / "r.parquet")
    found = read_given(cluster, str(tmp_path / "r.parquet"), None).collect()
    assert sorted(found["user_id"].astype("str")) == ["1.5", "7", "7000000000", "8"]
    rows.assign(movie_id=True).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match="movie_id as boolean: expected text or a number"):
        read_given(cluster, str(tmp_path / "r.parquet"), None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("user_id,movie,rating\n1,2,3\n", "lacks movie_id: found user_id, movie, rating"),
        ("user_id,movie_id,rating\n1,2,3\n1,3,7\n", "1 of 2 rows whose rating is no number from"),
        ("user_id,movie_id,rating\n1,2,\n,2,3\n", "1 of 2 rows without a user"),
        ("user_id,movie_id,rating\n1,tt2,3\n1,2,3\n", "whose movie_id is no positive integer"),
        ("user_id,movie_id,rating\n", "has no ratings"),
        ("user_id,movie_id,rating\n1,2,good\n", "whose rating is no number"),
    ],
)
def test_what_is_no_rating_is_said_in_a_line(
    cluster: Cluster, tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "r.csv").write_text(rows)
    with pytest.raises(InputError, match=message) as caught:
        read_given(cluster, str(tmp_path / "r.csv"), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("/none.parquet", InputError, "there is nothing at"),
        ("jdbc:nosuch://127.0.0.1/x?password=hidden", InputError, "no driver for the database"),
        ("jdbc:derby:/none/x;password=hidden", SourceError, "the database could not be reached"),
        ("hdfs://127.0.0.1:9/r.parquet", SourceError, "could not be read"),
        ("s3a://KEY:hidden@bucket/r.parquet", InputError, "no connector for s3a://…@bucket"),
    ],
)
def test_ratings_that_are_not_there_are_said_in_a_line_without_secrets(
    cluster: Cluster, source: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        read_given(cluster, source, None)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_file_is_no_parquet(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("no ratings")
    with pytest.raises(InputError) as caught:
        read_given(cluster, str(tmp_path / "r.parquet"), None)
    assert "\n" not in str(caught.value)


def test_a_model_of_films_alone_is_the_usual_one_without_its_users(
    cluster: Cluster, given: Given, table: pd.DataFrame
) -> None:
    collected = given.collect()
    trainset = make_trainset(collected)
    usual = fit_als(trainset, parameters=QUICK, seed=2, cluster=cluster)
    films, empty, fitted = fit_films(
        cluster, given.ratings, len(table), given.scale, given.movie_ids, QUICK, 2, "same"
    )
    order = np.argsort(trainset.raw_items())
    assert given.scale == rating_scale(table["rating"]) == empty.rating_scale
    assert empty.global_mean == pytest.approx(trainset.global_mean)
    np.testing.assert_allclose(films.bi, usual.bi[order], atol=1e-9)
    arrays, whole = model_arrays(films, empty), model_arrays(usual, trainset)
    assert arrays["bu"].shape == (0,)
    assert arrays["pu"].shape == (0, 3)
    assert arrays["rated_stars"].shape == (0,)
    # The first vectors differ by who has which number; what they are turned by says nothing.
    pairs = (arrays["fold_in_root"], films.qi), (whole["fold_in_root"], usual.qi[order])
    predicted = [root.T @ np.vstack([np.ones(len(qi)), qi.T]) for root, qi in pairs]
    moments = [np.sqrt((z**2).sum(axis=0)) for z in predicted]
    assert moments[0].mean() == pytest.approx(moments[1].mean(), rel=0.02)
    assert fitted.users.count() == table["user_id"].nunique()
    est = films.predict("somebody", int(given.movie_ids[5])).est
    assert est == pytest.approx(np.clip(empty.global_mean + films.bi[5], *given.scale))


def test_what_a_large_set_is_judged_by_is_what_it_would_be_here(
    given: Given, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_out, "MOST", 3_000)
    assert 0 < len(given.sample()) <= 3_000
    assert in_order(given.sample()) == in_order(hold_out.sample_users(table))
    monkeypatch.setattr(hold_out, "MOST", 15_000)
    assert in_order(given.sample()) == in_order(hold_out.sample_users(table))


def test_from_a_size_on_a_release_is_of_films_alone(given: Given) -> None:
    ratings, users = given.counts["ratings"], given.counts["users"]
    assert given.is_usual(3)
    assert given.is_usual(3, most_ratings=ratings, most_numbers=3 * users)
    assert not given.is_usual(3, most_ratings=ratings - 1)
    assert not given.is_usual(3, most_numbers=3 * users - 1)


def test_partitions_and_storage_follow_the_size_unless_they_are_set(cluster: Cluster) -> None:
    assert cluster.partitions_for(10_000_000) == 10
    assert cluster.partitions_for(10) >= 2
    assert replace(cluster, partitions=7).partitions_for(10) == 7
    assert cluster.storage_for(1_000) == "MEMORY_AND_DISK"
    assert cluster.storage_for(10**9) == "MEMORY_AND_DISK_SER"
    assert replace(cluster, storage="DISK_ONLY").storage_for(1_000) == "DISK_ONLY"


def test_als_needs_a_cluster_and_finite_results(cluster: Cluster, table: pd.DataFrame) -> None:
    trainset = make_trainset(table)
    with pytest.raises(UsageError, match="say --engine spark"):
        make_fit(ALS, QUICK, 0)(trainset)
    with pytest.raises((GateError, SourceError)):
        fit_als(trainset, parameters=replace(QUICK, reg=1e-300, factors=150), seed=0,
                cluster=cluster)  # fmt: skip


def test_a_session_that_is_there_is_taken_and_left(cluster: Cluster) -> None:
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


def test_ids_of_users_are_numbered_in_order_without_coming_here(given: Given) -> None:
    ids = given.user_ids.sort("user").toArrow()
    assert ids["user"].to_pylist() == list(range(given.counts["users"]))
    names = ids["user_id"].to_pylist()
    assert names == sorted(names)


def test_nothing_of_spark_is_imported_without_it() -> None:
    code = (
        "import sys; from ml import build_collaborative, serving; "
        "print([name for name in sys.modules if name.startswith(('pyspark', 'py4j'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

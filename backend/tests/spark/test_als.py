"""Training on a real Spark cluster gives what the same training in NumPy gives."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pandas as pd
import pytest
from spark_cluster import ON_SPARK, executors
from surprise import SVD

from benchmarks.local_als import fit_local_als
from ml.build_collaborative import save_models
from ml.collaborative.algorithms.parts import parts_of
from ml.collaborative.algorithms.svd import predict_pairs
from ml.collaborative.algorithms.training import make_training
from ml.collaborative.errors import GateError, SourceError, UsageError
from ml.collaborative.evaluation.metrics import rmse
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.ratings import rating_scale
from ml.collaborative.release import model_arrays
from ml.collaborative.serving import load_collaborative
from ml.collaborative.spark import ALS, als, on_cluster
from ml.collaborative.spark.als import describe_als, fit_als, regularisation
from ml.collaborative.spark.item_only import fit_items
from ml.collaborative.spark.ranking import Size
from ml.collaborative.spark.ratings import Given
from ml.collaborative.spark.session import Cluster
from ml.collaborative.trainset import make_trainset

pytestmark = ON_SPARK

QUICK = replace(ALS.defaults, factors=3, epochs=2)
PARTS = "bu", "bi", "pu", "qi"


def test_regularisation_falls_with_the_root_of_the_ratings_that_rows_have() -> None:
    sizes = Size(100, 50, 50), Size(6_400, 100, 100), Size(25_600, 100, 100), Size(25_600, 400, 25)
    found = [regularisation(0.15, size) for size in sizes]
    np.testing.assert_allclose(found, [0.15, 0.15, 0.075, 0.075])


def test_errors_on_ml_100k_are_those_of_the_same_training_in_numpy(
    cluster: Cluster, real_ratings: pd.DataFrame
) -> None:
    """One of five folds; all of them are in benchmarks/RESULTS.md."""
    split = next(k_folds(len(real_ratings), 5, 0))
    test = real_ratings.iloc[split.test]
    trainset = make_trainset(real_ratings.iloc[split.train])
    parameters = ALS.defaults
    models = (
        fit_als(trainset, parameters=parameters, seed=0, cluster=cluster),
        fit_local_als(trainset, seed=0, **describe_als(parameters)),
    )
    errors = [
        rmse(predict_pairs(model, *trainset.find(test)) - test["rating"].to_numpy())
        for model in models
    ]
    assert errors[0] == pytest.approx(errors[1], abs=0.01)
    assert errors[0] < 0.92
    assert type(models[0]) is SVD
    np.testing.assert_allclose(models[0].bi, models[1].bi, atol=1e-5)
    np.testing.assert_allclose(models[0].bu, models[1].bu, atol=1e-5)


def test_a_training_survives_the_death_of_an_executor_and_is_the_same(
    cluster: Cluster, drawn: pd.DataFrame
) -> None:
    trainset = make_trainset(drawn)
    parameters = replace(QUICK, epochs=8)
    calm = fit_als(trainset, parameters=parameters, seed=1, cluster=cluster)
    killed: list[int] = []
    done = Event()

    def kill() -> None:
        """Kill one executor once ALS is running: its jobs come after those of the biases."""
        tracker = cluster.session.sparkContext.statusTracker()
        before = max(tracker.getJobIdsForGroup(None), default=0)
        while not done.wait(0.02):
            jobs = tracker.getJobIdsForGroup(None)
            if max(jobs, default=0) > before + 5 and tracker.getActiveStageIds():
                killed.append(min(executors(cluster)))
                os.kill(killed[0], signal.SIGKILL)
                return

    killer = Thread(target=kill)
    killer.start()
    try:
        found = fit_als(trainset, parameters=parameters, seed=1, cluster=cluster)
    finally:
        done.set()
        killer.join()
    assert killed
    assert killed[0] not in executors(cluster)
    for part in PARTS:
        np.testing.assert_allclose(getattr(found, part), getattr(calm, part), atol=1e-3)


def test_many_iterations_need_no_checkpoints(cluster: Cluster, drawn: pd.DataFrame) -> None:
    training = make_training(ALS, factors=2, epochs=40)
    assert np.isfinite(on_cluster(training, cluster).fit(make_trainset(drawn.head(2_000))).pu).all()


def test_an_item_only_model_is_the_full_one_without_its_users(
    cluster: Cluster, given: Given, drawn: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = given.collect()
    monkeypatch.setattr(als, "MAX_LOCAL_RANKING", len(drawn) - 1)
    trainset = make_trainset(collected)
    full = fit_als(trainset, parameters=QUICK, seed=2, cluster=cluster)
    films, empty, fitted = fit_items(
        cluster, given.ratings, given.size, given.scale, given.movie_ids, QUICK, 2, "same"
    )
    order = np.argsort(trainset.raw_items())
    assert given.scale == rating_scale(drawn["rating"]) == empty.rating_scale
    assert empty.global_mean == pytest.approx(trainset.global_mean)
    np.testing.assert_allclose(films.bi, full.bi[order], atol=1e-9)
    lists, of_full = parts_of(films).ranking, parts_of(full).ranking
    assert lists is not None
    assert of_full is not None
    np.testing.assert_allclose(lists.cold, of_full.cold[order], rtol=1e-5)
    assert {*lists.head.tolist()} == {*range(len(order))}
    arrays, whole = model_arrays(films, empty), model_arrays(full, trainset)
    assert arrays["bu"].shape == (0,)
    assert arrays["pu"].shape == (0, 3)
    assert arrays["rated_stars"].shape == (0,)
    # Vectors start by inner id, which differ, and are unique up to a rotation.
    pairs = (arrays["fold_in_root"], films.qi), (whole["fold_in_root"], full.qi[order])
    predicted = [root.T @ np.vstack([np.ones(len(qi)), qi.T]) for root, qi in pairs]
    moments = [np.sqrt((z**2).sum(axis=0)) for z in predicted]
    assert moments[0].mean() == pytest.approx(moments[1].mean(), rel=0.02)
    assert fitted.users.count() == drawn["user_id"].nunique()
    est = films.predict("somebody", int(given.movie_ids[5])).est
    assert est == pytest.approx(np.clip(empty.global_mean + films.bi[5], *given.scale))


def test_the_users_an_item_only_build_is_judged_by_are_those_it_would_serve(
    cluster: Cluster, drawn: pd.DataFrame, tmp_path: Path
) -> None:
    trainset = make_trainset(drawn)
    training = make_training(ALS, seed=2, factors=3, epochs=2)
    folded, plain = (on_cluster(training, cluster, folded=f).fit(trainset) for f in (True, False))
    np.testing.assert_array_equal(folded.qi, plain.qi)
    assert not np.allclose(folded.pu, plain.pu, atol=0.01)
    save_models(folded, trainset, str(tmp_path))
    model = load_collaborative(tmp_path)
    for user in (0, 7, 200):
        raw = trainset.to_raw_uid(user)
        rated = {trainset.to_raw_iid(film): stars for film, stars in trainset.ur[user]}
        served = model.predict(model.fold_in(rated), model.movie_ids)
        np.testing.assert_allclose(model.predict(raw, model.movie_ids), served)


def test_als_without_a_cluster_or_with_results_that_are_not_finite_is_an_error(
    cluster: Cluster, drawn: pd.DataFrame
) -> None:
    trainset = make_trainset(drawn.head(500))
    training = make_training(ALS, factors=40, epochs=2, reg=1e-300)
    with pytest.raises(UsageError, match="say --spark"):
        training.fit(trainset)
    with pytest.raises((GateError, SourceError)):
        on_cluster(training, cluster).fit(trainset)

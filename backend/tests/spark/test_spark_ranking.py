"""The ranking that a cluster trains is the one that this machine trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from spark_cluster import ON_SPARK

from ml.collaborative.algorithms import ranking as local
from ml.collaborative.algorithms.fold_in import solve
from ml.collaborative.algorithms.parts import parts_of
from ml.collaborative.algorithms.ranking_scores import Ranking, fold_in, score
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.splits import new_users
from ml.collaborative.spark import ALS, ranking, session
from ml.collaborative.spark.als import cache_by_user
from ml.collaborative.spark.item_only import fit_items
from ml.collaborative.spark.ranking import Size, fit_ranking
from ml.collaborative.spark.session import Cluster
from ml.collaborative.top_n import top_films
from ml.collaborative.trainset import ArrayTrainset, make_trainset

pytestmark = ON_SPARK


def on_cluster(cluster: Cluster, trainset: ArrayTrainset) -> tuple[object, Size]:
    """The ratings of a trainset as a training on the cluster takes them."""
    starts, films, stars = trainset.by_user
    users = np.repeat(np.arange(trainset.n_users, dtype=np.int32), np.diff(starts))
    table = pa.table({"user": users, "item": films, "rating": stars})
    size = Size(trainset.n_ratings, trainset.n_users, trainset.n_items)
    return cache_by_user(cluster, cluster.session.createDataFrame(table), size.ratings), size


def test_in_many_blocks_it_is_that_of_one_machine(
    cluster: Cluster, drawn: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HEAD_FILMS", 50)
    monkeypatch.setattr(local, "ALTERNATIONS", 3)
    for where, name, value in (
        (session, "RATINGS_PER_PARTITION", 5_000), (ranking, "RATINGS_PER_FILM_BLOCK", 7_000),
        (ranking, "ROWS_AT_ONCE", 7), (ranking, "RATINGS_AT_ONCE", 50),
        (ranking, "USERS_AT_ONCE", 13), (ranking, "STRIPS", 3),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)
    trainset = make_trainset(drawn)
    expected = local.fit_ranking(trainset, 5)
    with cluster.scope():
        rows, size = on_cluster(cluster, trainset)
        found = fit_ranking(cluster, rows, size, 5, "any")
    for name, tolerance in (("q", 1e-4), ("gram", 1e-2), ("mean_vector", 1e-4), ("cold", 1e-4)):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=tolerance)
    np.testing.assert_array_equal(found.head, expected.head)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1)
    for name in ("unseen_weight", "trained_films", "threshold"):
        assert getattr(found, name) == getattr(expected, name)


def test_lists_of_folded_in_users_on_ml_100k_are_as_good(
    cluster: Cluster, real_ratings: pd.DataFrame
) -> None:
    """Users the training never saw, with 10 known ratings each."""
    split = new_users(real_ratings["user_id"], 10, 0)
    known = real_ratings.iloc[split.train]
    of_others = ~known["user_id"].isin(real_ratings["user_id"].iloc[split.test])
    trainset = make_trainset(known[of_others])
    parameters = replace(ALS.defaults, epochs=3)
    with cluster.scope():
        rows, size = on_cluster(cluster, trainset)
        films = np.array(trainset.raw_items())
        svd, _, _ = fit_items(cluster, rows, size, (1, 5), films, parameters, 0, "ml-100k")
    ours = parts_of(svd).ranking
    assert ours is not None
    found = [
        ndcg(svd, trainset, one, known[~of_others], real_ratings.iloc[split.test])
        for one in (ours, local.fit_ranking(trainset, 0))
    ]
    assert found[0] == pytest.approx(found[1], abs=0.01)
    assert found[0] > 0.5


def ndcg(
    svd: object, trainset: ArrayTrainset, ranking: Ranking, known: pd.DataFrame, test: pd.DataFrame
) -> float:
    """NDCG@10 of the users of `known`, as a service would fold them in."""
    place = {film: row for row, film in enumerate(trainset.raw_items())}
    root = parts_of(svd).fold_in_root
    likes = test[(test["rating"] >= metrics.LIKED)]
    folded, stars, wanted, liked, seen = [], [], [], [], []
    for user, own in known[known["movie_id"].isin(place)].groupby("user_id", observed=True):
        hits = likes["movie_id"][likes["user_id"] == user]
        if hits.empty:
            continue
        rows, rated = own["movie_id"].map(place).to_numpy(), own["rating"].to_numpy()
        bias, *vector = solve(root, svd.qi[rows], rated - trainset.global_mean - svd.bi[rows])
        stars.append(trainset.global_mean + bias + svd.bi + svd.qi @ vector)
        folded.append(fold_in(ranking, rows, rated))
        wanted.append(np.isin(trainset.raw_items(), hits))
        seen.append(np.isin(np.arange(trainset.n_items), rows))
        liked.append(len(hits))
    scores = np.array([score(ranking, *pair) for pair in zip(folded, stars, strict=True)])
    top = top_films(scores, np.array(seen), metrics.TOP)
    hits = np.take_along_axis(np.array(wanted), top, axis=1)
    return float(metrics.ndcg(hits, np.array(liked)).mean())

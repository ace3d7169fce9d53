"""Bayesian training: what is sampled, what is compiled of it, and how good it is on real data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import pytest
from surprise.prediction_algorithms import matrix_factorization
from threadpoolctl import threadpool_limits

from benchmarks.make_archive import draw_ratings
from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.bayesian import Schedule, fit_bayesian, schedule_for
from ml.collaborative.algorithms.fold_in import implied
from ml.collaborative.algorithms.loops.gibbs import compiled_side, sample_side
from ml.collaborative.algorithms.posterior import PosteriorMean, Sample
from ml.collaborative.algorithms.training import ALGORITHMS, PLAN, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError, UsageError
from ml.collaborative.evaluation.metrics import rmse
from ml.collaborative.evaluation.protocol import evaluate
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.ratings import make_ratings
from ml.collaborative.trainset import make_trainset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml.collaborative.algorithms.training import Predict


def random_problem(seed: int) -> list[object]:
    """Arguments of `sample_side` on random ratings, mine and residual consistent with the rest."""
    rng = np.random.default_rng(seed)
    rows, columns, factors = 7, 5, 4
    table = np.argwhere(rng.random((rows, columns)) < 0.6).astype(np.int32)
    users, items = table.T
    starts = np.searchsorted(users, np.arange(rows + 1))
    order = np.argsort(items, kind="stable")
    other_starts = np.searchsorted(items[order], np.arange(columns + 1))
    weights = 1 / np.sqrt(np.maximum(np.diff(starts), 1))
    own, seen = rng.normal(size=(factors, rows)), rng.normal(size=(factors, columns))
    theirs = rng.normal(size=(factors, columns))
    own[1], seen[1] = 1, 0
    mine = own.copy()
    for user, item in table:
        mine[:, user] += weights[user] * seen[:, item]
    residual = rng.normal(size=len(table))
    means, precisions = rng.normal(size=(2, factors)), rng.gamma(2, size=(2, factors))
    draws = rng.normal(size=(factors, rows)), rng.normal(size=(factors, columns))
    return [
        starts, items.copy(), other_starts, users[order], weights, residual, mine, theirs, own,
        seen, 0.7, means, precisions, *draws, 1, np.empty((rows, 4)),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_a_gibbs_step_draws_each_parameter_from_its_conditional(seed: int) -> None:
    """Against the textbook: a regression on one feature of the rating, all others held still."""
    arguments = random_problem(seed)
    (starts, items, _, _, weights, residual, mine, theirs, own, seen) = (
        np.copy(a) for a in arguments[:10]
    )
    alpha, means, precisions, *draws = arguments[10:15]
    users = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    for factor in (0, 2, 3):
        loading = theirs[factor, items]
        for side, parameters in enumerate((own, seen)):
            for k in range(parameters.shape[1]):
                if side == 0:
                    feature = np.where(users == k, loading, 0)
                else:
                    raters = users[items == k]
                    feature = np.isin(users, raters) * weights[users] * loading
                before = parameters[factor, k]
                target = residual + feature * before
                precision = precisions[side, factor] + alpha * feature @ feature
                mean = precisions[side, factor] * means[side, factor] + alpha * feature @ target
                after = mean / precision + draws[side][factor, k] / np.sqrt(precision)
                parameters[factor, k] = after
                residual -= feature * (after - before)
    squares = compiled_side()(*arguments)
    for found, expected in zip(
        (arguments[5], arguments[8], arguments[9]), (residual, own, seen), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-10)
    assert squares == pytest.approx(residual @ residual)
    total = own.copy()
    for user, item in zip(users, items, strict=True):
        total[:, user] += weights[user] * seen[:, item]
    np.testing.assert_allclose(arguments[6], total, atol=1e-10)
    assert mine[1].tolist() == arguments[6][1].tolist()  # the constant factor stays


def test_the_compiled_step_is_the_one_that_is_read() -> None:
    read, compiled = random_problem(9), random_problem(9)
    assert sample_side(*read) == pytest.approx(compiled_side()(*compiled))
    for a, b in zip(read, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def draw_samples(count: int, users: int, items: int, rank: int) -> list[Sample]:
    rng = np.random.default_rng(1)
    sizes = users, items, items
    return [
        Sample(rng.normal(), *(normal(rng, size, 1 + rank) for size in sizes)) for _ in range(count)
    ]


def mean_of(
    samples: list[Sample], counts: tuple[NDArray[Any], NDArray[Any]], factors: int
) -> PosteriorMean:
    mean = PosteriorMean(*counts, factors)
    for sample in samples:
        mean.add(sample)
    return mean


def mean_prediction(samples: list[Sample]) -> NDArray[np.float64]:
    return np.mean(
        [
            s.constant + s.users[:, :1] + s.items[:, 0] + s.users[:, 1:] @ s.items[:, 1:].T
            for s in samples
        ],
        axis=0, dtype=np.float64,
    )  # fmt: skip


@pytest.mark.parametrize(("users", "items"), [(12, 30), (30, 12), (9, 9)])
def test_the_mean_of_all_samples_is_compiled_exactly(users: int, items: int) -> None:
    """More samples than there is room for between two cuts."""
    samples = draw_samples(90, users, items, 3)
    counts = np.arange(1, users + 1), np.arange(1, items + 1)
    bu, bi, pu, qi, _ = mean_of(samples, counts, 40).compile()
    assert (pu.shape, qi.shape) == ((users, 40), (items, 40))
    np.testing.assert_allclose(bu[:, None] + bi + pu @ qi.T, mean_prediction(samples), atol=1e-5)


def test_the_mean_of_several_chains_is_that_of_all_their_samples() -> None:
    samples = draw_samples(90, 40, 30, 3)
    counts = np.arange(1, 41), np.arange(1, 31)
    first = mean_of(samples[:50], counts, 40)
    first.add_mean(mean_of(samples[50:], counts, 40))
    bu, bi, pu, qi, _ = first.compile()
    np.testing.assert_allclose(bu[:, None] + bi + pu @ qi.T, mean_prediction(samples), atol=1e-5)


def test_what_rated_films_add_to_a_user_is_in_bias_and_vector() -> None:
    """Of two users who are alike but for two rated films, the films explain the difference."""
    samples = draw_samples(90, 12, 30, 3)
    for sample in samples:
        sample.users[1] = sample.users[0] + sample.implied[[4, 9]].sum(axis=0) / np.float32(2**0.5)
    bu, _, pu, _, implicit = mean_of(samples, (np.ones(12), np.ones(30)), 40).compile()
    added = implied(implicit, np.array([4, 9]))
    np.testing.assert_allclose(bu[1] - bu[0], added[0], atol=1e-5)
    np.testing.assert_allclose(pu[1] - pu[0], added[1:], atol=1e-4)


def test_a_cut_keeps_the_largest_singular_values() -> None:
    """As good as the best there is (Eckart and Young 1936)."""
    samples = draw_samples(40, 120, 200, 2)
    bu, bi, pu, qi, _ = mean_of(samples, (np.ones(120), np.ones(200)), 30).compile()
    whole = mean_prediction(samples) - bu[:, None] - bi
    values = np.linalg.svd(whole, compute_uv=False)
    left_out = np.linalg.norm(whole - pu @ qi.T)
    assert left_out <= 1.001 * np.sqrt(np.sum(values[30:] ** 2))


def test_samples_without_vectors_are_biases_alone() -> None:
    samples = [
        sample._replace(items=sample.items * [1, 0, 0, 0]) for sample in draw_samples(5, 6, 7, 3)
    ]
    bu, bi, pu, qi, _ = mean_of(samples, (np.ones(6), np.ones(7)), 4).compile()
    assert not pu.any()
    assert not qi.any()
    np.testing.assert_allclose(bu[:, None] + bi, mean_prediction(samples), atol=1e-5)


def test_memory_does_not_grow_with_the_samples() -> None:
    samples = draw_samples(60, 12, 30, 20)
    mean = PosteriorMean(np.ones(12), np.ones(30), 10)
    before = [stack.nbytes for stack in mean.stacks]
    for sample in samples:
        mean.add(sample)
    assert [stack.nbytes for stack in mean.stacks] == before
    assert mean.samples == 60


def test_unknown_users_and_films_are_predicted_as_the_average() -> None:
    samples = draw_samples(5, 6, 7, 3)
    counts = np.arange(1, 7), np.arange(2, 9)
    bu, bi, *_ = mean_of(samples, counts, 7).compile()
    predicted = mean_prediction(samples)
    np.testing.assert_allclose(bi, np.average(predicted, axis=0, weights=counts[0]), atol=1e-5)
    by_user = np.average(predicted, axis=1, weights=counts[1])
    typical = np.average(by_user, weights=counts[0])
    np.testing.assert_allclose(bu, by_user - typical, atol=1e-5)


def test_the_more_ratings_the_fewer_sweeps() -> None:
    drawn = [schedule_for(count) for count in (1, 500_000, 500_001, 10**9)]
    assert drawn[0] == drawn[1] == Schedule(4, 50, 10)
    work = [chains * sweeps for chains, sweeps, _ in drawn]
    assert work == sorted(work, reverse=True)
    assert ALGORITHMS["bayesian"].describe(PLAN, 10**9) == {
        "factors": 100, "rank": 20, **drawn[-1]._asdict(),
    }  # fmt: skip


def test_vectors_are_found_early_where_there_are_many_films() -> None:
    """A start that is too sure of films' zeros has an RMSE of 0.86 here after as many sweeps."""
    drawn = draw_ratings(100_000, 600, 20_000)
    table = drawn.rename(columns={"userId": "user_id", "movieId": "movie_id"})
    table["user_id"] = "ml_" + table["user_id"].astype(str)
    trainset = make_trainset(table[["user_id", "movie_id", "rating"]])
    pairs = trainset.find(table)
    errors: list[float] = []

    def watch(_: int, predict: Predict) -> None:
        errors.append(rmse(predict(*pairs) - table["rating"].to_numpy()))

    fit_bayesian(trainset, factors=20, seed=0, schedule=Schedule(1, 15, 14), watch=watch)
    assert errors[-1] < 0.83


def test_the_model_is_a_genuine_svd_and_the_same_for_a_seed(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = sample_ratings()
    models = []
    for cores in (1, 2, 4):
        monkeypatch.setattr(joblib, "cpu_count", lambda cores=cores: cores)
        models.append(train_svd_model(table, algorithm="bayesian", factors=30, seed=3)[0])
    for model in models:
        assert type(model) is matrix_factorization.SVD
        for name in ("bu", "bi", "pu", "qi"):
            np.testing.assert_array_equal(getattr(model, name), getattr(models[0], name))
    assert models[0].pu.shape[1] == 30
    other, trainset = train_svd_model(table, algorithm="bayesian", factors=30, seed=4)
    assert not np.array_equal(other.bi, models[0].bi)
    save_models(other, trainset, str(tmp_path))
    loaded = joblib.load(f"{tmp_path}/svd_model.pkl")
    assert loaded.predict("ml_sample_1", 862) == other.predict("ml_sample_1", 862)


def test_the_threads_of_blas_have_no_part_in_the_model(real_ratings: pd.DataFrame) -> None:
    trainset = make_trainset(real_ratings.head(40_000))
    models = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            models.append(fit_bayesian(trainset, factors=20, seed=0, schedule=Schedule(2, 6, 2)))
    for name in ("bu", "bi", "pu", "qi"):
        np.testing.assert_array_equal(*(getattr(model, name) for model in models))


def test_few_ratings_train_too() -> None:
    for rows in ([("a", 1, 5)], [("a", 1, 5), ("b", 2, 1)], [("a", 1, 3)] * 3):
        model, _ = train_svd_model(make_ratings(*zip(*rows, strict=True)), algorithm="bayesian")
        assert np.isfinite(model.predict("a", 1).est)
        assert model.pu.shape[1] == 100


def test_what_is_asked_for_wrongly_is_refused() -> None:
    with pytest.raises(UsageError, match="found algorithm 'nmf', expected one of svd, bayesian"):
        train_svd_model(sample_ratings(), algorithm="nmf")
    trainset = make_trainset(sample_ratings().head(50))
    trainset._item_codes[3] = 10**6
    with pytest.raises(InputError, match="ids out of range"):
        fit_bayesian(trainset, factors=5, seed=0)


@pytest.mark.slow
def test_errors_on_real_ratings_are_far_below_the_svds(real_ratings: pd.DataFrame) -> None:
    """Two of five folds of ML-100K; what all of them give is in benchmarks/RESULTS.md."""
    fits = {name: make_training(ALGORITHMS[name], 0).fit for name in ("svd", "bayesian")}
    splits = list(k_folds(len(real_ratings), 5, 0))[:2]
    scores = {score.model: score.measures for score in evaluate(real_ratings, splits, fits)}
    assert 0.868 < scores["bayesian"].rmse < 0.880
    assert scores["svd"].rmse - scores["bayesian"].rmse > 0.05
    assert scores["bayesian"].ndcg > scores["svd"].ndcg

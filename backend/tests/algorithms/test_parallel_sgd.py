"""Training on several threads: every rating once an epoch, the same on any number of threads."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from ml.collaborative.algorithms import svd
from ml.collaborative.algorithms.loops.parallel_sgd import BLOCKS, in_parallel
from ml.collaborative.algorithms.svd import fit_svd
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation.protocol import evaluate
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.trainset import ArrayTrainset, Rows, make_trainset

PLAN = {"factors": 100, "epochs": 20, "lr": 0.005, "reg": 0.02}


def train(trainset: ArrayTrainset, threads: int) -> list[np.ndarray]:
    """Five epochs of the compiled loop."""
    from ml.collaborative.algorithms.loops.sgd import compiled_epoch

    rng = np.random.RandomState(1)
    users, films = trainset.n_users, trainset.n_items
    arrays = tuple(rng.normal(size=shape) for shape in (users, films, (users, 8), (films, 8)))
    epoch = compiled_epoch("float32")

    def step(rows: Rows, *parts: np.ndarray) -> float:
        return epoch(*rows, 3.5, *parts, 0.01, 0.05)

    squares = list(in_parallel(step, trainset.by_user, arrays, 5, threads))
    assert len(squares) == 5
    assert squares[-1] < squares[0]
    return [np.array(squares), *arrays]


def test_the_number_of_threads_has_no_part_in_the_result() -> None:
    trainset = make_trainset(sample_ratings())
    one = train(trainset, 1)
    for threads in (2, 3, BLOCKS, 9):
        for array, same in zip(train(trainset, threads), one, strict=True):
            np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("count", [1, 2, 7, 500])
def test_every_rating_is_visited_once_an_epoch(count: int) -> None:
    """Each step marks its own user and item; few ratings leave blocks empty."""
    table = sample_ratings().head(count)
    trainset = make_trainset(table)
    arrays = (
        np.zeros(trainset.n_users), np.zeros(trainset.n_items),
        np.zeros((trainset.n_users, 1)), np.zeros((trainset.n_items, 1)),
    )  # fmt: skip

    def mark(rows: Rows, bu: np.ndarray, bi: np.ndarray, pu: np.ndarray, qi: np.ndarray) -> float:
        assert len(rows.starts) - 1 == len(bu) == len(pu)
        for user in range(len(bu)):
            row = slice(rows.starts[user], rows.starts[user + 1])
            for item, rating in zip(rows.others[row], rows.ratings[row], strict=True):
                bu[user] += rating
                pu[user] += 1
                bi[item] += rating
                qi[item] += 1
        return float(rows.starts[-1] - rows.starts[0])

    assert list(in_parallel(mark, trainset.by_user, arrays, 2, 3)) == [count, count]
    for side, biases, factors in (("user_id", 0, 2), ("movie_id", 1, 3)):
        groups = table.groupby(side, sort=False, observed=True)["rating"]
        np.testing.assert_allclose(arrays[biases], 2 * groups.sum())
        np.testing.assert_array_equal(arrays[factors][:, 0], 2 * groups.count())


def test_only_large_data_is_trained_in_parallel_unless_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainset = make_trainset(sample_ratings().head(2000))
    fits = {
        asked: fit_svd(trainset, seed=0, **PLAN, parallel=asked).qi for asked in (False, True, None)
    }
    np.testing.assert_array_equal(fits[None], fits[False])
    assert not np.array_equal(fits[True], fits[False])
    monkeypatch.setattr(svd, "PARALLEL_FROM", 2000)
    np.testing.assert_array_equal(fit_svd(trainset, seed=0, **PLAN).qi, fits[True])


@pytest.mark.slow
def test_errors_on_real_ratings_are_those_of_training_in_sequence(
    real_ratings: pd.DataFrame,
) -> None:
    """Mean RMSE of five held-out folds, all of ML-100K, within 0.001."""
    rmse = []
    for parallel in (False, True):
        fit = partial(fit_svd, seed=0, **PLAN, parallel=parallel)
        splits = list(k_folds(len(real_ratings), 5, 0))
        rmse.append(evaluate(real_ratings, splits, {"SVD": fit})[0].measures.rmse)
    assert rmse[0] != rmse[1]
    assert abs(rmse[0] - rmse[1]) < 0.001

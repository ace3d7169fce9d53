"""Cross-validation: Surprise's own folds and errors, by arrays."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from surprise import SVD, BaselineOnly, Dataset, Reader, accuracy
from surprise.model_selection import KFold

from ml.evaluation import cross_validate, fit_biases, k_folds
from ml.ratings import make_ratings
from ml.sample import sample_ratings
from ml.svd import fit_svd
from ml.trainset import make_trainset


@pytest.mark.parametrize(("count", "folds"), [(10, 2), (11, 3), (7, 7)])
def test_each_row_is_tested_once_and_never_trained_on_then(count: int, folds: int) -> None:
    splits = list(k_folds(count, folds, seed=1))
    assert len(splits) == folds
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(count))
    for train, test in splits:
        assert sorted(np.concatenate([train, test])) == list(range(count))


def test_folds_and_errors_are_surprises() -> None:
    table = sample_ratings().head(4000)
    parameters = {"factors": 7, "epochs": 3, "lr": 0.01, "reg": 0.05, "seed": 4}
    scores = {s.model: s for s in cross_validate(table, partial(fit_svd, **parameters), 3, seed=5)}
    data = Dataset.load_from_df(table, Reader(rating_scale=(1, 5)))
    models = {
        "SVD": lambda: SVD(n_factors=7, n_epochs=3, lr_all=0.01, reg_all=0.05, random_state=4),
        "user and item biases": lambda: BaselineOnly(verbose=False),
    }
    means = []
    expected: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for trainset, testset in KFold(n_splits=3, random_state=5).split(data):
        for name, make in models.items():
            found = make().fit(trainset).test(testset)
            errors = accuracy.rmse(found, verbose=False), accuracy.mae(found, verbose=False)
            expected[name].append(errors)
        truth = np.array([rating for *_, rating in testset])
        means.append(np.sqrt(np.mean((truth - trainset.global_mean) ** 2)))
    for name, pairs in expected.items():
        rmse, mae = np.mean(pairs, axis=0)
        assert scores[name].rmse == pytest.approx(rmse, abs=1e-9)
        assert scores[name].mae == pytest.approx(mae, abs=1e-9)
    assert scores["global mean"].rmse == pytest.approx(np.mean(means), abs=1e-12)


def test_predictions_are_clipped_to_the_scale_of_all_ratings() -> None:
    """Half stars that are held out widen the scale all the same, as Surprise's reader has it."""
    table = make_ratings(["a", "a", "b", "b"], [1, 2, 1, 2], [0.5, 1, 1, 1])
    parameters = {"factors": 2, "epochs": 5, "lr": 0.01, "reg": 0.02, "seed": 0}
    (score, *_) = cross_validate(table, partial(fit_svd, **parameters), 4, seed=0)
    data = Dataset.load_from_df(table, Reader(rating_scale=(0.5, 5)))
    found = []
    for trainset, testset in KFold(n_splits=4, random_state=0).split(data):
        model = SVD(n_factors=2, n_epochs=5, lr_all=0.01, reg_all=0.02, random_state=0)
        found.append(accuracy.rmse(model.fit(trainset).test(testset), verbose=False))
    assert score.rmse == pytest.approx(np.mean(found), abs=1e-9)


def test_biases_are_baseline_onlys() -> None:
    trainset = make_trainset(sample_ratings().head(2000))
    expected = BaselineOnly(verbose=False).fit(trainset)
    for found, array in zip(fit_biases(trainset), (expected.bu, expected.bi), strict=True):
        np.testing.assert_allclose(found, array, atol=1e-12)

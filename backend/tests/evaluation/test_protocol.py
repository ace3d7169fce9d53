"""Cross-validation: Surprise's own folds and errors, by arrays."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from surprise import SVD, AlgoBase, BaselineOnly, Dataset, Reader, accuracy
from surprise.model_selection import KFold

from ml.collaborative.algorithms.baselines import fit_biases
from ml.collaborative.algorithms.svd import fit_svd
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.evaluation import lists
from ml.collaborative.evaluation.protocol import ALL, APP, MOVIELENS, Measures, evaluate
from ml.collaborative.evaluation.splits import Split, k_folds
from ml.collaborative.ratings import combine, make_ratings
from ml.collaborative.trainset import ArrayTrainset, make_trainset


def test_folds_and_errors_are_surprises() -> None:
    table = sample_ratings().head(4000)
    parameters = {"factors": 7, "epochs": 3, "lr": 0.01, "reg": 0.05, "seed": 4}
    splits = list(k_folds(len(table), 3, 5))
    found = evaluate(table, splits, {"SVD": partial(fit_svd, **parameters)})
    scores = {score.model: score.measures for score in found}
    assert list(scores)[:3] == ["SVD", "user and item biases", "global mean"]
    data = Dataset.load_from_df(table, Reader(rating_scale=(1, 5)))
    models = {
        "SVD": lambda: SVD(n_factors=7, n_epochs=3, lr_all=0.01, reg_all=0.05, random_state=4),
        "user and item biases": lambda: BaselineOnly(verbose=False),
    }
    means = []
    expected: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for trainset, testset in KFold(n_splits=3, random_state=5).split(data):
        for name, make in models.items():
            tested = make().fit(trainset).test(testset)
            errors = accuracy.rmse(tested, verbose=False), accuracy.mae(tested, verbose=False)
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
    fits = {"SVD": partial(fit_svd, **parameters)}
    score = evaluate(table, list(k_folds(4, 4, 0)), fits)[0].measures
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


class Planted:
    """A model whose scores are known: films 1 to 5 in this order of preference, for everyone."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __call__(self, trainset: ArrayTrainset) -> SVD:
        model = AlgoBase.fit(SVD(n_factors=1), trainset)
        place = {film: 5 - n for n, film in enumerate(self.order)}
        model.bu, model.pu = np.zeros(trainset.n_users), np.zeros((trainset.n_users, 1))
        model.bi = np.array([float(place[film]) for film in trainset.raw_items()])
        model.qi = np.zeros((trainset.n_items, 1))
        return model


ROWS = [
    ("ml_1", 1, 5), ("ml_1", 2, 4), ("ml_1", 3, 3), ("ml_2", 1, 5), ("ml_2", 4, 1),
    ("app", 2, 5), ("app", 5, 4), ("app", 3, 2),
    # held out:
    ("ml_1", 4, 5), ("ml_2", 3, 3), ("app", 1, 4), ("new", 2, 5), ("app", 9, 5),
]  # fmt: skip


def test_rankings_leave_out_what_was_seen_and_are_measured_by_group() -> None:
    table = make_ratings(*map(list, zip(*ROWS, strict=True)))
    split = Split(np.arange(8), np.arange(8, 13))
    scores = evaluate(table, [split], {"planted": Planted([1, 2, 3, 4, 5])})
    own = [score for score in scores if score.model == lists.BY_STARS.format("planted")]
    planted = {score.users: score.measures for score in own}
    assert list(planted) == [ALL, APP, MOVIELENS]
    # ml_1 has left 4, 5 and likes 4: place 1. ml_2 likes nothing held out. The app user has left
    # 1, 4 and likes 1 (place 1) and 9, which nobody rated in the training. The new one has left
    # all and likes 2: place 2.
    app = 1 / (1 + 1 / np.log2(3))
    assert planted[MOVIELENS].ndcg == 1
    assert planted[APP].ndcg == pytest.approx((app + 1 / np.log2(3)) / 2)
    assert planted[ALL].ndcg == pytest.approx((1 + app + 1 / np.log2(3)) / 3)
    assert planted[ALL].precision == pytest.approx(0.1)
    assert planted[APP].recall == pytest.approx((1 / 2 + 1) / 2)
    assert planted[ALL].hit_rate == 1
    assert planted[MOVIELENS].coverage == pytest.approx(2 / 6)
    assert planted[MOVIELENS].popularity == pytest.approx((1 + 1) / 2)
    global_mean = np.mean([rating for *_, rating in ROWS[:8]])
    errors = np.array([5 - 5, 5 - 3, 5 - 4, 5 - 5, global_mean - 5])  # clipped; film 9 is unknown
    (rmse,) = (s.measures.rmse for s in scores if (s.model, s.users) == ("planted", ALL))
    assert rmse == pytest.approx(np.sqrt(np.mean(errors**2)))


def test_baselines_stand_beside_the_models() -> None:
    table = sample_ratings().head(3000)
    scores = evaluate(
        table, list(k_folds(3000, 2, 0)), {"planted": make_training(ALGORITHMS["svd"], 0).fit}
    )
    by_name = {score.model: score.measures for score in scores}
    assert list(by_name) == [
        "planted", "user and item biases", "global mean", "planted, by stars",
        "planted, cold list", "most rated", "most liked",
    ]  # fmt: skip
    assert by_name["global mean"].ndcg is None
    assert by_name["most rated"].rmse is None
    assert by_name["planted"].ndcg > by_name["planted, by stars"].ndcg
    assert by_name["most rated"].popularity > by_name["planted"].popularity
    assert None not in vars(by_name["planted"]).values()
    assert isinstance(by_name["planted"], Measures)


def test_a_split_with_a_leak_is_not_evaluated() -> None:
    table = sample_ratings().head(100)
    leaky = Split(np.arange(60), np.arange(59, 100))
    with pytest.raises(InputError, match="1 of the 41 held-out ratings are in the training"):
        evaluate(table, [leaky], {"SVD": make_training(ALGORITHMS["svd"], 0).fit})


def test_users_are_ranked_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sample_ratings()
    splits = list(k_folds(len(table), 5, 0))[:1]
    whole = evaluate(table, splits, {"SVD": make_training(ALGORITHMS["svd"], 0).fit})
    monkeypatch.setattr(lists, "CELLS_AT_ONCE", 7 * 124)
    assert evaluate(table, splits, {"SVD": make_training(ALGORITHMS["svd"], 0).fit}) == whole


def test_a_few_app_ratings_are_measured_where_they_can_be() -> None:
    """In most folds no app user has a held-out film they like, so there is no ranking there."""
    table = sample_ratings().head(2000)
    app = make_ratings(
        ["x", "x", "y", "y", "z", "z"], [862, 603, 862, 11, 603, 11], [5, 1, 1, 1, 2, 2]
    )
    table = combine(table, app)
    for seed in range(4):
        splits = list(k_folds(len(table), 5, seed))
        found = evaluate(table, splits, {"SVD": make_training(ALGORITHMS["svd"], 0).fit})
        [score] = [one for one in found if (one.model, one.users) == ("SVD", APP)]
        assert score.ratings == 6
        assert score.measures.rmse is not None
        assert score.measures.ndcg is not None

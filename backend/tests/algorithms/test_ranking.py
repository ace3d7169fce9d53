"""The ranking: its loops, its training, how users are folded in, and lists of real data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import BACKEND
from threadpoolctl import threadpool_limits

from ml.collaborative.algorithms import ranking_scores
from ml.collaborative.algorithms.loops.als import compiled_solve, solve_rows
from ml.collaborative.algorithms.ranking import fit_ranking, invert
from ml.collaborative.algorithms.ranking_scores import (
    RankedUser,
    Ranking,
    contributions,
    cut,
    exposure,
    exposures,
    fold_in,
    score,
)
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.evaluation.protocol import evaluate
from ml.collaborative.evaluation.splits import Split, k_folds, new_users
from ml.collaborative.ratings import make_ratings
from ml.collaborative.trainset import ArrayTrainset, make_trainset

ARRAYS = ("q", "gram", "mean_vector", "head", "weights", "cold")


@pytest.fixture(scope="module")
def trainset() -> ArrayTrainset:
    return make_trainset(sample_ratings())


@pytest.fixture(scope="module")
def ranking(trainset: ArrayTrainset) -> Ranking:
    return fit_ranking(trainset, 0)


def targets_table(trainset: ArrayTrainset) -> np.ndarray:
    """1 where a film is liked, 0.75 where it is rated lower, else 0, (users, films)."""
    starts, films, ratings = trainset.by_user
    table = np.zeros((trainset.n_users, trainset.n_items))
    users = np.repeat(np.arange(trainset.n_users), np.diff(starts))
    table[users, films] = np.where(ratings >= 4, 1, 0.75)
    return table


@pytest.mark.parametrize("run", [solve_rows, compiled_solve("float32")])
def test_a_row_solves_its_normal_equations(run: object, trainset: ArrayTrainset) -> None:
    rng = np.random.default_rng(0)
    films = rng.normal(size=(trainset.n_items, 5)).astype(np.float32)
    users = np.full((trainset.n_users, 5), 9, dtype=np.float32)
    gram = 0.1 * films.T @ films
    levels = np.array([0.75, 1], dtype=np.float32)
    scratch = [np.full((rows, 5), np.nan, dtype=np.float32) for rows in (5, 5, 8)]
    starts, others, ratings = trainset.by_user
    rows = starts, others, ratings.astype(np.float32)
    assert (
        run(1, 9, *rows, 4.0, levels, gram, 0.1, 2.0, films, users, *scratch)
        == starts[9] - starts[1]
    )
    for user in range(1, 9):
        row = slice(starts[user], starts[user + 1])
        rated = films[others[row]].astype(np.float64)
        matrix = gram + rated.T @ rated + (0.1 * len(rated) + 2) * np.eye(5)
        targets = targets_table(trainset)[user, others[row]]
        np.testing.assert_allclose(users[user], np.linalg.solve(matrix, targets @ rated), rtol=1e-3)
    assert (users[[0, *range(9, len(users))]] == 9).all()


def test_an_inverse_by_halves_is_the_inverse() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(size=(301, 301))
    matrix = half @ half.T + 50 * np.eye(301)
    found = matrix.copy()
    invert(found)
    np.testing.assert_allclose(found, np.linalg.inv(matrix), atol=1e-12)


def test_the_vectors_are_where_alternating_solves_lead(
    trainset: ArrayTrainset, ranking: Ranking
) -> None:
    """The films' vectors are the best for the users' of the last round, and those for theirs."""
    table = targets_table(trainset)
    weight = ranking.unseen_weight
    assert weight == 1  # six times the density is more
    q = ranking.q.astype(np.float64)
    for _ in range(2):  # one further round hardly changes what is predicted
        users = solve_plainly(table, q, weight)
        q = solve_plainly(table.T, users, weight)
    folded = [fold_in(ranking, *rated_by(trainset, user)) for user in range(trainset.n_users)]
    predicted = np.array([user.vector for user in folded]) @ ranking.q.T
    assert np.sqrt(np.mean((predicted - users @ q.T) ** 2)) < 0.05
    np.testing.assert_allclose(ranking.gram, ranking.q.T @ ranking.q, rtol=1e-4, atol=1e-4)


def solve_plainly(table: np.ndarray, theirs: np.ndarray, weight: float) -> np.ndarray:
    """One side's vectors, (rows, factors)."""
    found = []
    for targets in table:
        rated = theirs[targets > 0]
        reg = 0.015 * (len(rated) + weight * len(theirs))
        matrix = weight * theirs.T @ theirs + rated.T @ rated + reg * np.eye(theirs.shape[1])
        found.append(np.linalg.solve(matrix, targets[targets > 0] @ rated))
    return np.array(found)


def rated_by(trainset: ArrayTrainset, user: int) -> tuple[np.ndarray, np.ndarray]:
    starts, films, ratings = trainset.by_user
    row = slice(starts[user], starts[user + 1])
    return films[row], ratings[row]


def test_the_head_is_ease_on_the_most_rated_films(
    trainset: ArrayTrainset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HEAD_FILMS", 50), ("USERS_AT_ONCE", 7)):
        monkeypatch.setattr(f"ml.collaborative.algorithms.ranking.{name}", value)
    ranking = fit_ranking(trainset, 0)
    counts = np.diff(trainset.by_item.starts)
    ordered = sorted(range(len(counts)), key=lambda film: (-counts[film], film))
    assert ranking.head.tolist() == sorted(ordered[:50])
    table = targets_table(trainset)[:, ranking.head]
    inverse = np.linalg.inv(table.T @ table + 300 * np.eye(50))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    found = ranking.weights * ranking.weight_step
    np.testing.assert_allclose(found, expected, atol=ranking.weight_step)
    assert ranking.weights.dtype == np.int16
    user = fold_in(ranking, *rated_by(trainset, 3))
    assert exposure(ranking, user).shape == (trainset.n_items,)


def test_the_same_for_a_seed_on_any_number_of_threads(
    trainset: ArrayTrainset, ranking: Ranking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in (1, 2, 5):
        monkeypatch.setattr(joblib, "cpu_count", lambda cores=cores: cores)
        with threadpool_limits(cores):
            again = fit_ranking(trainset, 0)
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(again, name), getattr(ranking, name))
    assert not np.array_equal(fit_ranking(trainset, 1).q, ranking.q)


def test_ratings_that_need_float64_train_too() -> None:
    table = sample_ratings().head(500)
    exact = table.assign(rating=table["rating"].where(table["rating"] != 3, 3.1))
    assert make_trainset(exact).by_user.ratings.dtype == np.float64
    found = fit_ranking(make_trainset(exact), 0)
    np.testing.assert_array_equal(found.q, fit_ranking(make_trainset(table), 0).q)


def test_half_stars_move_the_threshold_of_liked() -> None:
    whole = make_ratings(["a", "a", "b"], [1, 2, 1], [4, 3, 5])
    half = make_ratings(["a", "a", "b"], [1, 2, 1], [4, 3.5, 5])
    assert [fit_ranking(make_trainset(t), 0).threshold for t in (whole, half)] == [3.5, 3.75]


def test_the_cold_list_is_of_films_that_users_of_few_ratings_like() -> None:
    rows = [("a", 1, 5), ("a", 2, 3), ("a", 3, 4), ("a", 4, 4), ("b", 1, 3), ("c", 2, 4)]
    found = fit_ranking(make_trainset(make_ratings(*zip(*rows, strict=True))), 0)
    np.testing.assert_allclose(found.cold, [0.5, 1, 0.5, 0.5])


def test_few_ratings_train_too() -> None:
    for rows in ([("a", 1, 5)], [("a", 1, 5), ("b", 2, 1)]):
        found = fit_ranking(make_trainset(make_ratings(*zip(*rows, strict=True))), 0)
        user = fold_in(found, [0], [5])
        assert np.isfinite(score(found, user, np.full(len(found.q), 3.0))).all()
    broken = make_trainset(sample_ratings().head(50))
    broken._item_codes[3] = 10**6
    with pytest.raises(InputError, match="ids out of range"):
        fit_ranking(broken, 0)


def test_what_was_watched_counts_as_exposure(ranking: Ranking) -> None:
    rated = fold_in(ranking, [3, 5], [2.0, 3.5])
    watched = fold_in(ranking, [], [], watched=[5, 3])
    np.testing.assert_allclose(watched.vector, rated.vector, rtol=1e-5)
    np.testing.assert_allclose(exposure(ranking, watched), exposure(ranking, rated), rtol=1e-5)
    both = fold_in(ranking, [3, 5], [5, 2], watched=[5, 9])
    assert dict(zip(both.rows.tolist(), both.targets.tolist(), strict=True)) == {
        3: 1, 5: 0.75, 9: 0.75
    }  # fmt: skip


def test_scores_are_over_the_best_unseen_film(trainset: ArrayTrainset, ranking: Ranking) -> None:
    rng = np.random.default_rng(0)
    stars = rng.uniform(1, 5, (3, trainset.n_items))
    users = [
        fold_in(ranking, *rated_by(trainset, 0)), fold_in(ranking, [7], [4]),
        fold_in(ranking, [], []),
    ]  # fmt: skip
    scores = np.array([score(ranking, *pair) for pair in zip(users, stars, strict=True)])
    for user, own_stars, own in zip(users, stars, scores, strict=True):
        assert own.min() >= 0
        assert own.max() == 1
        assert np.delete(own, user.rows).max() == 1
        liked = 1 / (1 + np.exp(-1.7 * (own_stars - ranking.threshold)))
        expected = exposure(ranking, user) * liked**0.5
        unseen = np.delete(np.arange(len(own)), user.rows)
        ratio = own[unseen] / expected[unseen]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    cold = ranking.cold / (1 + np.exp(-1.7 * (stars[2] - ranking.threshold))) ** 0.5
    np.testing.assert_array_equal(np.argsort(-scores[2])[:20], np.argsort(-cold)[:20])


def test_a_user_who_saw_all_films_has_scores(ranking: Ranking) -> None:
    films = np.arange(len(ranking.q))
    everything = fold_in(ranking, films, np.full(len(films), 5.0))
    found = score(ranking, everything, np.full(len(films), 4.0))
    assert np.isfinite(found).all()
    assert (found <= 1).all()


def test_exposures_of_many_users_are_those_of_each(ranking: Ranking) -> None:
    users = [fold_in(ranking, *some) for some in (([4, 40, 9], [5, 2, 4]), ([], []), ([3], [1]))]
    found = exposures(ranking, users)
    for row, user in zip(found, users, strict=True):
        np.testing.assert_allclose(row, exposure(ranking, user), rtol=1e-5)
    assert exposures(ranking, []).shape == (0, len(ranking.q))


def parts_of(ranking: Ranking, user: RankedUser) -> tuple[np.ndarray, np.ndarray]:
    """What the vectors give each film, and what EASE does, (films,) each."""
    by_vector = ranking.q @ user.vector
    by_head = ranking_scores._parts(ranking, user, by_vector)[0]
    of_all = np.zeros(len(ranking.q))
    of_all[ranking.head] = by_head
    return by_vector, of_all


def test_a_cut_ranking_gives_what_the_whole_one_gives(ranking: Ranking) -> None:
    """But for the scale, which is the best film that is left."""
    kept = np.random.default_rng(0).permutation(len(ranking.q))[:80]
    small = cut(ranking, kept)
    rows, stars = [4, 40, 9], [5, 2, 4]
    of_small, of_whole = fold_in(small, rows, stars), fold_in(ranking, kept[rows], stars)
    np.testing.assert_allclose(of_small.vector, of_whole.vector, rtol=1e-6)
    for small_part, whole_part in zip(
        parts_of(small, of_small), parts_of(ranking, of_whole), strict=True
    ):
        np.testing.assert_allclose(small_part, whole_part[kept], atol=1e-6)
    np.testing.assert_array_equal(small.cold, ranking.cold[kept])
    again = cut(small, np.arange(80))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(small, name))


def test_contributions_add_up_to_the_exposure(trainset: ArrayTrainset, ranking: Ranking) -> None:
    checked = 0
    for number in range(0, trainset.n_users, 5):
        user = fold_in(ranking, *rated_by(trainset, number), watched=[1, 2])
        values = exposure(ranking, user)
        above = np.minimum(*parts_of(ranking, user)) > ranking_scores.FLOOR
        for film in np.flatnonzero(above)[::17]:
            each, rest = contributions(ranking, user, int(film))
            assert each.shape == user.rows.shape
            assert each.sum() + rest == pytest.approx(values[film], rel=1e-4, abs=1e-6)
            checked += 1
    assert checked > 50


def test_similar_films_are_near_in_the_vectors(ranking: Ranking) -> None:
    found = ranking_scores.similar(ranking, 5)
    q = ranking.q.astype(np.float64)
    lengths = np.linalg.norm(q, axis=1)
    np.testing.assert_allclose(found, q @ q[5] / lengths / lengths[5], atol=1e-5)
    assert found.argmax() == 5
    assert np.abs(found).max() <= 1


def test_scores_need_numpy_alone() -> None:
    code = (
        "import sys, ml.collaborative.algorithms.ranking_scores as _; "
        "print(sorted({'pandas', 'surprise', 'numba', 'joblib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BACKEND, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def mean_ndcg(table: pd.DataFrame, splits: Sequence[Split]) -> tuple[float, float]:
    """Of the lists with the plan's SVD, and of the most liked films."""
    scores = evaluate(table, splits, {"SVD": make_training(ALGORITHMS["svd"]).fit})
    ndcg = {score.model: score.measures.ndcg for score in scores}
    return ndcg["SVD"], ndcg["most liked"]


def test_lists_of_real_ratings_are_far_better_than_the_most_liked_films(
    real_ratings: pd.DataFrame,
) -> None:
    """On folds, and for new users with 10 ratings, who are folded in as a service does it."""
    ours, most_liked = mean_ndcg(real_ratings, list(k_folds(len(real_ratings), 5, 0))[:2])
    assert 0.395 < ours < 0.415
    assert ours > most_liked + 0.17
    ours, most_liked = mean_ndcg(real_ratings, [new_users(real_ratings["user_id"], 10, 0)])
    assert 0.56 < ours < 0.60
    assert ours > most_liked + 0.1

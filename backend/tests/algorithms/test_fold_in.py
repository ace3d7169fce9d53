"""Folding in: a user from their own ratings, better than not knowing them, and than retraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.fold_in import (
    FOLDED,
    RETRAINED,
    TRAINED,
    UNKNOWN,
    compare_known_users,
    compare_new_users,
)
from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms import fold_in
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import MovieIdError, RatingError
from ml.collaborative.release import model_arrays
from ml.collaborative.serving.model import CollaborativeModel, load_collaborative


@pytest.fixture(scope="module", params=["svd", "bayesian"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("models")
    save_models(*train_svd_model(sample_ratings(), algorithm=request.param), str(folder))
    return load_collaborative(folder)


def test_nothing_known_gives_the_unknown_user(model: CollaborativeModel) -> None:
    for ratings in ({}, {5: 4.0, 6: 1.0}):
        user = model.fold_in(ratings)
        assert user.bias == 0
        assert not user.vector.any()
        np.testing.assert_array_equal(
            model.predict(user, model.movie_ids), model.predict("nobody", model.movie_ids)
        )


def test_films_that_the_model_does_not_know_change_nothing(model: CollaborativeModel) -> None:
    films = model.movie_ids[:4].tolist()
    known = dict(zip(films, (5.0, 1.0, 3.0, 4), strict=True))
    user, other = model.fold_in(known), model.fold_in({5: 1.0, **known})
    assert user.bias == other.bias
    np.testing.assert_array_equal(user.vector, other.vector)


def test_rated_films_are_left_out_of_what_is_recommended(model: CollaborativeModel) -> None:
    films = [film.movie_id for film in model.recommend("nobody", n=6)]
    user = model.fold_in(dict.fromkeys(films, 5))
    assert not set(films) & {film.movie_id for film in model.recommend(user, n=500)}


def test_a_taste_is_found(model: CollaborativeModel) -> None:
    """Of a trained user's ratings those above the film's average: predictions go their way."""
    table = sample_ratings()
    gains = []
    for user_id in table["user_id"].unique()[:40]:
        own = table[table["user_id"] == user_id]
        half = own.sample(frac=0.5, random_state=0)
        rest = own.drop(half.index)
        user = model.fold_in(dict(zip(half["movie_id"], half["rating"], strict=True)))
        errors = [
            np.sqrt(np.mean((model.predict(who, rest["movie_id"]) - rest["rating"]) ** 2))
            for who in (user, "nobody")
        ]
        gains.append(errors[1] - errors[0])
    assert np.mean(gains) > 0.1
    assert np.mean(np.array(gains) > 0) > 0.8


def test_a_known_users_fold_in_comes_close_to_the_trained_vector(
    model: CollaborativeModel,
) -> None:
    table = sample_ratings()
    trained, folded = [], []
    for user_id in table["user_id"].unique()[:40]:
        own = table[table["user_id"] == user_id]
        user = model.fold_in(dict(zip(own["movie_id"], own["rating"], strict=True)))
        trained.append(model.predict(user_id, model.movie_ids))
        folded.append(model.predict(user, model.movie_ids))
    assert np.corrcoef(np.ravel(trained), np.ravel(folded))[0, 1] > 0.9
    assert np.sqrt(np.mean((np.array(trained) - folded) ** 2)) < 0.45


@pytest.mark.parametrize(
    ("ratings", "error", "said"),
    [
        ({"862": 4.0}, MovieIdError, "expected a list of film ids"),
        ([(862, 4.0)], RatingError, "expected stars by film id, found"),
        ({862: np.complex128(4)}, RatingError, "no number"),
        ({862: "4"}, RatingError, "film 862 has a rating that is no number: '4'"),
        ({862: True}, RatingError, "no number"),
        ({862: None}, RatingError, "no number"),
        ({862: 10**5000}, RatingError, "film 862 has a value of type int stars"),
        ({862: float("nan")}, RatingError, "film 862 has nan stars, expected 0.5 to 5"),
        ({862: 0}, RatingError, "film 862 has 0 stars"),
        ({862: 5.5}, RatingError, "film 862 has 5.5 stars"),
    ],
)
def test_what_is_no_rating_is_refused(
    model: CollaborativeModel, ratings: dict[int, float], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        model.fold_in(ratings)


def test_the_solution_is_that_of_the_normal_equations() -> None:
    """Ridge regression under the prior, few ratings and many."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    for count in (1, 3, 5, 40):
        factors, residuals = rng.normal(size=(count, 4)), rng.normal(size=count)
        x = np.column_stack([np.ones(count), factors])
        penalty = np.linalg.inv(root @ root.T)
        expected = np.linalg.solve(x.T @ x + penalty, x.T @ residuals)
        np.testing.assert_allclose(fold_in.solve(root, factors, residuals), expected, atol=1e-9)


def test_the_prior_is_the_trained_users_second_moments_over_the_variance_of_ratings() -> None:
    table = sample_ratings()
    for factors in (3, 1000):  # fewer and more than there are users
        svd, trainset = train_svd_model(table, epochs=2, factors=factors)
        root = model_arrays(svd, trainset)["fold_in_root"]
        errors = [
            svd.estimate(user, item) - stars
            for user, item, stars in list(trainset.all_ratings())[::50]
        ]
        own = np.column_stack([svd.bu, svd.pu])
        moments = own.T @ own / len(own)
        found = np.trace(moments) / np.trace(root @ root.T)
        assert found == pytest.approx(np.mean(np.square(errors)), rel=0.1)
        np.testing.assert_allclose(root @ root.T * found, moments, atol=1e-9)


# On real data: bands of what benchmarks/fold_in.py measures over five draws


@pytest.mark.parametrize(
    ("algorithm", "revealed"),
    [
        ("svd", 5), ("svd", 10), ("svd", 20), ("svd", 50), ("bayesian", 5), ("bayesian", 50),
        pytest.param("bayesian", 10, marks=pytest.mark.slow),
        pytest.param("bayesian", 20, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_on_real_new_users_it_beats_knowing_nothing_and_keeps_up_with_a_full_retrain(
    real_ratings: pd.DataFrame, algorithm: str, revealed: int
) -> None:
    found = compare_new_users(real_ratings, algorithm, revealed, seed=0)
    unknown, folded, retrained = (found[way].measures for way in (UNKNOWN, FOLDED, RETRAINED))
    assert unknown.rmse - folded.rmse > 0.03
    assert folded.ndcg > retrained.ndcg
    if (algorithm, revealed) == ("bayesian", 10):  # by stars; five draws have 0.297 and 0.280
        assert folded.ndcg > unknown.ndcg - 0.001
    else:
        assert folded.ndcg > unknown.ndcg
    if (algorithm, revealed) == ("bayesian", 50):  # the one that is missed
        assert folded.rmse < retrained.rmse + 0.004
    else:
        assert folded.rmse < retrained.rmse


def test_on_real_known_users_of_the_svd_it_beats_the_trained_vectors(
    real_ratings: pd.DataFrame,
) -> None:
    found = compare_known_users(real_ratings, "svd", seed=0)
    assert found[FOLDED].measures.rmse < found[TRAINED].measures.rmse - 0.01
    assert found[FOLDED].measures.ndcg > found[TRAINED].measures.ndcg


def test_the_folded_in_users_of_ml_100k_are_close_to_the_trained(
    real_ratings: pd.DataFrame, tmp_path: Path
) -> None:
    """As README says: a correlation of 0.98, 0.12 stars apart."""
    save_models(*train_svd_model(real_ratings), str(tmp_path))
    model = load_collaborative(tmp_path)
    trained, folded = [], []
    for user_id, own in real_ratings.groupby("user_id", observed=True):
        user = model.fold_in(dict(zip(own["movie_id"], own["rating"], strict=True)))
        trained.append(model.predict(str(user_id), model.movie_ids))
        folded.append(model.predict(user, model.movie_ids))
    assert np.corrcoef(np.ravel(trained), np.ravel(folded))[0, 1] == pytest.approx(0.98, abs=0.005)
    apart = np.sqrt(np.mean((np.array(trained) - folded) ** 2))
    assert apart == pytest.approx(0.12, abs=0.01)


def test_one_rating_of_one_user_is_enough_to_fold_in_with(tmp_path: Path) -> None:
    """Nothing to learn a prior from, and still an answer."""
    save_models(*train_svd_model(sample_ratings().head(1), epochs=1, factors=2), str(tmp_path))
    model = load_collaborative(tmp_path)
    user = model.fold_in({int(model.movie_ids[0]): 5.0})
    assert np.isfinite(model.predict(user, model.movie_ids)).all()

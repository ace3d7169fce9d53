"""Training on arrays: Surprise's own numbers, on all of ML-100K, and files that stay small."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from surprise import SVD, Dataset, Reader, Trainset
from surprise.prediction_algorithms import matrix_factorization

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.svd import fit_svd, predict_pairs
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import GateError, InputError
from ml.collaborative.ratings import make_ratings
from ml.collaborative.trainset import make_trainset

ARRAYS = ("bu", "bi", "pu", "qi")


def fit_plainly(table: pd.DataFrame) -> SVD:
    """The plan's steps in plain Surprise."""
    data = Dataset.load_from_df(table, Reader(rating_scale=(1, 5)))
    model = SVD(n_factors=100, n_epochs=20, lr_all=0.005, reg_all=0.02, random_state=0)
    return model.fit(data.build_full_trainset())


@pytest.fixture(scope="module")
def both(real_ratings: pd.DataFrame) -> tuple[SVD, SVD]:
    """Our model and Surprise's, of the same ratings and seed."""
    return train_svd_model(real_ratings, seed=0)[0], fit_plainly(real_ratings)


def test_arrays_agree_with_surprises_fit_on_all_of_ml_100k(both: tuple[SVD, SVD]) -> None:
    ours, plain = both
    assert type(ours) is matrix_factorization.SVD
    for name in ARRAYS:
        array, expected = getattr(ours, name), getattr(plain, name)
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-9)
    assert vars(ours).keys() == vars(plain).keys()


def test_every_prediction_agrees_with_surprises(both: tuple[SVD, SVD]) -> None:
    """All 943 x 1,645 pairs by formula, and thousands of them one by one."""
    ours, plain = both
    users, items = (grid.ravel() for grid in np.indices((943, 1645)))
    estimates = [predict_pairs(model, users, items) for model in both]
    np.testing.assert_allclose(*estimates, rtol=0, atol=1e-9)
    raw = ours.trainset
    for n in range(0, len(users), 397):
        pair = raw.to_raw_uid(users[n]), raw.to_raw_iid(items[n])
        expected = plain.predict(*pair).est
        assert abs(ours.predict(*pair).est - expected) <= 1e-9
        assert abs(estimates[0][n] - expected) <= 1e-9


@pytest.mark.parametrize("pair", [("nobody", 11), ("ml_196", -5), ("nobody", -5)])
def test_unknown_users_and_films_are_predicted_as_surprise_does(
    both: tuple[SVD, SVD], pair: tuple[str, int]
) -> None:
    ours, plain = (model.predict(*pair) for model in both)
    assert abs(ours.est - plain.est) <= 1e-9
    assert ours.details == plain.details
    inner = [-1 if pair[0] == "nobody" else both[0].trainset.to_inner_uid(pair[0])]
    film = [-1 if pair[1] == -5 else both[0].trainset.to_inner_iid(pair[1])]
    assert abs(predict_pairs(both[0], np.array(inner), np.array(film))[0] - plain.est) <= 1e-9


def test_a_film_rated_twice_in_a_row_is_trained_on_as_surprise_does() -> None:
    rows = [("a", 1, 5), ("a", 1, 2), ("a", 1, 4), ("b", 2, 3), ("b", 1, 1), ("b", 1, 5)]
    table = make_ratings(*map(list, zip(*rows, strict=True)))
    ours, plain = train_svd_model(table)[0], fit_plainly(table)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(ours, name), getattr(plain, name), rtol=0, atol=1e-9)


def test_training_that_diverges_names_the_parameters_to_lower() -> None:
    with np.errstate(all="ignore"), pytest.raises(GateError, match="lower --lr or raise --reg"):
        train_svd_model(sample_ratings().head(2000), lr=10)


def test_factors_that_the_last_step_made_infinite_are_no_model() -> None:
    table = make_ratings(["a"], [1], [5.0])
    with np.errstate(all="ignore"), pytest.raises(GateError, match="lower --lr or raise --reg"):
        train_svd_model(table, epochs=1, lr=1.7e308, reg=2)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("_user_codes", -1, "ids out of range"),
        ("_user_codes", 943, "ids out of range"),
        ("_item_codes", -1, "ids out of range"),
        ("_item_codes", 10**6, "ids out of range"),
        ("_ratings", np.nan, "ratings that are not finite"),
        ("_ratings", np.inf, "ratings that are not finite"),
    ],
)
def test_a_damaged_trainset_is_refused_before_the_compiled_loop(
    parallel: bool, column: str, value: float, what: str
) -> None:
    trainset = make_trainset(sample_ratings().head(500))
    getattr(trainset, column)[7] = value
    with pytest.raises(InputError, match=what):
        fit_svd(trainset, factors=3, epochs=1, lr=0.01, reg=0.1, seed=0, parallel=parallel)


def test_a_trainset_of_other_types_is_refused() -> None:
    for column, dtype in (("_item_codes", np.int64), ("_ratings", np.float16)):
        trainset = make_trainset(sample_ratings().head(500))
        setattr(trainset, column, getattr(trainset, column).astype(dtype))
        with pytest.raises(InputError, match="other types"):
            fit_svd(trainset, factors=3, epochs=1, lr=0.01, reg=0.1, seed=0)


def test_a_trainset_of_uneven_columns_is_refused() -> None:
    trainset = make_trainset(sample_ratings().head(500))
    trainset._ratings = trainset._ratings[:-1]
    with pytest.raises(InputError, match="different lengths"):
        fit_svd(trainset, factors=3, epochs=1, lr=0.01, reg=0.1, seed=0)


def test_the_models_file_grows_by_12_bytes_a_rating(tmp_path: Path) -> None:
    table = sample_ratings()
    films = table.drop_duplicates("movie_id")
    few = pd.concat([table.drop_duplicates("user_id"), films])
    few = few.drop_duplicates(["user_id", "movie_id"])
    sizes = []
    for rows in (few, pd.concat([few, table]).drop_duplicates(["user_id", "movie_id"])):
        save_models(*train_svd_model(rows, epochs=1, factors=5), str(tmp_path))
        sizes.append((tmp_path / "svd_model.pkl").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(12 * (len(table) - len(few)), abs=100)


def test_a_loaded_model_predicts_the_same_and_can_be_saved_again(tmp_path: Path) -> None:
    table = sample_ratings()
    model, trainset = train_svd_model(table, epochs=2)
    save_models(model, trainset, str(tmp_path))
    loaded = joblib.load(tmp_path / "svd_model.pkl")
    assert type(loaded) is matrix_factorization.SVD
    assert isinstance(loaded.trainset, Trainset)
    assert loaded.trainset.n_ratings == len(table)
    assert model.trainset is trainset  # saving changes nothing in memory
    for user, film, _ in table.head(200).itertuples(index=False):
        assert loaded.predict(user, film).est == model.predict(user, film).est
    save_models(loaded, loaded.trainset, str(tmp_path))
    assert joblib.load(tmp_path / "cf_trainset.pkl").ur == trainset.ur


def test_workers_can_share_one_copy_by_mmap(tmp_path: Path) -> None:
    model, trainset = train_svd_model(sample_ratings(), epochs=1)
    save_models(model, trainset, str(tmp_path))
    mapped = joblib.load(tmp_path / "svd_model.pkl", mmap_mode="r")
    rows = joblib.load(tmp_path / "cf_trainset.pkl", mmap_mode="r")
    assert isinstance(mapped.pu, np.memmap)
    assert isinstance(mapped.qi, np.memmap)
    assert mapped.predict("ml_sample_1", 862) == model.predict("ml_sample_1", 862)
    for loaded in (rows, mapped.trainset):
        assert isinstance(loaded._ratings, np.memmap)
        assert loaded.ur == trainset.ur


def test_a_model_of_plain_surprise_can_be_saved_and_serves(tmp_path: Path) -> None:
    plain = fit_plainly(sample_ratings().head(500))
    save_models(plain, plain.trainset, str(tmp_path))
    loaded = joblib.load(tmp_path / "svd_model.pkl")
    assert loaded.predict("ml_sample_1", 862) == plain.predict("ml_sample_1", 862)

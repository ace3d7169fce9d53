"""What the fusion service imports: Surprise's predictions, quickly, for every user."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import BACKEND
from surprise import SVD

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import (
    DamagedReleaseError,
    MissingReleaseError,
    MovieIdError,
    UserIdError,
)
from ml.collaborative.ratings import make_ratings
from ml.collaborative.release import ReleaseStore
from ml.collaborative.serving import CollaborativeModel, Recommendation, load_collaborative
from ml.collaborative.serving import snapshot as snapshot_module

FEW = ["ml_sample_1", "ml_sample_2", "nobody"]


@pytest.fixture(scope="module")
def svd(folder: Path) -> SVD:
    return joblib.load(folder / "svd_model.pkl")


def by_hand(svd: SVD, user: str, films: list[int]) -> list[tuple[int, float]]:
    """The films ranked by Surprise, best first, equal ones by their id."""
    found = [(-svd.predict(user, film, clip=False).est, film) for film in films]
    return [(film, svd.predict(user, film).est) for _, film in sorted(found)]


def assert_same(found: list[Recommendation], expected: list[tuple[int, float]]) -> None:
    assert [film.movie_id for film in found] == [film for film, _ in expected]
    stars = [film.stars for film in found]
    np.testing.assert_allclose(stars, [stars for _, stars in expected], atol=1e-9)


# Predictions


@pytest.mark.parametrize("algorithm", ["svd", pytest.param("bayesian", marks=pytest.mark.slow)])
def test_every_prediction_on_all_of_ml_100k_is_surprises(
    real_ratings: pd.DataFrame, tmp_path: Path, algorithm: str
) -> None:
    epochs = 3 if algorithm == "svd" else None
    svd, trainset = train_svd_model(real_ratings, algorithm=algorithm, epochs=epochs)
    save_models(svd, trainset, str(tmp_path))
    model = load_collaborative(tmp_path)
    films = [*model.movie_ids.tolist(), 999_999_999, -1, 0]
    worst = 0.0
    for user in [*trainset.raw_users(), "nobody", ""]:
        found = model.predict(user, films)
        assert found.dtype == np.float64
        expected = [svd.predict(user, film).est for film in films]
        worst = max(worst, float(np.abs(found - expected).max()))
    assert worst < 1e-9


def test_an_unknown_film_can_be_told(model: CollaborativeModel, svd: SVD) -> None:
    known = model.movie_ids[:3].tolist()
    films = [known[0], 5, known[1]]
    found = model.predict("ml_sample_1", films, unknown=np.nan)
    assert np.isnan(found).tolist() == [False, True, False]
    plain = model.predict("ml_sample_1", films)
    assert plain[1] == pytest.approx(svd.predict("ml_sample_1", 5).est, abs=1e-12)
    assert model.predict("ml_sample_1", []).shape == (0,)


def test_what_the_model_knows_can_be_asked(model: CollaborativeModel) -> None:
    film = int(model.movie_ids[0])
    assert model.knows_user("ml_sample_1")
    assert not model.knows_user("nobody")
    assert model.knows_movie(film)
    assert not model.knows_movie(5)
    assert model.knows_movies([film, 5, -3, 2**40]).tolist() == [True, False, False, False]
    assert model.manifest["data"]["users"] == 600
    with pytest.raises(ValueError, match="read-only"):
        model.movie_ids[0] = 1


@pytest.mark.parametrize(
    "wrong", [["862"], [862.5], [[862]], 862, [None], "862", [True], [[1], [1, 2]], {862}, [10**30]]
)
def test_what_is_no_list_of_film_ids_is_refused(model: CollaborativeModel, wrong: object) -> None:
    for ask in (model.predict, lambda user, ids: model.recommend(user, candidates=ids)):
        with pytest.raises(MovieIdError, match="expected a list of film ids as integers, found"):
            ask("ml_sample_1", wrong)


# Recommendations


@pytest.mark.parametrize("user", FEW)
def test_by_stars_recommendations_are_surprises_best_without_those_rated(
    model: CollaborativeModel, svd: SVD, user: str
) -> None:
    recommend = partial(model.recommend, by="stars")
    table = sample_ratings()
    rated = set(table.loc[table["user_id"] == user, "movie_id"])
    unseen = [film for film in model.movie_ids.tolist() if film not in rated]
    expected = by_hand(svd, user, unseen)
    assert_same(recommend(user), expected[:10])
    assert_same(recommend(user, n=10_000), expected)
    assert recommend(user, n=0) == []
    without = [film for film, _ in expected[:3]]
    assert_same(recommend(user, exclude={*without, 5}), expected[3:13])
    some = [*unseen[::3], *rated, 5, unseen[0], unseen[0]]
    assert_same(recommend(user, 7, candidates=some), by_hand(svd, user, unseen[::3])[:7])
    assert recommend(user, candidates=[5, 6]) == []


def test_films_with_equal_predictions_come_by_their_id(tmp_path: Path) -> None:
    table = make_ratings(["a", "a", "b", "b"], [9, 2, 7, 4], [3, 4, 3, 4])
    svd, trainset = train_svd_model(table, epochs=1, factors=2)
    svd.bi[:], svd.qi[:] = 0.25, 0
    save_models(svd, trainset, str(tmp_path))
    model = load_collaborative(tmp_path)
    for user, n, films in (("nobody", 10, [2, 4, 7, 9]), ("nobody", 2, [2, 4]), ("a", 2, [4, 7])):
        assert [film.movie_id for film in model.recommend(user, n, by="stars")] == films


def test_a_film_above_five_stars_is_told_from_one_at_five(tmp_path: Path) -> None:
    svd, trainset = train_svd_model(sample_ratings().head(300), epochs=1, factors=2)
    svd.bi[:] = np.linspace(2, 9, len(svd.bi))
    svd.qi[:] = 0
    save_models(svd, trainset, str(tmp_path))
    model = load_collaborative(tmp_path)
    assert model.predict("nobody", model.movie_ids).max() == 5
    found = model.recommend("nobody", n=3, by="stars")
    assert {film.stars for film in found} == {5.0}
    assert [film.movie_id for film in found] == [
        trainset.to_raw_iid(i) for i in np.argsort(-svd.bi)[:3]
    ]


def test_film_ids_too_high_for_a_table_are_found_too(
    folder: Path, model: CollaborativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "DENSE", 100)
    other = load_collaborative(folder)
    assert other.snapshot.table is None
    films = [*model.movie_ids.tolist(), -7, 0, 5, 2**50]
    assert other.knows_movies(films).tolist() == model.knows_movies(films).tolist()
    np.testing.assert_array_equal(
        other.predict("ml_sample_1", films), model.predict("ml_sample_1", films)
    )


# Loading


def test_numpy_alone_is_needed(folder: Path) -> None:
    """As on a machine that has nothing else of the requirements."""
    code = (
        "import sys\n"
        "for name in ('surprise', 'pandas', 'joblib', 'numba', 'scipy', 'pydantic', 'filelock',"
        " 'threadpoolctl', 'supabase', 'config'): sys.modules[name] = None\n"
        "from ml.collaborative.serving.model import load_collaborative\n"
        f"model = load_collaborative({str(folder)!r})\n"
        "user = model.fold_in({862: 5.0, 603: 1.0})\n"
        "print(len(model.recommend(user)), len(model.similar(862)), model.reload_if_changed())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BACKEND, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("10 10 False\n", "")


def test_arrays_can_stay_on_the_disk(folder: Path, model: CollaborativeModel) -> None:
    mapped = load_collaborative(folder, mmap=True)
    assert isinstance(mapped.snapshot.pu, np.memmap)
    with pytest.raises(TypeError, match="does not support item assignment"):
        mapped.manifest["build_id"] = "another"
    np.testing.assert_array_equal(
        mapped.predict("ml_sample_1", model.movie_ids),
        model.predict("ml_sample_1", model.movie_ids),
    )
    assert mapped.recommend("ml_sample_9") == model.recommend("ml_sample_9")


def test_no_release_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MissingReleaseError, match=r"no release in .*: make one with python -m"):
        load_collaborative(tmp_path)


def test_another_release_takes_over_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    table = sample_ratings().head(400)
    save_models(*train_svd_model(table, epochs=1, factors=3), str(tmp_path))
    model = load_collaborative(tmp_path)
    user, films = table["user_id"].iloc[0], model.movie_ids
    folded = model.fold_in({int(films[0]): 5.0})
    first = model.predict(user, films)
    assert not model.reload_if_changed()
    save_models(*train_svd_model(table, epochs=9, factors=4), str(tmp_path))
    np.testing.assert_array_equal(model.predict(user, films), first)
    assert model.reload_if_changed()
    second = model.predict(user, films)
    assert not np.array_equal(second, first)
    # A user folded in before is folded in again, with the vectors of the release that serves.
    np.testing.assert_array_equal(
        model.predict(folded, films), model.predict(model.fold_in(folded.ratings), films)
    )
    save_models(*train_svd_model(table, epochs=1, factors=3), str(tmp_path))
    damaged = ReleaseStore(tmp_path).live_folder() / "arrays" / "pu.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DamagedReleaseError, match=r"pu\.npy has .* bytes, published were"):
        model.reload_if_changed()
    np.testing.assert_array_equal(model.predict(user, films), second)


@pytest.mark.parametrize("user", [1, None, b"ml_sample_1", ["ml_sample_1"]])
def test_what_is_no_user_is_refused(model: CollaborativeModel, user: object) -> None:
    """Else an id of another type would get what everyone gets, and nobody would notice."""
    asks = (
        model.recommend, model.knows_user, lambda user: model.predict(user, [862]),
        lambda user: model.scores(user, [862]), lambda user: model.because(user, 862),
    )  # fmt: skip
    for ask in asks:
        with pytest.raises(UserIdError, match="expected a user's id as str or uuid"):
            ask(user)


def test_recommendations_can_be_kept(model: CollaborativeModel) -> None:
    found = model.recommend("ml_sample_1", n=2)
    assert pickle.loads(pickle.dumps(found)) == found
    assert found[0].movie_id == found[0][0]
    assert type(found[0].movie_id) is int
    assert type(found[0].score) is float

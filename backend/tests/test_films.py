"""Which films a build publishes: the catalog's and the app's, of a model trained on all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from helpers import popular_films
from small_builds import write_set

from ml.collaborative.errors import InputError
from ml.collaborative.films import choose_films, published_part
from ml.collaborative.ratings import combine, make_ratings
from ml.collaborative.serving import load_collaborative

Run = Callable[..., subprocess.CompletedProcess[str]]
BUILD = "ml.build_collaborative"


@pytest.fixture
def build(run: Run, tmp_path: Path, movielens_archives: Path) -> Run:
    """A build on the catalog of an app."""
    (tmp_path / "models").mkdir()
    joblib.dump(popular_films(), tmp_path / "models" / "movie_ids.pkl")

    def build(*args: str) -> subprocess.CompletedProcess[str]:
        return run(
            BUILD, "--catalog", tmp_path / "models" / "movie_ids.pkl", "--models-dir",
            tmp_path / "models", "--data-dir", tmp_path / "data", *args,
            MOVIELENS_BASE_URL=str(movielens_archives),
        )  # fmt: skip

    return build


def test_the_first_build_on_todays_popular_films_is_published_and_says_what_it_covers(
    build: Run, tmp_path: Path
) -> None:
    done = build("--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "WARNING: 13 of the catalog's 260 films have ratings (5.0%); "
        "--dataset ml-latest-small has 68 of them (26%), and --dataset ml-32m more\n"
    )
    model = load_collaborative(tmp_path / "models")
    assert model.manifest["algorithm"] == "bayesian"
    assert model.manifest["metrics"][0]["rmse"] < 0.83
    films = frozenset(popular_films())
    assert len(model.movie_ids) == 13
    assert set(model.movie_ids.tolist()) <= films
    assert {film.movie_id for film in model.recommend("ml_1", 100)} <= films
    assert set(joblib.load(tmp_path / "models" / "cf_trainset.pkl").raw_items()) <= films
    # What the warning advises is no loss of ratings, and no reason to be refused.
    done = build("--dataset", "ml-latest-small", "--algorithm", "svd")
    assert done.returncode == 0, done.stderr
    assert "Catalog   68 of the catalog's 260 films have ratings (26.2%)" in done.stdout


def test_two_sets_together_cover_what_both_cover(build: Run, tmp_path: Path) -> None:
    done = build("--dataset", "ml-100k,ml-latest-small", "--algorithm", "svd")
    assert done.returncode == 0, done.stderr
    assert (
        "Ratings   99,645 from MovieLens (ml-100k) and 100,822 from MovieLens (ml-latest-small)"
        in done.stdout
    )
    assert "Users     1,553; 0 of the app" in done.stdout
    users = joblib.load(tmp_path / "models" / "cf_trainset.pkl").raw_users()
    assert {user.rstrip("0123456789") for user in users} == {"ml_", "ml_latest_small_"}


def test_a_catalog_of_movielens_ids_stops_and_says_what_it_looks_like(
    build: Run, tmp_path: Path
) -> None:
    joblib.dump(list(range(1, 400)), tmp_path / "models" / "movie_ids.pkl")
    done = build()
    assert done.returncode == 3
    assert "look like positions in a list, not TMDB ids" in done.stderr.splitlines()[-1]


def test_films_that_the_apps_users_rated_are_published_too() -> None:
    movielens = make_ratings(["ml_1", "ml_1", "ml_2"], [1, 2, 3], [4, 5, 3])
    table = combine(movielens, make_ratings(["anna"], [9], [5]))
    wanted = choose_films(frozenset({1, 7}), table)
    assert wanted == {1, 7, 9}
    assert published_part(table, wanted)["movie_id"].tolist() == [1, 9]
    assert choose_films(None, table) is None
    with pytest.raises(InputError, match="none of the catalog's 1 films has ratings"):
        choose_films(frozenset({7}), movielens)


@pytest.mark.parametrize("flags", [(), ("--report",)])
def test_a_file_of_titles_that_cannot_be_read_is_a_warning(
    run: Run, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    write_set(tmp_path)
    (tmp_path / "ml-latest" / "movies.csv").write_bytes(b"movieId,title,genres\n1,\xff\xfe,Drama\n")
    joblib.dump(list(range(101, 111)), tmp_path / "movie_ids.pkl")
    done = run(
        BUILD, "--dataset", "ml-latest", "--catalog", tmp_path / "movie_ids.pkl", "--data-dir",
        tmp_path, "--models-dir", tmp_path / "models", "--algorithm", "svd", "--force-publish",
        *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING: no titles of ml-latest (" in done.stderr
    assert (tmp_path / "models" / "report.html").is_file() == bool(flags)

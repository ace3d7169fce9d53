"""The embedded sample: repeatable, well formed, true to the real archive, and learnable."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from surprise import SVD, BaselineOnly, Dataset, Reader, accuracy
from surprise.model_selection import train_test_split

from ml.collaborative.datasets import sample

if TYPE_CHECKING:
    from surprise.prediction_algorithms.algo_base import AlgoBase

GENRES_OF = {film.tmdb_id: film.genres for film in sample.films()}


@pytest.fixture(scope="module")
def ratings() -> pd.DataFrame:
    return sample.sample_ratings()


def svd() -> SVD:
    return SVD(n_factors=100, n_epochs=20, lr_all=0.005, reg_all=0.02, random_state=0)


def surprise_dataset(ratings: pd.DataFrame) -> Dataset:
    return Dataset.load_from_df(ratings, Reader(rating_scale=(1, 5)))


def mean_rating_by_genre(ratings: pd.DataFrame) -> pd.DataFrame:
    """Users by genres: the mean rating, NaN below five ratings of the genre."""
    by_genre = ratings.assign(genre=ratings["movie_id"].map(GENRES_OF)).explode("genre")
    cells = by_genre.groupby(["user_id", "genre"])["rating"].agg(["mean", "size"])
    return cells["mean"].where(cells["size"] >= 5).unstack("genre")


def normalised(title: str) -> str:
    """Letters and digits of a title in natural order, without what MovieLens puts in brackets."""
    title = re.sub(r"\s*\([^)]*\)", "", title)
    title = re.sub(r"^(.*), (The|An?)$", r"\2 \1", title)
    return "".join(character for character in title.casefold() if character.isalnum())


def rows_of(archive: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    with archive.open(f"ml-latest-small/{name}") as file:
        return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))


def test_the_same_seed_gives_the_same_frame_and_another_seed_another(ratings: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(sample.sample_ratings(seed=0), ratings, check_exact=True)
    assert not sample.sample_ratings(seed=1).equals(ratings)


def test_columns_dtypes_and_bounds(ratings: pd.DataFrame) -> None:
    assert ratings.dtypes.astype(str).to_dict() == {
        "user_id": "str",
        "movie_id": "int64",
        "rating": "float64",
    }
    assert set(ratings["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert not ratings.duplicated(["user_id", "movie_id"]).any()
    assert set(ratings["user_id"]) == {f"ml_sample_{n}" for n in range(1, sample.USERS + 1)}
    assert set(ratings["movie_id"]) == set(sample.film_titles())
    assert ratings.groupby("user_id").size().between(15, 80).all()
    assert ratings["rating"].mean() == pytest.approx(3.6, abs=0.15)


def test_a_few_films_have_most_ratings_and_none_has_too_few_to_learn_from(
    ratings: pd.DataFrame,
) -> None:
    counts = ratings["movie_id"].value_counts()
    assert counts.max() > 2.5 * counts.median()
    assert counts.min() >= 50


def test_film_titles_carry_the_year() -> None:
    titles = sample.film_titles()
    assert titles[603] == "The Matrix (1999)"
    assert len(titles) == len(sample.films()), "a TMDB id comes twice"


def test_every_genre_has_at_least_eight_films_and_every_taste_is_of_known_genres() -> None:
    films_of = Counter(genre for genres in GENRES_OF.values() for genre in genres)
    assert min(films_of.values()) >= 8, films_of
    assert {genre for taste in sample.TASTES for genre in taste} == set(films_of)


def test_every_film_has_the_id_title_and_year_of_the_real_archive(movielens_archives: Path) -> None:
    with zipfile.ZipFile(movielens_archives / "ml-latest-small.zip") as archive:
        tmdb_ids = {row["movieId"]: row["tmdbId"] for row in rows_of(archive, "links.csv")}
        real = {tmdb_ids[row["movieId"]]: row["title"] for row in rows_of(archive, "movies.csv")}
    wrong = [
        (film, real.get(str(film.tmdb_id)))
        for film in sample.films()
        if (found := real.get(str(film.tmdb_id))) is None
        or normalised(found) != normalised(film.title)
        or not found.strip().endswith(f"({film.year})")
    ]
    assert not wrong


def test_svd_beats_the_biases_alone_on_ratings_held_out(ratings: pd.DataFrame) -> None:
    train, test = train_test_split(surprise_dataset(ratings), test_size=0.25, random_state=0)

    def rmse(algorithm: AlgoBase) -> float:
        return float(accuracy.rmse(algorithm.fit(train).test(test), verbose=False))

    biases_only, with_factors = rmse(BaselineOnly(verbose=False)), rmse(svd())
    assert 0.70 < with_factors < 0.85
    assert with_factors < 0.8 * biases_only


def test_who_loves_a_genre_on_some_films_loves_it_on_others(ratings: pd.DataFrame) -> None:
    first_half = ratings["movie_id"].isin(list(GENRES_OF)[::2])
    seen, other = (
        means.sub(means.mean(axis=1), axis=0)
        for means in map(mean_rating_by_genre, (ratings[first_half], ratings[~first_half]))
    )
    seen = seen.reindex_like(other)
    for genre in ("Horror", "Romance", "Family", "Science Fiction", "Crime"):
        of_lovers = other.loc[seen[genre] > 0.5, genre].mean()
        of_haters = other.loc[seen[genre] < -0.5, genre].mean()
        assert of_lovers > of_haters + 0.5, genre


def test_the_top_five_unseen_films_follow_the_tastes_of_a_user(ratings: pd.DataFrame) -> None:
    """A film's fit to a user: the mean, over its genres, of what the user gave to the genre."""
    trainset = surprise_dataset(ratings).build_full_trainset()
    model = svd().fit(trainset)
    scores = model.bu[:, None] + model.bi + model.pu @ model.qi.T
    movie_ids = [trainset.to_raw_iid(inner) for inner in trainset.all_items()]
    user_ids = [trainset.to_raw_uid(inner) for inner in trainset.all_users()]

    given = mean_rating_by_genre(ratings).loc[user_ids]
    user_means = ratings.groupby("user_id")["rating"].mean()
    given = given.apply(lambda row: row.fillna(user_means[row.name]), axis=1)
    fit = np.array([given[list(GENRES_OF[movie])].mean(axis=1) for movie in movie_ids]).T

    gains = []
    for user in trainset.all_users():
        unseen = np.setdiff1d(trainset.all_items(), [item for item, _ in trainset.ur[user]])
        top_five = unseen[np.argsort(-scores[user, unseen])[:5]]
        gains.append(fit[user, top_five].mean() - fit[user, unseen].mean())
    assert np.mean(gains) > 0.4
    assert np.mean(np.array(gains) > 0) > 0.95

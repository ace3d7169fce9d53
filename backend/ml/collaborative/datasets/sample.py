"""Draw a small seeded set of ratings of well-known films, for a first try, a demo and tests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..files import refuse_lfs_pointer
from ..ratings import SAMPLE_PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

USERS = 600
RATINGS_PER_USER = (15, 80)  # fewest and most
MEAN_RATING = 3.6
RATING_BOUNDS = (1, 5)

# Genres that are liked, or disliked, together. Six tastes for thirteen genres: from so few ratings
# a model can learn a low rank, but not a taste for each genre.
TASTES = (
    ("Animation", "Family", "Fantasy"),
    ("Comedy", "Romance"),
    ("Crime", "Thriller"),
    ("Action", "Adventure", "Science Fiction"),
    ("Horror", "Thriller"),
    ("Drama", "War"),
)

_FILMS_CSV = Path(__file__).with_name("sample_films.csv")
_TYPICAL_RATINGS_PER_USER = 42  # median of the draw, before the bounds
_USER_BIAS_SD = 0.3
_FILM_BIAS_SD = 0.25
_TASTE_SD = 1.0
_NOISE_SD = 0.5


class Film(NamedTuple):
    """One film of the sample, by its TMDB id."""

    tmdb_id: int
    title: str
    year: int
    genres: tuple[str, ...]


def films() -> list[Film]:
    """Return the films of the sample, oldest first, in the order of `sample_films.csv`."""
    refuse_lfs_pointer(_FILMS_CSV)
    with _FILMS_CSV.open(encoding="utf-8", newline="") as file:
        return [
            Film(
                int(row["tmdb_id"]), row["title"], int(row["year"]), tuple(row["genres"].split("|"))
            )
            for row in csv.DictReader(file)
        ]


def film_titles() -> dict[int, str]:
    """Return each film's title with its year by TMDB id: `{603: "The Matrix (1999)", …}`."""
    return {film.tmdb_id: f"{film.title} ({film.year})" for film in films()}


def sample_ratings(seed: int = 0) -> pd.DataFrame:
    """Return ratings of all sample users; the same seed gives the same frame.

    The rating of user u for film i is

        r_ui = clip(round(mu + b_u + b_i + t_u . g_i + e_ui), 1, 5)

    with mu = 3.6, b_u ~ N(0, 0.3), b_i ~ N(0, 0.25) and e_ui ~ N(0, 0.5); g_i the film's
    genres as a vector of length one, less the mean over all films; and t_u = z_u A the user's
    taste, of rank six: A is 1 where a taste of `TASTES` has a genre and 0 elsewhere, and
    z_u ~ N(0, 1). The second number of each N is the standard deviation.

    A user rates 15 to 80 films (log-normal, median 42), drawn without replacement in
    proportion to popularity, which falls with a film's rank k (0, 1, …) as 1 / (k + 10).
    The ranks are drawn too, and what users rate does not depend on their taste.

    Args:
        seed: of the one random generator that everything is drawn from.

    Returns:
        One row for each rating, by user and then by film in the order of the file, with columns
        `user_id` (str, "ml_sample_1"…), `movie_id` (int64, TMDB id) and `rating` (float64,
        whole stars 1 to 5). No user rates a film twice.
    """
    rng = np.random.default_rng(seed)
    all_films = films()
    shape = (USERS, len(all_films))

    user_bias = rng.normal(0, _USER_BIAS_SD, (USERS, 1))
    film_bias = rng.normal(0, _FILM_BIAS_SD, shape[1])
    genres, tastes = _genre_vectors(all_films)
    affinity = rng.normal(0, _TASTE_SD, (USERS, len(TASTES))) @ tastes @ genres.T
    noise = rng.normal(0, _NOISE_SD, shape)
    stars = np.clip(np.rint(MEAN_RATING + user_bias + film_bias + affinity + noise), *RATING_BOUNDS)

    rows, columns = np.nonzero(_rated(rng, *shape))
    user_ids = np.array([f"{SAMPLE_PREFIX}{number}" for number in range(1, USERS + 1)])
    movie_ids = np.array([film.tmdb_id for film in all_films], dtype=np.int64)
    return pd.DataFrame(
        {
            "user_id": pd.Series(user_ids[rows], dtype="str"),
            "movie_id": movie_ids[columns],
            "rating": stars[rows, columns],
        }
    )


def _genre_vectors(all_films: list[Film]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the films' genre vectors (films, genres) and the tastes A (tastes, genres)."""
    names = sorted({genre for film in all_films for genre in film.genres})
    genres = np.array([[float(name in film.genres) for name in names] for film in all_films])
    # Length one: a film with three genres counts no more than a film with one.
    genres /= np.linalg.norm(genres, axis=1, keepdims=True)
    # Less the mean: what a user gives to all films alike is the bias, not a taste.
    genres -= genres.mean(axis=0)
    tastes = np.array([[float(name in taste) for name in names] for taste in TASTES])
    return genres, tastes


def _rated(rng: np.random.Generator, users: int, n_films: int) -> NDArray[np.bool_]:
    """Return which films each user has rated: booleans of shape (users, n_films)."""
    log_popularity = -np.log(rng.permutation(n_films) + 10.0)
    draws = rng.lognormal(np.log(_TYPICAL_RATINGS_PER_USER), 0.4, users)
    counts = np.clip(draws, *RATINGS_PER_USER).astype(np.int64)
    # Gumbel top-k: the k largest are a weighted draw of k films without replacement.
    keys = log_popularity + rng.gumbel(size=(users, n_films))
    places = np.argsort(np.argsort(-keys, axis=1), axis=1)
    return places < counts[:, None]

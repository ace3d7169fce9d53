"""Make a ratings table of the texts in the app's database; count invalid rows by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..ratings import NOT_APP_PREFIX, are_films, is_app_user, make_ratings
from . import scales

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


NULL = "user or film is null"
NO_USER = "user is empty"
RESERVED = f"user id begins with the reserved {NOT_APP_PREFIX!r}"
NO_FILM = "film is not a positive integer"
NO_NUMBER = "rating is not a number"
RATED_AGAIN = "second rating of a film"
"""Reasons to leave a row out; `off_scale` is one more."""


def clean_app_ratings(
    rows: pa.Table, scale: str, nulls: int = 0
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the valid ratings, in stars, and the number of other rows by reason.

    A row is valid if its user is not empty and does not begin with MovieLens's prefix, its film is
    a positive integer in digits, and its rating a number on the scale. Where a user rated a film
    several times, the highest rating is kept: the table has no times.

    Args:
        rows: columns user_id, movie_id and rating as the database writes them, dictionary-encoded
            strings; in any order.
        scale: a key of `scales.BOUNDS`.
        nulls: number of further rows, without a user or film.

    Returns:
        The ratings table, ordered by user (by code point) and film, and the number of rows left
        out by reason (no zeros).
    """
    users, user = take_apart(rows, "user_id")
    movies, movie = take_apart(rows, "movie_id")
    texts, rating = take_apart(rows, "rating")
    given = scales.ratings_of(texts, scale)
    film = film_ids(movies)
    reasons = {
        NULL: (user < 0) | (movie < 0),
        NO_USER: _of(users.str.strip() == "", user),
        RESERVED: _of(~is_app_user(users), user),
        NO_FILM: _of(film.isna(), movie),
        NO_NUMBER: (rating < 0) | _of(given.isna(), rating),
        off_scale(scale): _of(~scales.are_on(given, scale), rating),
    }
    kept = np.ones(len(rows), dtype=np.bool_)
    dropped = {}
    for reason, applies in reasons.items():
        dropped[reason] = int((kept & applies).sum())
        kept &= ~applies
    dropped[NULL] += nulls
    user, movie, rating = user[kept], movie[kept], rating[kept]
    table = _in_order(
        *_ranked(users.astype(object), user),
        *_ranked(film, movie),
        *_ranked(scales.to_stars(given, scale), rating),
    )
    dropped[RATED_AGAIN] = len(user) - len(table)
    return table, {reason: count for reason, count in dropped.items() if count}


def off_scale(scale: str) -> str:
    """Return the reason to leave out a row whose rating is a number outside the scale."""
    lowest, highest = scales.BOUNDS[scale]
    return f"rating outside {lowest:g} to {highest:g}"


def film_ids(texts: pd.Series) -> pd.Series:
    """Return the film id that each text is, float64; NaN where it is not one.

    An id is written in digits; numeric columns may add zeros after a point.
    """
    film = scales.numbers(texts.where(texts.str.fullmatch(r"[0-9]+(\.0+)?")))
    return film.where(are_films(film))


def take_apart(rows: pa.Table, name: str) -> tuple[pd.Series, NDArray[np.integer]]:
    """Return the column's distinct texts, and each row's place among them, -1 for a null."""
    column = rows[name].to_pandas().cat
    return pd.Series(column.categories.astype("str")), column.codes.to_numpy()


def _of(values: pd.Series, codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the value of each row; false for a null, whose code is -1."""
    with_null = np.append(values.to_numpy(dtype=np.bool_), False)
    found: NDArray[np.bool_] = with_null[codes]
    return found


def _ranked(
    values: pd.Series, codes: NDArray[np.integer]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct values in order, and each row's place among them."""
    used = np.unique(codes)
    found, places = np.unique(values.to_numpy()[used], return_inverse=True)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[used] = places
    return found, ranks[codes]


def _in_order(
    users: NDArray[Any], user: NDArray[np.int64],
    films: NDArray[Any], film: NDArray[np.int64],
    stars: NDArray[Any], star: NDArray[np.int64],
) -> pd.DataFrame:  # fmt: skip
    """Return a ratings table ordered by user and film, with the highest rating of each pair."""
    pair = user * len(films) + film
    order = np.argsort(pair * len(stars) + (len(stars) - 1 - star))
    pair = pair[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = pair[1:] != pair[:-1]
    order = order[first]
    named = pd.Categorical.from_codes(user[order], pd.Index(users, dtype="str"))
    return make_ratings(named, films[film[order]], stars[star[order]])

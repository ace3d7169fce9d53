"""From the texts of the app's database to a table of ratings; what is none is counted by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import app_scales
from .ratings import NOT_APP_PREFIX, are_films, is_app_user, make_ratings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray


def clean_app_ratings(
    rows: pa.Table, scale: str, nulls: int = 0
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep the rows that are ratings, in stars; count the others by reason.

    A row is a rating if its user is not empty (and does not claim a MovieLens id), its film is a
    positive integer, and its rating a number on the scale. Of one user's several ratings of a film
    the highest stays: the table has no time to go by.

    Args:
        rows: columns user_id, movie_id and rating as the database's own text, dictionary-encoded;
            in any order.
        scale: of `app_scales.BOUNDS`.
        nulls: further rows, without a user or film.

    Returns:
        The ratings table in the order of users (by code point) and films, and the number of rows
        left out by reason (no zero counts).
    """
    import numpy as np

    users, user = _dictionary(rows, "user_id")
    movies, movie = _dictionary(rows, "movie_id")
    texts, rating = _dictionary(rows, "rating")
    given = app_scales.ratings_of(texts, scale)
    film = app_scales.numbers(movies)
    lowest, highest = app_scales.BOUNDS[scale]
    reasons = {
        "user or film is null": (user < 0) | (movie < 0),
        "no user": _of(users.str.strip() == "", user),
        f"user id begins with the reserved {NOT_APP_PREFIX!r}": _of(~is_app_user(users), user),
        "film is no positive integer": _of(~are_films(film), movie),
        "rating is no number": (rating < 0) | _of(given.isna(), rating),
        f"rating outside {lowest:g} to {highest:g}": _of(~app_scales.are_on(given, scale), rating),
    }
    kept = np.ones(len(rows), dtype=np.bool_)
    dropped = {}
    for reason, applies in reasons.items():
        dropped[reason] = int((kept & applies).sum())
        kept &= ~applies
    dropped["user or film is null"] += nulls
    user, movie, rating = user[kept], movie[kept], rating[kept]
    table = _in_order(
        users, user, film.to_numpy()[movie], app_scales.to_stars(given, scale).to_numpy()[rating]
    )
    dropped["second rating of a film"] = len(user) - len(table)
    return table, {reason: count for reason, count in dropped.items() if count}


def _dictionary(rows: pa.Table, name: str) -> tuple[pd.Series, NDArray[np.integer]]:
    """The column's texts, each once, and the place of each row's among them, -1 of a null."""
    column = rows[name].to_pandas().cat
    return column.categories.to_series(index=range(len(column.categories))).astype(
        "str"
    ), column.codes.to_numpy()


def _of(values: pd.Series, codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The value of each row, false of a null."""
    import numpy as np

    found: NDArray[np.bool_] = np.append(values.to_numpy(dtype=np.bool_), False)[
        codes
    ]  # the code of a null is -1: the last
    return found


def _in_order(
    users: pd.Series,
    user: NDArray[np.integer],
    films: NDArray[np.float64],
    stars: NDArray[np.float64],
) -> pd.DataFrame:
    """A ratings table, by user and film, of each pair the highest."""
    import numpy as np
    import pandas as pd

    found = np.unique(user)
    found = found[np.argsort(users.to_numpy(dtype=object)[found], kind="stable")]
    rank = np.empty(len(users), dtype=np.int32)
    rank[found] = np.arange(len(found), dtype=np.int32)
    user, films = rank[user], films.astype(np.int64)
    order = np.lexsort((-stars, films, user))
    user, films, stars = user[order], films[order], stars[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (user[1:] != user[:-1]) | (films[1:] != films[:-1])
    named = pd.Categorical.from_codes(user[first], users.iloc[found].array)
    return make_ratings(named, films[first], stars[first])

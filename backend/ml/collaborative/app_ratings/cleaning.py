"""From the texts of the app's database to a table of ratings; what is none is counted by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ratings import NOT_APP_PREFIX, are_films, is_app_user, make_ratings
from . import scales as app_scales

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
        *_ranked(users.astype(object), user),
        *_ranked(film, movie),
        *_ranked(app_scales.to_stars(given, scale), rating),
    )
    dropped["second rating of a film"] = len(user) - len(table)
    return table, {reason: count for reason, count in dropped.items() if count}


def _dictionary(rows: pa.Table, name: str) -> tuple[pd.Series, NDArray[np.integer]]:
    """The column's texts, each once, and the place of each row's among them, -1 of a null."""
    import pandas as pd

    column = rows[name].to_pandas().cat
    return pd.Series(column.categories.astype("str")), column.codes.to_numpy()


def _of(values: pd.Series, codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The value of each row; false of a null, whose code is -1."""
    import numpy as np

    with_null = np.append(values.to_numpy(dtype=np.bool_), False)
    found: NDArray[np.bool_] = with_null[codes]
    return found


def _ranked(
    values: pd.Series, codes: NDArray[np.integer]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values that rows have, each once and in order, and each row's place among them."""
    import numpy as np

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
    """A ratings table, by user and film, of each pair the highest."""
    import numpy as np
    import pandas as pd

    pair = user * len(films) + film
    order = np.argsort(pair * len(stars) + (len(stars) - 1 - star))
    pair = pair[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = pair[1:] != pair[:-1]
    order = order[first]
    named = pd.Categorical.from_codes(user[order], pd.Index(users, dtype="str"))
    return make_ratings(named, films[film[order]], stars[star[order]])

"""What a table of ratings is: its columns, types and bounds; combining two of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

COLUMNS = ["user_id", "movie_id", "rating"]
"""user_id: categorical of str; movie_id: int64, a TMDB id; rating: float64, LOWEST to HIGHEST.

Categorical, because a user's id as text in each row would take gigabytes on the large sets.
"""

LOWEST, HIGHEST = 0.5, 5.0

NOT_APP_PREFIX = "ml_"
"""User ids that begin so are MovieLens's (or the sample's); all others are the app's."""
SAMPLE_PREFIX = "ml_sample_"
"""User ids of the generated sample begin so."""
SAMPLE_NOTICE = "generated sample, not real ratings"
"""What people are told of the sample."""
APP = "app"
"""Name of the app's own ratings as a source."""
GIVEN = "ratings"
"""Name of the ratings of --ratings as a source."""


class Counts(NamedTuple):
    """How much a model was trained on."""

    ratings: int
    users: int
    films: int
    app_ratings: int
    app_users: int
    is_sample: bool
    """Whether all users are of the generated sample."""

    def without_app(self) -> Counts:
        """Return the counts of MovieLens's ratings."""
        return self._replace(
            ratings=self.ratings - self.app_ratings,
            users=self.users - self.app_users,
            app_ratings=0,
            app_users=0,
        )


@dataclass(frozen=True)
class Source:
    """Where rows of a ratings table are from, and what became of the others."""

    name: str
    """A MovieLens set, `sample`, `APP` or `GIVEN`."""
    rows: int
    """Ratings it has."""
    dropped: Mapping[str, int]
    """How many of them were left out, by reason; no zeros."""
    kept: int
    """Ratings in the table."""
    users: int
    films: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as the manifest has it."""
        return {**vars(self), "dropped": dict(self.dropped)}


def make_source(name: str, rows: int, dropped: Mapping[str, int], kept: pd.DataFrame) -> Source:
    """Return the source that a ratings table is from."""
    left_out = {reason: count for reason, count in dropped.items() if count}
    users, films = kept["user_id"].nunique(), kept["movie_id"].nunique()
    return Source(name, rows, left_out, len(kept), users, films)


def with_sources(table: pd.DataFrame, *sources: Source) -> pd.DataFrame:
    """Return the table, with where its rows are from.

    It travels in `DataFrame.attrs`, so that the functions of the plan take and give tables alone.
    """
    table = table.copy(deep=False)
    table.attrs["sources"] = sources
    return table


def sources_of(table: pd.DataFrame) -> tuple[Source, ...]:
    """Return where a table's rows are from; nothing of a table of unknown origin."""
    return tuple(table.attrs.get("sources", ()))


def make_ratings(user_ids: object, movie_ids: object, ratings: object) -> pd.DataFrame:
    """A ratings table with the declared columns and dtypes and a fresh index."""
    import numpy as np
    import pandas as pd

    users = getattr(user_ids, "array", user_ids)
    if (
        not isinstance(users, pd.Categorical)
        or users.ordered
        or users.categories.inferred_type not in ("string", "empty")
    ):
        users = pd.Categorical(pd.Series(users).astype("str"))
    return pd.DataFrame(
        {
            "user_id": users,
            "movie_id": np.asarray(movie_ids, dtype=np.int64),
            "rating": np.asarray(ratings, dtype=np.float64),
        },
        copy=False,
    )


def empty_ratings() -> pd.DataFrame:
    """A ratings table of no rows."""
    return make_ratings([], [], [])


def is_app_user(user_ids: pd.Series) -> pd.Series:
    """Boolean per row: whether the user is the app's own."""
    return ~user_ids.str.startswith(NOT_APP_PREFIX)


def has_app_ratings(table: pd.DataFrame) -> bool:
    """Return whether a ratings table has ratings of the app's own users."""
    users = table["user_id"].cat.remove_unused_categories().cat.categories.to_series()
    return bool(is_app_user(users.astype("str")).any())


def are_films(numbers: pd.Series) -> pd.Series:
    """Boolean per number: whether it can be a TMDB id."""
    return (numbers % 1 == 0) & (numbers > 0) & (numbers < 2**53)


def combine(ml_ratings: pd.DataFrame, real_ratings: pd.DataFrame) -> pd.DataFrame:
    """One table of MovieLens's ratings, then the app's own.

    Raises:
        InputError: a table lacks a column, or a value is no rating.
    """
    import numpy as np
    from pandas.api.types import union_categoricals

    sources = (*sources_of(ml_ratings), *sources_of(real_ratings))
    tables = [check_ratings(ml_ratings), check_ratings(real_ratings)]
    full = [table for table in tables if len(table)]
    if len(full) < 2:
        return with_sources(full[0] if full else tables[0], *sources)
    users = union_categoricals([table["user_id"] for table in full])
    rest = (np.concatenate([table[name] for table in full]) for name in COLUMNS[1:])
    return with_sources(make_ratings(users, *rest), *sources)


def check_ratings(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with exactly the declared columns and dtypes.

    Raises:
        InputError: a column is missing, or a value is not what it should be.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"a ratings table lacks {', '.join(missing)}: "
            f"found {', '.join(map(str, table.columns))}"
        )
    if table[COLUMNS].isna().any(axis=None):
        raise InputError(
            "a ratings table has blank values: every row needs a user, film and rating"
        )
    try:
        check_bounds(table["rating"])
        if not are_films(table["movie_id"]).all():
            raise InputError("a ratings table has a movie_id that is no positive integer")
        return make_ratings(*(table[name] for name in COLUMNS))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a ratings table has a value of the wrong type: {error}") from None


def table_hash(table: pd.DataFrame) -> str:
    """SHA-256 of a ratings table's content and order, in hex.

    Over the users' ids in the order they come, a line each; then each row's user as a number in
    that order (int32), its film (int64) and its rating (float64), column by column, little-endian.
    """
    import numpy as np
    import pandas as pd

    codes, users = pd.factorize(table["user_id"])
    digest = hashlib.sha256("".join(f"{user}\n" for user in users).encode())
    for column, dtype in ((codes, "<i4"), (table["movie_id"], "<i8"), (table["rating"], "<f8")):
        digest.update(np.ascontiguousarray(column, dtype=dtype).data)
    return digest.hexdigest()


def check_bounds(ratings: pd.Series) -> None:
    """Raise InputError where a rating is blank or out of bounds."""
    outside = ratings[~ratings.between(LOWEST, HIGHEST)]
    if len(outside):
        raise InputError(
            f"{len(outside):,} ratings are outside {LOWEST} to {HIGHEST:g}, "
            f"the first of them {outside.iloc[0]}"
        )


def rating_scale(ratings: pd.Series) -> tuple[float, float]:
    """The scale the ratings are on: (0.5, 5) where there are half stars, else (1, 5)."""
    return (LOWEST if bool((ratings % 1 != 0).any()) else 1.0), HIGHEST

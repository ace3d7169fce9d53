"""The ratings table: its columns, types and bounds, where its rows are from, combining two.

Importing it takes no NumPy or pandas: serving and the scripts' `--help` do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = ["user_id", "movie_id", "rating"]
"""user_id: categorical of str; movie_id: int64, a TMDB id; rating: float64, LOWEST to HIGHEST.

Categorical, because a user's id as text in each row would take gigabytes on the large sets.
"""

LOWEST, HIGHEST = 0.5, 5.0

NOT_APP_PREFIX = "ml_"
"""Prefix of the user ids of MovieLens and the sample; all other users are the app's."""
SAMPLE_PREFIX = "ml_sample_"
"""Prefix of the user ids of the generated sample."""
SAMPLE_NOTICE = "generated sample, not real ratings"
"""What people read about the sample."""
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

    def of_app(self) -> Counts:
        """Return the counts of the app's ratings."""
        return self._replace(ratings=self.app_ratings, users=self.app_users)

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

    The functions that the plan names take and give plain tables, so what they know beside the rows
    travels in `DataFrame.attrs["sources"]`: as plain dictionaries, which pandas can write to
    Parquet.
    """
    table = table.copy(deep=False)
    table.attrs["sources"] = [source.as_dict() for source in sources]
    return table


def sources_of(table: pd.DataFrame) -> tuple[Source, ...]:
    """Return where a table's rows are from; an empty tuple where that is unknown."""
    return tuple(Source(**source) for source in table.attrs.get("sources", ()))


NO_TMDB_ID = "the film has no TMDB id"
NOT_IN_CATALOG = "the film is not in the catalog"
RATED_AGAIN = "the same user rated the film again"
"""Reasons to leave a rating of a data set out."""


@dataclass(frozen=True)
class MappedRatings:
    """Ratings of one data set under TMDB ids, and what became of the others."""

    dataset: str
    ratings: pd.DataFrame
    """See `COLUMNS`; no user rates a film twice. It carries its `Source`."""
    loaded: int
    """Ratings in the set."""
    mapped: int
    """Those whose film has a TMDB id."""
    in_catalog: int
    """Those of them whose film is in the catalog, second ratings of a film included."""
    catalog: frozenset[int] | None
    """None: every film that has a TMDB id."""
    tmdb_ids: pd.Series
    """TMDB id (Int64, blank where there is none) by the set's own film ids."""
    times: NDArray[np.integer] | None = None
    """Of each row of `ratings`, seconds since 1970; the sample has none."""

    def dropped(self) -> dict[str, int]:
        """Return how many of the set's ratings were left out, by reason; no zeros."""
        counts = {
            NO_TMDB_ID: self.loaded - self.mapped,
            NOT_IN_CATALOG: self.mapped - self.in_catalog,
            RATED_AGAIN: self.in_catalog - len(self.ratings),
        }
        return {reason: count for reason, count in counts.items() if count}


def make_ratings(user_ids: object, movie_ids: object, ratings: object) -> pd.DataFrame:
    """Return a ratings table with the declared columns and dtypes and a new index."""
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
    """Return a ratings table without rows."""
    return make_ratings([], [], [])


def is_app_user(user_ids: pd.Series) -> pd.Series:
    """Return for each user id whether it is of the app, boolean."""
    return ~user_ids.str.startswith(NOT_APP_PREFIX)


def has_app_ratings(table: pd.DataFrame) -> bool:
    """Return whether a ratings table has ratings of the app's own users."""
    users = table["user_id"].cat.remove_unused_categories().cat.categories.to_series()
    return bool(is_app_user(users.astype("str")).any())


def are_films(numbers: pd.Series) -> pd.Series:
    """Return for each number whether it can be a TMDB id, boolean."""
    return (numbers % 1 == 0) & (numbers > 0) & (numbers < 2**53)


def combine(ml_ratings: pd.DataFrame, real_ratings: pd.DataFrame) -> pd.DataFrame:
    """Return one table of MovieLens's ratings, then the app's; it carries the sources of both.

    Raises:
        InputError: a table lacks a column, or has an invalid value.
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
    """Return `table` with exactly the declared columns and dtypes.

    Raises:
        InputError: a column is missing, or a value is invalid.
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
            raise InputError("a ratings table has a movie_id that is not a positive integer")
        return make_ratings(*(table[name] for name in COLUMNS))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a ratings table has a value of the wrong type: {error}") from None


def table_hash(table: pd.DataFrame) -> str:
    """Return the SHA-256 of a ratings table's content and order, in hex.

    What is hashed: the users' ids in order of first appearance, a line each; then, column by column
    and little-endian, each row's user as a number in that order (int32), its film (int64) and its
    rating (float64).
    """
    import numpy as np
    import pandas as pd

    codes, users = pd.factorize(table["user_id"])
    digest = hashlib.sha256("".join(f"{user}\n" for user in users).encode())
    for column, dtype in ((codes, "<i4"), (table["movie_id"], "<i8"), (table["rating"], "<f8")):
        digest.update(np.ascontiguousarray(column, dtype=dtype).data)
    return digest.hexdigest()


def check_bounds(ratings: pd.Series) -> None:
    """Raise InputError if a rating is blank or outside `LOWEST` to `HIGHEST`."""
    outside = ratings[~ratings.between(LOWEST, HIGHEST)]
    if len(outside):
        raise InputError(
            f"{len(outside):,} ratings are outside {LOWEST} to {HIGHEST:g}, "
            f"the first of them {outside.iloc[0]}"
        )


def rating_scale(ratings: pd.Series) -> tuple[float, float]:
    """Return the scale of the ratings: (0.5, 5) where there are half stars, else (1, 5)."""
    return (LOWEST if bool((ratings % 1 != 0).any()) else 1.0), HIGHEST

"""The app's own ratings as configured, and a stop where a build would lose its users."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from .. import ratings
from ..errors import InputError, SourceError
from . import scales as app_scales
from .cleaning import clean_app_ratings

if TYPE_CHECKING:
    import pandas as pd

    from ..ratings import Counts

MOST_OFF = 0.1
"""Share of the rows whose rating may be none on the scale; of more, the scale is another."""
FEW_OFF = 10
"""So few may be in any case."""

logger = logging.getLogger(__name__)


class AppTable(NamedTuple):
    """Where the app's ratings are."""

    schema: str = "public"
    table: str = "ratings"
    user: str = "user_id"
    movie: str = "movie_id"
    rating: str = "rating"

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns of user, film and rating."""
        return self.user, self.movie, self.rating

    @property
    def expected(self) -> str:
        """For people: what the database has to have."""
        return (
            f"expected a table {self} with the columns {', '.join(self.columns)}; "
            "other names are set by APP_RATINGS_TABLE and the like, see .env.example"
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def read_app_ratings() -> pd.DataFrame:
    """Every rating of the app; none where its database is not configured.

    Straight from Postgres where SUPABASE_DB_URL is set, else over Supabase's REST interface; the
    same ratings give the same table either way.

    Returns:
        The ratings table (see `cleaning.clean_app_ratings`), with its source, which counts the rows
        left out by reason; without a source where no database is configured.

    Raises:
        SourceError: it is half configured, or fails.
        InputError: the ratings are on another scale than is declared.
    """
    from ..settings import read_settings

    settings = read_settings()
    url, key = settings.supabase_url, settings.supabase_service_role_key
    names = AppTable(
        settings.app_ratings_schema,
        settings.app_ratings_table,
        settings.app_ratings_user,
        settings.app_ratings_movie,
        settings.app_ratings_rating,
    )
    nulls = 0
    if settings.supabase_db_url:
        from . import postgres as postgres_ratings

        logger.info("reading the app's ratings from Postgres")
        rows = postgres_ratings.read_rows(settings.supabase_db_url, names)
    elif url and key:
        from . import rest as supabase_ratings

        logger.info("reading the app's ratings from Supabase")
        rows, nulls = supabase_ratings.read_rows(url, key, names)
    elif url or key:
        missing = "SUPABASE_SERVICE_ROLE_KEY" if url else "SUPABASE_URL"
        raise SourceError(f"Supabase is half configured: {missing} is not set")
    else:
        logger.info(
            "no app ratings: neither SUPABASE_DB_URL is set, "
            "nor SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY"
        )
        return ratings.empty_ratings()
    table, dropped = clean_app_ratings(rows, settings.app_ratings_scale, nulls)
    found = len(rows) + nulls
    if not found:
        or_else = (
            "APP_RATINGS_TABLE names another table"
            if settings.supabase_db_url
            else "the key is an anon key under row-level security, which looks just the same: use "
            "the service-role key"
        )
        logger.warning("%s has 0 rows: either nobody has rated yet, or %s", names, or_else)
    off = sum(count for reason, count in dropped.items() if reason.startswith("rating "))
    if off > max(FEW_OFF, MOST_OFF * found):
        scale = settings.app_ratings_scale
        raise InputError(
            f"{off:,} of the app's {found:,} ratings are none on the scale {scale} "
            f"({'; '.join(dropped)}): set APP_RATINGS_SCALE to what the app's users give "
            f"({', '.join(app_scales.BOUNDS)})"
        )
    logger.info("read %s rows of the app, kept %s", f"{found:,}", f"{len(table):,}")
    for reason, count in dropped.items():
        logger.warning("left out %s app ratings: %s", f"{count:,}", reason)
    return ratings.with_sources(table, ratings.make_source(ratings.APP, found, dropped, table))


def read_app_ratings_or_stop(published: Counts | None) -> pd.DataFrame:
    """Read every rating of the app; stop where a build would lose the app's users.

    Raises:
        SourceError: the database is configured and fails; or no ratings came, and the published
            model was trained with some.
        InputError: the ratings are on another scale than is declared.
    """
    known = published.app_users if published else 0
    kept = f" The published model knows {known:,} app users and is kept;" if known else ""
    advice = f"{kept or ' Nothing is built;'} fix that, or build with --allow-missing-app-ratings"
    try:
        table = read_app_ratings()
    except SourceError as error:
        raise SourceError(f"{error}.{advice}") from None
    if known and table.empty:
        raise SourceError(f"no app ratings came.{advice}")
    return table

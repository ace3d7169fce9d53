"""Read the app's own ratings as configured; stop where a build would lose the app's users."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import InputError, SourceError
from ..ratings import APP, empty_ratings, make_source, with_sources
from ..settings import describe_unknown, read_settings
from .cleaning import clean_app_ratings
from .faults import explain_left_out, find_heavy_accounts

if TYPE_CHECKING:
    import pandas as pd

    from ..ratings import Counts

logger = logging.getLogger(__name__)


def read_app_ratings() -> pd.DataFrame:
    """Return every rating of the app; without rows if no database is configured.

    They come from Postgres if SUPABASE_DB_URL is set, else from Supabase's REST interface; the same
    ratings give the same table either way.

    Returns:
        The ratings table, see `cleaning.clean_app_ratings`. It carries the source `ratings.APP`
        with the number of rows left out by reason, see `ratings.sources_of`; it carries no source
        if no database is configured.

    Raises:
        SourceError: the database is half configured, cannot be reached, or refuses.
        InputError: a setting is invalid; or more than a tenth of the rows, and more than ten, are
            left out for one reason: other film ids, another scale, no users.
    """
    settings = read_settings()
    for warning in describe_unknown(settings):
        logger.warning("%s", warning)
    url, key = settings.supabase_url, settings.supabase_service_role_key
    names = settings.app_table
    nulls = 0
    if settings.supabase_db_url:
        from . import postgres

        logger.info("reading the app's ratings from Postgres")
        rows = postgres.read_rows(settings.supabase_db_url, names)
    elif url and key:
        from . import rest

        logger.info("reading the app's ratings from Supabase")
        rows, nulls = rest.read_rows(url, key, names, settings.app_ratings_role)
    elif url or key:
        missing = "SUPABASE_SERVICE_ROLE_KEY" if url else "SUPABASE_URL"
        raise SourceError(f"Supabase is half configured: {missing} is not set")
    else:
        logger.info(
            "no app ratings: set SUPABASE_DB_URL, or SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY, "
            "to read them"
        )
        return empty_ratings()
    scale = settings.app_ratings_scale
    table, dropped = clean_app_ratings(rows, scale, nulls)
    found = len(rows) + nulls
    if not found:
        logger.warning(
            "%s has 0 rows: either nobody has rated yet, or APP_RATINGS_TABLE names another table",
            names,
        )
    wrong = explain_left_out(rows, dropped, scale, names, found)
    if wrong:
        raise InputError(wrong)
    logger.info("read %s app ratings, kept %s", f"{found:,}", f"{len(table):,}")
    for reason, count in dropped.items():
        logger.warning("left out %s app ratings: %s", f"{count:,}", reason)
    for warning in find_heavy_accounts(table):
        logger.warning("%s", warning)
    return with_sources(table, make_source(APP, found, dropped, table))


def read_app_ratings_or_stop(published: Counts | None) -> pd.DataFrame:
    """Return the app's ratings; stop where the published model would lose its app users.

    Args:
        published: the counts of the live release, if there is one.

    Returns:
        See `read_app_ratings`; with a warning no rows, if the database is configured and fails and
        no app users are published.

    Raises:
        SourceError: no ratings came, and the published model was trained with some.
        InputError: see `read_app_ratings`.
    """
    known = published.app_users if published else 0
    advice = (
        f" The published model knows {known:,} app users and is kept; fix that, or build with "
        "--allow-missing-app-ratings"
    )
    try:
        table = read_app_ratings()
    except SourceError as error:
        if known:
            raise SourceError(f"{error}.{advice}") from None
        logger.warning("%s; going on without app ratings, as none are published", error)
        return empty_ratings()
    if known and table.empty:
        raise SourceError(f"no app ratings came.{advice}")
    return table

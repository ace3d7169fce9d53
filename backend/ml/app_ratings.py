"""The app's own ratings as configured, and a stop where a build would lose its users."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from . import ratings
from .errors import SourceError

if TYPE_CHECKING:
    import pandas as pd

    from .manifest import Counts

logger = logging.getLogger("ml.app_ratings")


def read_app_ratings() -> tuple[pd.DataFrame, dict[str, int]]:
    """Every rating in the app's Supabase table; empty where Supabase is not configured.

    Returns:
        The ratings table, and the number of rows left out by reason.

    Raises:
        SourceError: it is half configured, or fails.
    """
    from config import settings

    url, key = settings.supabase_url, settings.supabase_service_role_key
    if not url and not key:
        logger.info("no app ratings: SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY are not set")
        return ratings.empty_ratings(), {}
    if not url or not key:
        missing = "SUPABASE_SERVICE_ROLE_KEY" if url else "SUPABASE_URL"
        raise SourceError(f"Supabase is half configured: {missing} is not set")
    from .supabase_ratings import read_ratings

    table, dropped = read_ratings(url, key)
    for reason, count in dropped.items():
        logger.warning("left out %s app ratings: %s", f"{count:,}", reason)
    return table, dropped


def read_app_ratings_or_stop(
    published: Counts | None, allow_missing: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The app's ratings, and the rows left out by reason.

    Raises:
        SourceError: none came, and the published model was trained with some.
    """
    failure, dropped = "", dict[str, int]()
    try:
        table, dropped = read_app_ratings()
    except SourceError as error:
        table, failure = ratings.empty_ratings(), str(error)
    if table.empty and not allow_missing and published and published.app_users:
        raise SourceError(
            f"{failure or 'no app ratings came'}. The published model knows "
            f"{published.app_users:,} app users and is kept; mend that, "
            "or publish without them by --allow-missing-app-ratings"
        )
    if failure:
        logger.warning("%s; going on without app ratings", failure)
    return table, dropped

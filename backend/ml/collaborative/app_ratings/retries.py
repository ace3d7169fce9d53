"""Try again after a wait if a source of the app's ratings fails in a way that can pass."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from ..errors import SourceError
from ..process import check_resources

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the second try, the third, and so on: a database that is away for a minute is
waited for."""
PASSING = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes of errors that can pass: connections, conflicts, resources, locks, shutdowns and
the machine."""
ADVICE = {
    "57014": (
        "the database cancels a query that takes longer than its statement_timeout: make user and "
        "film the table's primary key, give the role more time, or use SUPABASE_DB_URL"
    ),
    "55P03": "the table is locked, perhaps by a migration: build again after it",
    "53300": "the database has no connection left: build again when fewer clients use it",
    "57P03": "the database is starting or not available: see its log",
}
"""What to do about errors that can pass and did not, by SQLSTATE."""

logger = logging.getLogger(__name__)


class TryAgainError(Exception):
    """A failure that can pass; its text says what failed, without ids or secrets."""

    def __init__(self, reason: str, wait: float = 0.0, advice: str = "") -> None:
        super().__init__(reason)
        self.wait, self.advice = wait, advice
        """Seconds that the server asked to wait; what to do if it does not pass."""


def with_retries(attempt: Callable[[], T], source: str) -> T:
    """Call `attempt`, again if it raises `TryAgainError`, and return what it returns.

    Raises:
        SourceError: every attempt failed.
    """
    for wait in (*WAITS, None):
        try:
            return attempt()
        except TryAgainError as error:
            check_resources()
            failed = error
        if wait is not None:
            wait = max(wait, failed.wait)
            logger.info("%s: %s; trying again in %.1f s", source, failed, wait)
            time.sleep(wait)
    advice = f": {failed.advice}" if failed.advice else ""
    raise SourceError(f"{source} failed: {failed} ({len(WAITS) + 1} tries){advice}")

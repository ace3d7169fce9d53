"""Try again after a wait if a source of the app's ratings fails in a way that can pass."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from ..errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before the second try, the third, and so on."""

logger = logging.getLogger(__name__)


class TryAgainError(Exception):
    """A failure that can pass; its text says what failed, without ids or secrets."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asked to wait."""


def with_retries(attempt: Callable[[], T], source: str) -> T:
    """Call `attempt`, again if it raises `TryAgainError`, and return what it returns.

    Raises:
        SourceError: every attempt failed.
    """
    for wait in (*WAITS, None):
        try:
            return attempt()
        except TryAgainError as error:
            reason, asked = str(error), error.wait
        if wait is not None:
            wait = max(wait, asked)
            logger.info("%s: %s; trying again in %.1f s", source, reason, wait)
            time.sleep(wait)
    raise SourceError(f"{source} failed: {reason} ({len(WAITS) + 1} tries)")

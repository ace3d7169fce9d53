"""A second and a third try, after a wait, where a source of the app's ratings is busy or unwell."""

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
    """Something failed that can pass; its text says what, without ids or secrets."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """What the server asked for, in seconds."""


def with_retries(attempt: Callable[[], T], source: str) -> T:
    """What `attempt` returns; it is called again where it raises `TryAgainError`.

    Raises:
        SourceError: it still fails.
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

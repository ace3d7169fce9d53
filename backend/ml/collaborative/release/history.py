"""What was live when: the log `history.jsonl`, and the order of releases, which is the log's."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..files import check_file, mode_for, refuse_lfs_pointer, set_mode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

LOG_FILE = "history.jsonl"
KEYS = "time", "build_id", "action"
"""Keys of a line of the log."""
PUBLISH, FORCE, ROLLBACK = "publish", "force-publish", "rollback"


class History:
    """The log of a models folder. A release's place is that of its first line, whatever its clock.

    A release without a line comes before all others: it never was live, or the log was lost.
    """

    def __init__(self, models_dir: Path) -> None:
        self.path = models_dir / LOG_FILE

    def add(self, build_id: str, action: str, when: datetime | None = None) -> None:
        """Add a line: this release became live. A log that cannot be written is a warning.

        Args:
            build_id: the release's.
            action: PUBLISH, FORCE or ROLLBACK.
            when: in UTC; default now.
        """
        time_text = f"{when or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        line = dict(zip(KEYS, (time_text, build_id, action), strict=True))
        try:
            check_file(self.path)
            is_new = not self.path.exists()
            with self.path.open("ab+") as file:
                if is_new:
                    set_mode(self.path, mode_for(self.path.parent))
                whole = True
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    whole = file.read(1) == b"\n"
                file.write(b"" if whole else b"\n")  # a crash cut the last line
                file.write(f"{json.dumps(line)}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("%s is live; %s could not be written: %s", build_id, LOG_FILE, error)

    def lines(self) -> list[dict[str, str]]:
        """Return the log's lines, the oldest first, without those that a crash cut.

        Raises:
            InputError: Git LFS has a pointer in its place.
        """
        refuse_lfs_pointer(self.path)
        try:
            check_file(self.path)
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and all(isinstance(found.get(key), str) for key in KEYS):
                lines.append(found)
        return lines

    def places(self) -> dict[str, int]:
        """Return each logged release's place in the order of first lines."""
        places: dict[str, int] = {}
        for number, line in enumerate(self.lines()):
            places.setdefault(line["build_id"], number)
        return places

    def in_order(self, build_ids: Iterable[str]) -> list[str]:
        """Return releases by their place, the oldest first; those without a line before them."""
        places = self.places()
        return sorted(build_ids, key=lambda build_id: (places.get(build_id, -1), build_id))

    def catch_up(self, live: str, kept: Iterable[str], switched: float) -> None:
        """Write what is missing: a crash came between a switch and its line, or the log was lost.

        Args:
            live: build id of the live release.
            kept: all releases.
            switched: when it became live, in seconds since 1970.
        """
        lines = self.lines()
        if lines and lines[-1]["build_id"] == live:
            return
        when = None
        with suppress(ValueError, OverflowError, OSError):  # a year that has five digits
            when = datetime.fromtimestamp(switched, UTC)
        if not lines:
            for build_id in sorted({*kept} - {live}):
                self.add(build_id, PUBLISH, when)
        self.add(live, ROLLBACK if live in {line["build_id"] for line in lines} else PUBLISH, when)

    def rolled_back(self) -> set[str]:
        """Return the releases that were rolled back, and not made live again since."""
        rolled: set[str] = set()
        places = self.places()
        before = None
        for line in self.lines():
            build_id = line["build_id"]
            if line["action"] == ROLLBACK and before and places[build_id] < places[before]:
                rolled.add(before)
            rolled.discard(build_id)
            before = build_id
        return rolled

    def older(self, live: str | None, kept: Iterable[str]) -> list[str]:
        """Return the releases that were live before `live` and not rolled back, oldest first."""
        places, skipped = self.places(), self.rolled_back() | self.never_live(kept)
        now = places.get(str(live), len(places))
        ordered = self.in_order({*kept} - skipped - {live})
        return [build_id for build_id in ordered if places.get(build_id, -1) < now]

    def never_live(self, kept: Iterable[str]) -> set[str]:
        """Return those of `kept` that the log does not know: a crash came before the switch."""
        places = self.places()
        return {*kept} - places.keys() if places else set()

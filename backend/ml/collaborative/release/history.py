"""What was live when: the log, the list of releases, the way back, and what is let go."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ReleaseError, UsageError
from .live import POINTER, RELEASES, live_id, release_folder
from .manifest import counts_of, is_build_id, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

LOG_FILE = "history.jsonl"
KEYS = "time", "build_id", "action"
"""Of a line of the log."""
LEFT_BEHIND = 3600.0
"""Seconds after which an unfinished release is taken for one that a crash left behind."""
PUBLISH, FORCE, ROLLBACK = "publish", "force-publish", "rollback"


class Listed(NamedTuple):
    """A release in the list."""

    build_id: str
    manifest: Mapping[str, Any] | None
    """None where it cannot be read."""
    is_live: bool
    rolled_back: bool
    """Whether it was live, and its people went back from it."""
    problem: str
    """Why it cannot be read."""


def log_switch(models_dir: Path, build_id: str, action: str, when: datetime | None = None) -> None:
    """Add a line to the log: this release became live. A log that cannot be written is a warning.

    Args:
        models_dir: the models folder.
        build_id: of the release.
        action: PUBLISH, FORCE or ROLLBACK.
        when: in UTC; default now.
    """
    time_text = f"{when or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = dict(zip(KEYS, (time_text, build_id, action), strict=True))
    try:
        with (models_dir / LOG_FILE).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                whole = file.read(1) == b"\n"
            else:
                whole = True
            file.write(b"" if whole else b"\n")  # a crash cut the last line
            file.write(f"{json.dumps(line)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        logger.warning("%s is live; %s could not be written: %s", build_id, LOG_FILE, error)


def read_log(models_dir: Path) -> list[dict[str, str]]:
    """The log's lines, the oldest first; one that a crash cut is left out."""
    try:
        text = (models_dir / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and all(isinstance(found.get(key), str) for key in KEYS):
            lines.append(found)
    return lines


def catch_up(models_dir: Path) -> None:
    """Write the line that is missing where a crash came between a switch and its line.

    Hold `files.locked(models_dir)`.
    """
    build_id, log = live_id(models_dir), read_log(models_dir)
    if build_id is None or (log and log[-1]["build_id"] == build_id):
        return
    action = ROLLBACK if build_id in {line["build_id"] for line in log} else PUBLISH
    switched = (models_dir / POINTER).lstat().st_mtime
    log_switch(models_dir, build_id, action, datetime.fromtimestamp(switched, UTC))


def build_ids(models_dir: Path) -> list[str]:
    """Of the releases kept, the oldest first."""
    folder = models_dir / RELEASES
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if is_build_id(path.name))


def list_releases(models_dir: Path) -> list[Listed]:
    """The releases kept, the newest first; a pointer that leads nowhere before them."""
    live, left, kept = None, rolled_back(models_dir), build_ids(models_dir)
    listed = []
    try:
        live = live_id(models_dir)
        if live and live not in kept:
            listed.append(Listed(live, None, True, False, "is missing: choose another"))
    except ReleaseError as error:
        listed.append(Listed(POINTER, None, False, False, str(error)))
    for build_id in reversed(kept):
        manifest, problem = None, ""
        try:
            manifest = read_manifest(release_folder(models_dir, build_id))
        except ReleaseError as error:
            problem = str(error)
        listed.append(Listed(build_id, manifest, build_id == live, build_id in left, problem))
    return listed


def rolled_back(models_dir: Path) -> set[str]:
    """The releases that their people went back from, and did not make live again since."""
    left: set[str] = set()
    before = None
    for line in read_log(models_dir):
        build_id = line["build_id"]
        if line["action"] == ROLLBACK and before and build_id < before:
            left.add(before)
        left.discard(build_id)
        before = build_id
    return left


def never_live(models_dir: Path) -> set[str]:
    """The releases that the log should know of and does not: a crash came before the switch."""
    try:
        logged = [line["build_id"] for line in read_log(models_dir)]
    except OSError:  # it says nothing of any
        return set()
    return {
        build_id
        for build_id in set(build_ids(models_dir)) - {*logged, live_id(models_dir)}
        if logged and build_id > logged[0]
    }


def choose_rollback(models_dir: Path, asked: str) -> str:
    """The release to go back to.

    Args:
        models_dir: the models folder.
        asked: a build id; or nothing: the newest that is older than the live one, was live, was
            not itself gone back from, and is of real ratings as that is, or of the sample.

    Raises:
        UsageError: there is no such release.
    """
    kept, live = build_ids(models_dir), live_id(models_dir)
    if asked:
        if asked in kept:
            return asked
        raise UsageError(f"no release {asked!r} in {models_dir}: --list shows those that are kept")
    left = rolled_back(models_dir) | never_live(models_dir)
    older = [build_id for build_id in kept if live and build_id < live and build_id not in left]
    kinds = {build_id: _is_sample(models_dir, build_id) for build_id in (*older, live)}
    older = [build_id for build_id in older if {kinds[build_id], kinds[live]} != {True, False}]
    if not older:
        raise UsageError(
            f"{models_dir} has no release to go back to that is older than the live one: "
            "--list shows those that are kept"
        )
    return older[-1]


def _is_sample(models_dir: Path, build_id: str | None) -> bool | None:
    """Whether a release is of the generated sample; None where that cannot be read."""
    try:
        return counts_of(read_manifest(release_folder(models_dir, str(build_id)))).is_sample
    except ReleaseError:
        return None


def prune(models_dir: Path, keep: int) -> None:
    """Remove all releases but the newest `keep` and the live one, and what crashes left behind.

    One that never was live takes no other's place. Hold `files.locked(models_dir)`. What cannot be
    removed is a warning.
    """
    ids, strays = build_ids(models_dir), never_live(models_dir)
    were_live = [build_id for build_id in ids if build_id not in strays]
    let_go = set(ids) - {*ids[-keep:], *were_live[-keep:], live_id(models_dir)}
    releases = models_dir / RELEASES
    for path in [*releases.iterdir(), *models_dir.glob(".*.tmp")]:
        hidden = path
        try:
            if path.name in let_go - strays or (path.name in let_go and _is_left_behind(path)):
                hidden = releases / f".{path.name}.tmp"  # no reader finds half a release
                path.rename(hidden)
            elif not (_is_unfinished(path) and _is_left_behind(path)):
                continue
            if hidden.is_dir() and not hidden.is_symlink():
                shutil.rmtree(hidden)
            else:
                hidden.unlink()
        except OSError as error:
            logger.warning("%s could not be removed: %s", hidden, error)


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _is_left_behind(path: Path) -> bool:
    """Whether it is of a process that died; young ones may be of a host that locks do not reach."""
    return time.time() - path.lstat().st_mtime > LEFT_BEHIND

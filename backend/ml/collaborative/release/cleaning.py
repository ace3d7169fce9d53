"""Delete releases and what crashes left: only by our own names, and never through a link."""

from __future__ import annotations

import logging
import re
import shutil
import time
from typing import TYPE_CHECKING

from .live import FIXED, POINTER
from .manifest import is_build_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

LEFT_BEHIND = 3600.0
"""Seconds after which something unfinished counts as left by a crash, not by another host."""
_UNFINISHED = re.compile(r"\.(?P<build_id>.*)\.tmp")
_TEMPORARY = re.compile(
    rf"\.({'|'.join(map(re.escape, (POINTER, *FIXED)))})(\.before(\.\d+)?)?\.[0-9a-f]{{8}}\.tmp"
)


def delete_release(folder: Path, *, at_once: bool = True) -> None:
    """Delete a release's folder. What cannot be deleted is a warning.

    Args:
        folder: its name is a build id, or that of an unfinished release. Nothing is done where it
            or the folder that it is in is a link.
        at_once: or only once it is `LEFT_BEHIND`.
    """
    hidden = folder
    try:
        if folder.is_symlink() or folder.parent.is_symlink() or not folder.is_dir():
            return
        if not at_once and not _is_left_behind(folder):
            return
        if is_build_id(folder.name):  # no reader finds half a release
            hidden = folder.rename(folder.with_name(f".{folder.name}.tmp"))
        shutil.rmtree(hidden)
    except OSError as error:
        logger.warning("%s could not be deleted: %s", hidden, error)


def delete_unfinished(parent: Path) -> None:
    """Delete the releases in `parent` that a crash left half written or half deleted."""
    _delete_unfinished(_list(parent))


def _delete_unfinished(paths: Iterable[Path]) -> None:
    for path in paths:
        name = _UNFINISHED.fullmatch(path.name)
        if name and is_build_id(name["build_id"]):
            delete_release(path, at_once=False)


def delete_temporary(models_dir: Path) -> None:
    """Delete the temporary files that a crash left in the models folder."""
    for path in models_dir.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            try:
                if (path.is_symlink() or path.is_file()) and _is_left_behind(path):
                    path.unlink()
            except OSError as error:
                logger.warning("%s could not be deleted: %s", path, error)


def delete_refused(refused: Path, but: str = "") -> None:
    """Delete what was refused before: it may know users who have left the app since."""
    found = _list(refused)
    for path in found:
        if is_build_id(path.name) and path.name != but:
            delete_release(path)
    _delete_unfinished(found)


def _list(parent: Path) -> list[Path]:
    """Return what is in a folder to delete from; nothing, with a warning, where none may be."""
    try:
        if parent.is_symlink():
            logger.warning(
                "%s is a link: nothing is deleted there; link the models folder instead", parent
            )
            return []
        return list(parent.iterdir()) if parent.is_dir() else []
    except OSError as error:
        logger.warning("nothing is deleted in %s: it could not be listed: %s", parent, error)
        return []


def _is_left_behind(path: Path) -> bool:
    """Return whether it is of a process that died; a young one may be another host's.

    One from so far in the future is, too: it was made before the clock was put right.
    """
    return abs(time.time() - path.lstat().st_mtime) > LEFT_BEHIND

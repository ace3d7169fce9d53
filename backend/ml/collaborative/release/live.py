"""Which release is live: a text file says it, and its files are found at the fixed paths, too.

    models/releases/ID/      a release, written once and never changed
    models/live              a text file with the ID of the live release
    models/svd_model.pkl …   hard links to its files; copies where there are no hard links

Each is replaced by a rename, `live` first. The files at the fixed paths change one after the other:
each pickle's `build_id` tells whether two of them are of one build.
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DamagedReleaseError, MissingReleaseError, ReleaseError
from ..files import sync_folder, unique_name
from .manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    REPORT_FILE,
    TOOL,
    TRAINSET_FILE,
    is_build_id,
    read_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
logger = logging.getLogger(__name__)

RELEASES, POINTER = "releases", "live"
FIXED = (MODEL_FILE, TRAINSET_FILE, MANIFEST_FILE, REPORT_FILE)
"""Files found in the models folder itself; not every release has a report."""


class Live:
    """The live release of a models folder."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        self.releases_dir, self.pointer = models_dir / RELEASES, models_dir / POINTER

    def live_id(self) -> str | None:
        """Return the live release's build id; None where nothing is live.

        Where there is no file `live`, as in a copy that left it out, manifest.json says it.

        Raises:
            DamagedReleaseError: `live` holds something else than a build id.
        """
        try:
            text = self.pointer.read_bytes()[:1000].decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return self._from_manifest()
        except IsADirectoryError:
            text = "a folder"
        if not is_build_id(text):
            raise DamagedReleaseError(
                f"{self.pointer} does not name a release but {text!r:.60}: delete it, then choose "
                f"a release with {TOOL} rollback ID"
            )
        return text

    def _from_manifest(self) -> str | None:
        try:
            found = json.loads((self.models_dir / MANIFEST_FILE).read_bytes())
            build_id = str(found["build_id"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        is_here = is_build_id(build_id) and (self.releases_dir / build_id).is_dir()
        return build_id if is_here else None

    def folder(self, build_id: str) -> Path:
        """Return the folder of a release."""
        return self.releases_dir / build_id

    def live_folder(self) -> Path:
        """Return the live release's folder; the models folder itself where that is a release.

        Raises:
            MissingReleaseError: there is none.
            DamagedReleaseError: see `live_id`.
        """
        build_id = self.live_id()
        if build_id:
            return self.folder(build_id)
        if (self.models_dir / MANIFEST_FILE).is_file():
            return self.models_dir
        raise MissingReleaseError(
            f"no release in {self.models_dir}: make one with python -m ml.build_collaborative, "
            "or name the folder that has one"
        )

    def live_manifest(self) -> dict[str, Any] | None:
        """Return the live release's manifest; None where nothing is live.

        Raises:
            ReleaseError: see `live_id` and `manifest.read_manifest`.
        """
        build_id = self.live_id()
        return read_manifest(self.folder(build_id)) if build_id else None

    def read_live(self, read: Callable[[Path], T]) -> T:
        """Return what `read` gives for the live release's folder.

        It is asked again where it fails while another release becomes live: the one that it was
        reading may have been deleted.

        Raises:
            ReleaseError: see `live_folder`; or from `read`.
        """
        while True:
            folder = self.live_folder()
            try:
                return read(folder)
            except (ReleaseError, FileNotFoundError):
                if self.live_folder() == folder:
                    raise

    def _switch(self, build_id: str) -> None:
        """Make a release live. All that needs room on the disk is done before the first rename.

        Files of another maker at the fixed paths are kept beside as `NAME.before`.

        Raises:
            OSError: it could not be done, and what was live stays so.
        """
        folder = self.releases_dir / build_id
        if self.live_id() is None:
            self._keep_foreign()
        staged = {}
        try:
            staged[self.pointer] = temporary = unique_name(self.pointer)
            with temporary.open("wb") as file:
                file.write(f"{build_id}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            for name in _present(folder):
                path = self.models_dir / name
                staged[path] = unique_name(path)
                _link(folder / name, staged[path])
            sync_folder(self.models_dir)
            try:
                for path, temporary in staged.items():
                    temporary.replace(path)
            except OSError:  # on Windows a file that is being read cannot be replaced
                if self.live_id() != build_id:
                    raise
            sync_folder(self.models_dir)
        except OSError as error:
            error.filename = error.filename or str(self.models_dir)
            raise
        finally:
            _discard(*staged.values())
        self._repair()

    def _repair(self) -> None:
        """Bring the fixed paths in line with what is live. What cannot be repaired is a warning."""
        build_id = None
        try:
            build_id = self.live_id()
            if build_id is None:
                return
            folder = self.releases_dir / build_id
            names = _present(folder)
            if MANIFEST_FILE not in names:  # looked for after the pickles: these are there, too
                logger.warning(
                    "%s is live, but not complete: choose another with %s rollback ID", folder, TOOL
                )
                return
            for name in FIXED:
                path = self.models_dir / name
                if name in names:
                    if not _same(path, folder / name):
                        self._replace(path, folder / name)
                elif any(_same(path, other / name) for other in self.releases_dir.iterdir()):
                    path.unlink()  # the report of another release
            sync_folder(self.models_dir)
        except OSError as error:
            logger.warning(
                "%s is live, but its files are not yet in %s: %s",
                build_id or "a release",
                self.models_dir,
                error,
            )

    def _replace(self, path: Path, source: Path) -> None:
        temporary = unique_name(path)
        try:
            _link(source, temporary)
            temporary.replace(path)
        finally:
            _discard(temporary)

    def _keep_foreign(self) -> None:
        """Keep what lies at the fixed paths, from before there were releases, as `NAME.before`."""
        kept = []
        for path in (self.models_dir / name for name in FIXED):
            if not os.path.lexists(path):
                continue
            number, before = 0, path.with_name(f"{path.name}.before")
            while os.path.lexists(before) and not _same(path, before):
                number += 1
                before = path.with_name(f"{path.name}.before.{number}")
            if os.path.lexists(before):
                continue  # a build that was stopped kept it
            temporary = unique_name(before)
            try:
                if path.is_symlink():
                    temporary.symlink_to(path.readlink())
                else:
                    _link(path, temporary)
                temporary.rename(before)
            finally:
                _discard(temporary)
            kept.append(before.name)
        if kept:
            logger.info("kept the files that were in %s as %s", self.models_dir, ", ".join(kept))


def _present(folder: Path) -> list[str]:
    """Return the names of what the release in `folder` has for the fixed paths."""
    return [name for name in FIXED if (folder / name).is_file()]


def _link(source: Path, path: Path) -> None:
    """Make `path`, which is new, a hard link to `source`; a copy where that is not possible."""
    try:
        os.link(source, path)
    except OSError:
        with source.open("rb") as read, path.open("xb") as file:
            shutil.copyfileobj(read, file)
            file.flush()
            os.fsync(file.fileno())


def _discard(*temporary: Path) -> None:
    """Delete what was not renamed; a rename onto a link to the same file leaves its source."""
    for path in temporary:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _same(path: Path, other: Path) -> bool:
    """Return whether both are regular files with the same content."""
    if path.is_symlink() or not path.is_file() or not other.is_file():
        return False
    return path.samefile(other) or filecmp.cmp(path, other, shallow=False)

"""Which release is live: a text file says it, and its files are found at the fixed paths, too.

    models/releases/ID/      a release, written once and never changed
    models/live              a text file with the ID of the live release
    models/svd_model.pkl …   hard links to its files; copies where there are no hard links

Each is replaced by a rename, `live` first. The files at the fixed paths change one after the other:
each pickle's `build_id` tells whether two of them are of one build.

In a clone after `git commit -a`, releases/ID of the live release may be missing. Then its manifest
and pickles are those at the fixed paths, if that manifest names ID; its arrays are not there.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

from .. import process
from ..errors import DamagedReleaseError, MissingReleaseError, ReleaseError
from ..files import (
    LFS_POINTER,
    check_file,
    create,
    discard,
    is_lfs_pointer,
    link_or_copy,
    mode_for,
    same_content,
    sync_folder,
    unique_name,
)
from .history import History
from .manifest import (
    ARRAYS,
    MANIFEST_FILE,
    MODEL_FILE,
    REPORT_FILE,
    TOOL,
    TRAINSET_FILE,
    counts_of,
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
        self.history = History(models_dir)

    def live_id(self) -> str | None:
        """Return the live release's build id; None where nothing is live.

        Where there is no file `live`, as in a copy that left it out, manifest.json says it. A
        models folder that is itself a release has none.

        Raises:
            DamagedReleaseError: `live` holds something else than a build id.
        """
        try:
            check_file(self.pointer)
            text = self.pointer.read_bytes()[:1000].decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return self._from_manifest()
        except IsADirectoryError as error:
            text = str(error.strerror)
        if is_lfs_pointer(self.pointer):
            raise DamagedReleaseError(f"{self.pointer} is {LFS_POINTER}")
        if not is_build_id(text):
            raise DamagedReleaseError(
                f"{self.pointer} does not name a release but {text!r:.60}: delete it, then choose "
                f"a release with {TOOL} rollback ID"
            )
        return text

    def _from_manifest(self) -> str | None:
        path = self.models_dir / MANIFEST_FILE
        try:
            check_file(path)
            found = json.loads(path.read_bytes())
            build_id = str(found["build_id"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        is_release = (self.models_dir / ARRAYS).is_dir() and not self.folder(build_id).is_dir()
        return build_id if is_build_id(build_id) and not is_release else None

    def folder(self, build_id: str) -> Path:
        """Return the folder of a release."""
        return self.releases_dir / build_id

    def readable_folder(self, build_id: str) -> Path:
        """Return where a release is read: its folder, or without it the models folder that has it.

        Only its manifest and pickles are found in the models folder.
        """
        folder = self.folder(build_id)
        if not folder.is_dir() and self._from_manifest() == build_id:
            return self.models_dir
        return folder

    def is_partial(self) -> bool:
        """Return whether only manifest and pickles of the live release are here, not its folder."""
        build_id = self.live_id()
        return bool(build_id) and self.readable_folder(str(build_id)) == self.models_dir

    def live_folder(self) -> Path:
        """Return where the live release is read, see `readable_folder`.

        It is the models folder, too, where that is a copy of one release.

        Raises:
            MissingReleaseError: there is none.
            DamagedReleaseError: see `live_id`.
        """
        build_id = self.live_id()
        if build_id:
            return self.readable_folder(build_id)
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
        return read_manifest(self.readable_folder(build_id)) if build_id else None

    def build_ids(self) -> list[str]:
        """Return the ids of the releases kept, in the order of the history, the oldest first."""
        releases = self.releases_dir
        if not releases.is_dir():
            return []
        return self.history.in_order(p.name for p in releases.iterdir() if is_build_id(p.name))

    def older(self, live: str | None) -> list[str]:
        """Return the releases to roll back to, oldest first; see `ReleaseStore.roll_back`."""
        older = self.history.older(live, self.build_ids())
        if live and self._is_sample(live) is False:
            older = [build_id for build_id in older if not self._is_sample(build_id)]
        return older

    def _is_sample(self, build_id: str) -> bool | None:
        """Return whether a release is of the generated sample; None where that cannot be read."""
        try:
            return counts_of(read_manifest(self.readable_folder(build_id))).is_sample
        except ReleaseError:
            return None

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
            with create(temporary, mode_for(self.models_dir)) as file:
                file.write(f"{build_id}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            for name in _present(folder):
                path = self.models_dir / name
                staged[path] = unique_name(path)
                link_or_copy(folder / name, staged[path])
            sync_folder(self.models_dir)
            process.publish()
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
            discard(*staged.values())
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
            if self.is_partial():
                logger.warning(
                    "%s is live, but missing: its pickles and manifest in %s are used; "
                    "the next build publishes a whole release", folder, self.models_dir,
                )  # fmt: skip
                return
            if MANIFEST_FILE not in names:  # looked for after the pickles: these are there, too
                logger.warning(
                    "%s is live, but not complete: choose another with %s rollback ID", folder, TOOL
                )
                return
            for name in FIXED:
                path = self.models_dir / name
                if name in names:
                    if not same_content(path, folder / name):
                        self._replace(path, folder / name)
                elif any(same_content(path, other / name) for other in self.releases_dir.iterdir()):
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
            link_or_copy(source, temporary)
            temporary.replace(path)
        finally:
            discard(temporary)

    def _keep_foreign(self) -> None:
        """Keep what lies at the fixed paths, from before there were releases, as `NAME.before`."""
        kept = []
        for path in (self.models_dir / name for name in FIXED):
            if not os.path.lexists(path):
                continue
            number, before = 0, path.with_name(f"{path.name}.before")
            while os.path.lexists(before) and not same_content(path, before):
                number += 1
                before = path.with_name(f"{path.name}.before.{number}")
            if os.path.lexists(before):
                continue  # a build that was stopped kept it
            temporary = unique_name(before)
            try:
                if path.is_symlink():
                    temporary.symlink_to(path.readlink())
                else:
                    link_or_copy(path, temporary)
                temporary.rename(before)
            finally:
                discard(temporary)
            kept.append(before.name)
        if kept:
            logger.info("kept the files that were in %s as %s", self.models_dir, ", ".join(kept))


def _present(folder: Path) -> list[str]:
    """Return the names of what the release in `folder` has for the fixed paths."""
    return [name for name in FIXED if (folder / name).is_file()]

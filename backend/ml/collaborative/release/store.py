"""The releases in a models folder: which is live, publish, roll back, delete."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import files
from ..errors import (
    InputError,
    MlError,
    OtherVersionsError,
    ReleaseError,
    UsageError,
)
from .cleaning import delete_refused, delete_release, delete_temporary, delete_unfinished
from .history import FORCE, PUBLISH, ROLLBACK
from .live import FIXED, POINTER, RELEASES, Live
from .manifest import TOOL, read_manifest
from .reading import verify_release
from .versions import check_versions
from .writing import draft_manifest, write_release

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

logger = logging.getLogger(__name__)

KEEP = 5
"""Releases kept by default."""
REFUSED = "refused"
"""Folder in the models folder for the last build that the gate refused."""


class Listed(NamedTuple):
    """A release in the list."""

    build_id: str
    manifest: Mapping[str, Any] | None
    """None where it cannot be read."""
    is_live: bool
    rolled_back: bool
    """Whether it was live and was rolled back."""
    problem: str
    """Why it cannot be read."""


class ReleaseStore(Live):
    """The releases in a models folder: which is live, publish, roll back, delete.

    What writes takes the folder's lock itself; take `locked` around several steps.
    """

    def __init__(self, models_dir: Path) -> None:
        super().__init__(models_dir)
        self._depth = 0

    def check_place(self) -> None:
        """Make the folder if need be, and check that releases can be written there.

        Raises:
            MlError: they cannot.
        """
        try:
            self._check_files()
            files.make_folder(self.models_dir)
            with TemporaryFile(dir=self.models_dir):
                pass
        except OSError as error:
            raise MlError(
                f"{self.models_dir} cannot be written ({error.strerror}): "
                "make it a writable folder, or name another with --models-dir"
            ) from None

    def _check_files(self) -> None:
        """Raise MlError where what is to be replaced is no regular file."""
        for name in (POINTER, *FIXED):
            path = self.models_dir / name
            if kind := files.kind_of(path):
                raise MlError(f"{kind} is in the place of a file, move it away: {path}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, after repairing what a crash left unfinished.

        The same thread may take it again inside.

        Raises:
            InputError: the folder is itself a release, or `live` names none.
            MlError: something else is in the place of a file; or see `files.locked`.
        """
        with files.locked(self.models_dir):
            if not self._depth:
                self._check_files()
                self._recover()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _recover(self) -> None:
        live = self.live_id()
        if live:
            self._repair()
            pointer = self.models_dir / POINTER
            switched = pointer.stat().st_mtime if pointer.exists() else time.time()
            self.history.catch_up(live, self.build_ids(), switched)
        elif (self.models_dir / "arrays" / "bu.npy").is_file():
            raise InputError(
                f"{self.models_dir} is not a models folder but a release: "
                f"name the folder that has it in {RELEASES}/, or an empty one"
            )

    def publish(
        self,
        svd: SVD,
        trainset: Trainset,
        *,
        draft: Mapping[str, Any] | None = None,
        report: str | None = None,
        held_out: Mapping[str, NDArray[Any]] | None = None,
        keep: int = KEEP,
        forced: bool = False,
    ) -> Path:
        """Write a release, make it live, delete the oldest.

        Args:
            svd: the model.
            trainset: what it was trained on.
            draft: what is known of the build, see `writing.draft_manifest`.
            report: the page about it.
            held_out: see `held_out.HoldOut.rows`.
            keep: how many releases stay; the live one always does.
            forced: whether the gate was overridden.

        Returns:
            Its folder.

        Raises:
            InputError: see `write_release` and `locked`.
            OSError: it could not be written; what was live stays so.
        """
        with self.locked():
            folder = write_release(
                self.releases_dir, draft or draft_manifest(svd, trainset), svd, trainset,
                report=report, held_out=held_out,
            )  # fmt: skip
            try:
                self._switch(folder.name)
            except BaseException:
                if self.live_id() != folder.name:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            self.history.add(folder.name, FORCE if forced else PUBLISH)
            self.prune(keep)
            delete_refused(self.models_dir / REFUSED)
        logger.info("published %s", folder.name)
        return folder

    def refuse(
        self, svd: SVD, trainset: Trainset, draft: Mapping[str, Any], report: str | None
    ) -> Path:
        """Keep a build that the gate refused, to look at, in place of the last such.

        Returns:
            Its folder.
        """
        with self.locked():
            folder = write_release(self.models_dir / REFUSED, draft, svd, trainset, report=report)
            delete_refused(self.models_dir / REFUSED, but=folder.name)
        return folder

    def roll_back(self, asked: str = "") -> tuple[str, str | None]:
        """Make an older release live.

        Args:
            asked: a build id. Without one, take the newest that was published before the live one
                and was not itself rolled back. If the live release was built from real ratings,
                sample releases are skipped.

        Returns:
            Build ids of the release that is live now, and of the one that was.

        Raises:
            UsageError: there is no such release.
            ReleaseError: it is damaged or newer than this code; what was live stays so.
        """
        if not self.models_dir.is_dir():
            raise UsageError(f"{self.models_dir} is not a folder: there is nothing to roll back to")
        with self.locked():
            before, chosen = self.live_id(), self._choose(asked)
            folder = self.folder(chosen)
            try:
                check_versions(folder, verify_release(folder))
            except OtherVersionsError as error:  # its arrays can be served all the same
                logger.warning("%s", error)
            if chosen != before:
                self._switch(chosen)
                self.history.add(chosen, ROLLBACK)
        return chosen, before

    def _choose(self, asked: str) -> str:
        kept, live = self.build_ids(), self.live_id()
        if asked:
            if asked in kept:
                return asked
            raise UsageError(
                f"no release {asked!r} in {self.models_dir}: {TOOL} releases shows those kept"
            )
        older = self.older(live)
        if not older or not live:
            raise UsageError(
                f"{self.models_dir} has no release to roll back to that is older than the live "
                f"one: {TOOL} releases shows those kept"
            )
        return older[-1]

    def releases(self) -> list[Listed]:
        """Return the releases kept, the newest first; before them a live one that is missing."""
        live, rolled_back, kept = None, self.history.rolled_back(), self.build_ids()
        listed = []
        try:
            live = self.live_id()
            if live and live not in kept:
                but = ", but for the files at the fixed paths: build again, or"
                problem = f"is missing{but if self.is_partial() else ':'} choose another"
                listed.append(Listed(live, None, True, False, problem))
        except ReleaseError as error:
            listed.append(Listed(POINTER, None, False, False, str(error)))
        for build_id in reversed(kept):
            manifest, problem = None, ""
            try:
                manifest = read_manifest(self.folder(build_id))
            except ReleaseError as error:
                problem = str(error)
            is_rolled_back = build_id in rolled_back
            listed.append(Listed(build_id, manifest, build_id == live, is_rolled_back, problem))
        return listed

    def find_same(self, inputs: Mapping[str, Any]) -> str | None:
        """Return a release made of the same inputs: the live one, or one that was rolled back.

        Args:
            inputs: parts of a manifest by name; besides those at its top, table_sha256,
                shape and catalog_sha256.
        """
        live, rolled_back = self.live_id(), self.history.rolled_back()
        for build_id in dict.fromkeys([live, *(b for b in self.build_ids() if b in rolled_back)]):
            if build_id is None:
                continue
            try:
                made = verify_release(self.folder(build_id))
            except ReleaseError as error:
                logger.warning("%s", error)
                continue
            made["table_sha256"] = made["data"].get("table_sha256")
            made["shape"] = made["model"].get("shape")
            made["catalog_sha256"] = (made["catalog"] or {}).get("sha256")
            if {name: made.get(name) for name in inputs} == inputs:
                return build_id
        return None

    def prune(self, keep: int) -> None:
        """Delete all releases but the newest `keep` and the live one, and what crashes left.

        Only folders that have a build id for a name are deleted, and temporary files that have
        one of our names. A release that never was live takes no other's place. What cannot be
        deleted is a warning.
        """
        with self.locked():
            try:
                ids = self.build_ids()
            except OSError:  # named below
                ids = []
            never_live = self.history.never_live(ids)
            were_live = [build_id for build_id in ids if build_id not in never_live]
            for build_id in {*ids} - {*were_live[-keep:], self.live_id()}:
                delete_release(self.folder(build_id), at_once=build_id not in never_live)
            delete_unfinished(self.releases_dir)
            delete_temporary(self.models_dir)

"""The releases in a models folder: which is live, publish, roll back, delete."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .. import files
from . import history, live, publishing
from .files import read_live, verify_release
from .manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

T = TypeVar("T")


class ReleaseStore:
    """The releases in a models folder: which is live, publish, roll back, delete."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir
        self._depth = 0

    def check_place(self) -> None:
        """Make the folder if need be, and see that releases can be written there."""
        publishing.check_place(self.models_dir)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, after repairing what a crash left unfinished."""
        with files.locked(self.models_dir):
            if not self._depth:
                publishing.prepare(self.models_dir)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def live_id(self) -> str | None:
        """Return the live release's build id; None where nothing is live."""
        return live.live_id(self.models_dir)

    def folder(self, build_id: str) -> Path:
        """Return the folder of a release."""
        return live.release_folder(self.models_dir, build_id)

    def live_folder(self) -> Path:
        """Return the live release's folder."""
        return live.live_folder(self.models_dir)

    def live_manifest(self) -> dict[str, Any] | None:
        """Return the live release's manifest; None where nothing is live."""
        build_id = self.live_id()
        return read_manifest(self.folder(build_id)) if build_id else None

    def read_live(self, read: Callable[[Path], T]) -> T:
        """Return what `read` gives for the live release's folder."""
        return read_live(self.models_dir, read)

    def publish(
        self,
        svd: SVD,
        trainset: Trainset,
        *,
        draft: Mapping[str, Any] | None = None,
        report: str | None = None,
        held_out: NDArray[Any] | None = None,
        keep: int = publishing.KEEP,
        forced: bool = False,
    ) -> Path:
        """Write a release, make it live, delete the oldest; return its folder."""
        with self.locked():
            return publishing.publish(
                svd, trainset, self.models_dir, draft=draft, report=report, held_out=held_out,
                keep=keep, forced=forced,
            )  # fmt: skip

    def refuse(
        self, svd: SVD, trainset: Trainset, draft: Mapping[str, Any], report: str | None
    ) -> Path:
        """Keep a build that the gate refused, in place of the last such; return its folder."""
        return publishing.refuse(svd, trainset, self.models_dir, draft, report)

    def roll_back(self, asked: str = "") -> tuple[str, str | None]:
        """Make an older release live; return its build id, and that of what was live."""
        return publishing.roll_back(self.models_dir, asked)

    def releases(self) -> list[history.Listed]:
        """Return the releases that are kept, the newest first."""
        return history.list_releases(self.models_dir)

    def find_same(self, inputs: Mapping[str, Any]) -> str | None:
        """Return the live release, or one that was rolled back, if it was made of these inputs."""
        from ..errors import ReleaseError

        live_now, kept = self.live_id(), set(history.build_ids(self.models_dir))
        left = sorted(history.rolled_back(self.models_dir) & kept)
        for build_id in [live_now, *left] if live_now else left:
            try:
                made = verify_release(self.folder(build_id))
            except ReleaseError as error:
                publishing.logger.warning("%s", error)
                continue
            asked = made | {
                "table_sha256": made["data"].get("table_sha256"),
                "shape": made["model"].get("shape"),
            }
            if {name: asked.get(name) for name in inputs} == inputs:
                return build_id
        return None

    def prune(self, keep: int) -> None:
        """Delete all releases but the newest `keep` and the live one."""
        with self.locked():
            history.prune(self.models_dir, keep)

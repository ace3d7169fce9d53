"""Make a build the live release, or an older one again; one at a time, whole or not at all."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MlError, OtherVersionsError, UsageError
from ..files import locked
from . import history
from .arrays import raw_ids
from .files import check_versions, verify_release, write_release
from .live import (
    BY_PATH,
    MODEL_FILE,
    RELEASES,
    TRAINSET_FILE,
    live_id,
    mend,
    release_folder,
    switch,
)
from .manifest import MANIFEST_FILE, draft_manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

logger = logging.getLogger(__name__)

KEEP = 5
"""Releases kept by default."""
REFUSED = "refused"
"""Folder in the models folder: of the last build that was not fit to be published."""


def check_place(models_dir: Path) -> None:
    """Make `models_dir` if need be, and see that releases can be written there.

    Raises:
        MlError: they cannot.
    """
    paths = [models_dir / name for name in BY_PATH]
    folder = next((path for path in paths if path.is_dir()), None)
    if folder:
        raise MlError(f"a folder is in the place of a file, move it away: {folder}")
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=models_dir):
            pass
    except OSError as error:
        raise MlError(
            f"{models_dir} cannot be written ({error.strerror}): "
            "make it a folder that can be, or name another with --models-dir"
        ) from None


def publish(
    svd: SVD,
    trainset: Trainset,
    models_dir: Path,
    *,
    draft: Mapping[str, Any] | None = None,
    report: str | None = None,
    held_out: NDArray[Any] | None = None,
    keep: int = KEEP,
    forced: bool = False,
) -> Path:
    """Write a release, make it live, let the oldest go.

    Args:
        svd: the model.
        trainset: what it was trained on.
        models_dir: made if need be.
        draft: what is known of the build, see `manifest.draft_manifest`.
        report: the page about it.
        held_out: see `hold_out.HoldOut.rows`.
        keep: how many releases stay, the live one among them or besides.
        forced: whether the gate was overridden.

    Returns:
        Its folder.

    Raises:
        InputError: see `write_release` and `manifest.count`; or see `prepare`.
        OSError: it could not be written; what was live stays so.
    """
    with locked(models_dir):
        prepare(models_dir)
        draft = draft or draft_manifest(svd, trainset)
        folder = write_release(
            models_dir / RELEASES, draft, svd, trainset, report=report, held_out=held_out
        )
        try:
            switch(models_dir, folder.name)
        except BaseException:
            if live_id(models_dir) != folder.name:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        history.log_switch(models_dir, folder.name, history.FORCE if forced else history.PUBLISH)
        history.prune(models_dir, keep)
        _let_go_refused(models_dir)
    logger.info("published %s", folder.name)
    return folder


def prepare(models_dir: Path) -> None:
    """Finish what a crash left unfinished, and take files of before there were releases along.

    Hold `files.locked(models_dir)`.

    Raises:
        InputError: two such files are there, but no model and its trainset can be read of them;
            or see `_find_pointer`.
    """
    if live_id(models_dir):
        mend(models_dir)
        history.catch_up(models_dir)
    elif (models_dir / MANIFEST_FILE).is_file():
        _find_pointer(models_dir)
    elif any((models_dir / name).is_file() for name in (MODEL_FILE, TRAINSET_FILE)):
        _adopt(models_dir)


def _find_pointer(models_dir: Path) -> None:
    """Make live again what the manifest by path names, where the pointer was lost.

    Raises:
        InputError: `models_dir` is a release, or its releases were lost too.
    """
    build_id = read_manifest(models_dir)["build_id"]
    folder = release_folder(models_dir, build_id)
    if not folder.is_dir():
        raise InputError(
            f"{models_dir} is no models folder but holds release {build_id} itself: "
            "name the folder that has it in releases/, or an empty one"
        )
    verify_release(folder)
    switch(models_dir, build_id)
    history.catch_up(models_dir)
    logger.warning("found no pointer to what is live: it is %s, as manifest.json says", build_id)


def _adopt(models_dir: Path) -> None:
    """Make a release of `svd_model.pkl` and `cf_trainset.pkl` as they lie in the folder."""
    import joblib

    paths = models_dir / MODEL_FILE, models_dir / TRAINSET_FILE
    try:
        svd, trainset = map(joblib.load, paths)
        same_size = svd.trainset.n_ratings == trainset.n_ratings
        if not same_size or raw_ids(svd.trainset) != raw_ids(trainset):
            raise ValueError("they are of two builds")
        draft = draft_manifest(svd, trainset)
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"{paths[0]} and {TRAINSET_FILE} cannot be read as a model and its trainset "
            f"({type(error).__name__}: {error!s:.80}), so what is published is unknown: "
            "move both away to build anew"
        ) from None
    folder = write_release(models_dir / RELEASES, draft, svd, trainset)
    switch(models_dir, folder.name)
    history.log_switch(models_dir, folder.name, history.PUBLISH)
    logger.info("took the model that was there along as release %s", folder.name)


def refuse(
    svd: SVD, trainset: Trainset, models_dir: Path, draft: Mapping[str, Any], report: str | None
) -> Path:
    """Keep a build that is not fit to be published for a look, in place of the last such.

    Returns:
        Its folder.
    """
    with locked(models_dir):
        folder = write_release(models_dir / REFUSED, draft, svd, trainset, report=report)
        _let_go_refused(models_dir, but=folder)
    return folder


def _let_go_refused(models_dir: Path, but: Path | None = None) -> None:
    """Remove what was refused before: it may know users who have left the app since."""
    for folder in (models_dir / REFUSED).glob("*"):
        if folder != but:
            with suppress(OSError):
                shutil.rmtree(folder)


def roll_back(models_dir: Path, asked: str) -> tuple[str, str | None]:
    """Make an older release live.

    Args:
        models_dir: the models folder.
        asked: see `history.choose_rollback`.

    Returns:
        Build ids of the release that is live now, and of the one that was.

    Raises:
        UsageError: see `history.choose_rollback`.
        ReleaseError: the release is damaged or newer than this code; what was live stays so.
    """
    if not models_dir.is_dir():
        raise UsageError(f"{models_dir} is no folder: there is nothing to go back to")
    with locked(models_dir):
        prepare(models_dir)
        before, chosen = live_id(models_dir), history.choose_rollback(models_dir, asked)
        folder = release_folder(models_dir, chosen)
        try:
            check_versions(folder, verify_release(folder))
        except OtherVersionsError as error:  # its arrays can be served all the same
            logger.warning("%s", error)
        if chosen != before:
            switch(models_dir, chosen)
            history.log_switch(models_dir, chosen, history.ROLLBACK)
    return chosen, before

"""Which release of a models folder is live, and how another takes its place in one step.

    models/releases/ID/      a release, written once and never changed
    models/live              symbolic link to one of them; where links are not to be had, a text
                             file with its ID
    models/svd_model.pkl …   links through `live`; where links are not to be had, copies

Replacing `live` is one rename, so the links change all at once. Copies change one after the other:
each pickle's `build_id` tells whether two of them are of one build.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DamagedReleaseError, MissingReleaseError
from .files import replace_together, sync_folder
from .manifest import MANIFEST_FILE, is_build_id

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("ml.live")

DEFAULT_MODELS_DIR = Path(__file__).parent / "models"
RELEASES, POINTER = "releases", "live"
MODEL_FILE, TRAINSET_FILE, REPORT_FILE = "svd_model.pkl", "cf_trainset.pkl", "report.html"
BY_PATH = (MODEL_FILE, TRAINSET_FILE, MANIFEST_FILE, REPORT_FILE)
"""What is found in the models folder itself; not every release has a report."""


def live_id(models_dir: Path) -> str | None:
    """Build id of the live release; None where none is.

    Raises:
        DamagedReleaseError: the pointer says something else than a build id.
    """
    pointer = models_dir / POINTER
    try:
        text = str(pointer.readlink()) if pointer.is_symlink() else pointer.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if pointer.is_symlink():  # since this very moment, in place of a text file
            return live_id(models_dir)
        if not isinstance(error, IsADirectoryError):
            raise
        raise DamagedReleaseError(
            f"{pointer} is a folder, as a copy that follows links makes: "
            "remove it, then build, or choose a release by --rollback ID"
        ) from None
    build_id = Path(text.strip()).name
    if not is_build_id(build_id):
        raise DamagedReleaseError(
            f"{pointer} names no release but {text.strip()!r:.60}: "
            "remove it, then choose a release by --rollback ID"
        )
    return build_id


def release_folder(models_dir: Path, build_id: str) -> Path:
    """Where a release is."""
    return models_dir / RELEASES / build_id


def live_folder(models_dir: Path) -> Path:
    """Folder of the live release; `models_dir` itself where that is a copy of a release.

    Raises:
        MissingReleaseError: there is none.
        DamagedReleaseError: see `live_id`.
    """
    pointer = models_dir / POINTER
    if pointer.is_dir() and not pointer.is_symlink():  # in a copy that followed the links
        return pointer
    build_id = live_id(models_dir)
    if build_id:
        return release_folder(models_dir, build_id)
    if (models_dir / MANIFEST_FILE).is_file():
        return models_dir
    raise MissingReleaseError(
        f"no release in {models_dir}: make one with python -m ml.build_collaborative, "
        "or name the folder that has one"
    )


def switch(models_dir: Path, build_id: str) -> None:
    """Make a release live, in one step for those who follow the links or the pointer.

    Hold `files.locked(models_dir)`.

    Raises:
        OSError: it could not be done, and what was live stays so.
    """
    folder = release_folder(models_dir, build_id)
    names = [name for name in BY_PATH if (folder / name).is_file()]
    pointer, temporary = models_dir / POINTER, models_dir / f".{POINTER}.tmp"
    if can_link(models_dir):
        for name in names:
            if not os.path.lexists(models_dir / name):
                _link(models_dir, name)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path(RELEASES, build_id), target_is_directory=True)
        sync_folder(models_dir)
        temporary.replace(pointer)
        sync_folder(models_dir)
    else:
        sync_folder(models_dir)
        try:
            with replace_together(pointer, *(models_dir / name for name in names)) as (
                first,
                *rest,
            ):
                first.write(build_id.encode())
                for name, file in zip(names, rest, strict=True):
                    with (folder / name).open("rb") as source:
                        shutil.copyfileobj(source, file)
        except OSError:  # on Windows a file that is being read cannot be replaced
            if live_id(models_dir) != build_id:
                raise
    mend(models_dir)


def mend(models_dir: Path) -> None:
    """Bring what is found by path in line with the pointer, where a crash came in between.

    Hold `files.locked(models_dir)`. What cannot be mended is a warning.
    """
    try:
        build_id = live_id(models_dir)
        if build_id is None:
            return
        folder = release_folder(models_dir, build_id)
        names = [name for name in BY_PATH if (folder / name).is_file()]
        unlinked = [name for name in names if not _is_linked(models_dir, name)]
        if (models_dir / POINTER).is_symlink() and (not unlinked or can_link(models_dir)):
            for name in unlinked:
                _link(models_dir, name)
        else:
            _copy_anew(models_dir, folder, names)
        for name in set(BY_PATH) - set(names):
            (models_dir / name).unlink(missing_ok=True)
            (models_dir / f".{name}.tmp").unlink(missing_ok=True)
        sync_folder(models_dir)
    except OSError as error:
        logger.warning("%s is live, but not yet by path: %s", build_id, error)


def can_link(folder: Path) -> bool:
    """Whether symbolic links can be made in `folder`, and one put in another's place."""
    if os.name == "nt":  # a link to a folder cannot be replaced in one step there
        return False
    probe = folder / ".link.tmp"
    try:
        probe.unlink(missing_ok=True)
        probe.symlink_to(POINTER)
        probe.unlink()
    except OSError:
        return False
    return True


def _is_linked(models_dir: Path, name: str) -> bool:
    path = models_dir / name
    return path.is_symlink() and path.readlink() == Path(POINTER, name)


def _link(models_dir: Path, name: str) -> None:
    temporary = models_dir / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(POINTER, name))
    temporary.replace(models_dir / name)


def _copy_anew(models_dir: Path, folder: Path, names: Iterable[str]) -> None:
    """Replace the copies that are not those of the release in `folder`."""
    for name in names:
        path = models_dir / name
        if path.is_file() and _same(path, folder / name):
            continue
        with replace_together(path) as (file,), (folder / name).open("rb") as source:
            shutil.copyfileobj(source, file)


def _same(path: Path, other: Path) -> bool:
    import filecmp

    return not path.is_symlink() and filecmp.cmp(path, other, shallow=False)

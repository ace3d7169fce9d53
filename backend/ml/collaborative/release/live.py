"""Which release of a models folder is live, and how another takes its place in one step.

    models/releases/ID/      a release, written once and never changed
    models/live              symbolic link to one of them; where links are not to be had, a text
                             file with its ID
    models/svd_model.pkl …   links through `live`; where links are not to be had, copies

Replacing `live` is one rename, so the links change all at once. Copies change one after the other:
each pickle's `build_id` tells whether two of them are of one build.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from ..errors import DamagedReleaseError, MissingReleaseError
from ..files import replace_together, sync_folder, unique_name
from .manifest import MANIFEST_FILE, is_build_id

logger = logging.getLogger(__name__)

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
        text = _read_pointer(pointer)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise DamagedReleaseError(
            f"{pointer} is a folder, as a copy that follows links makes: "
            "remove it, then build, or choose a release by --rollback ID"
        ) from None
    build_id = Path(text.strip()).name
    if not is_build_id(build_id) or text.strip() not in (build_id, str(Path(RELEASES, build_id))):
        raise DamagedReleaseError(
            f"{pointer} names no release but {text.strip()!r:.60}: "
            "remove it, then choose a release by --rollback ID"
        )
    return build_id


def _read_pointer(pointer: Path) -> str:
    """Where a link leads, or what a text file says, also while one takes the other's place."""
    while True:
        try:
            return str(pointer.readlink())
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is a link, or not there
                raise
        try:
            with open(pointer, encoding="utf-8", opener=_open_no_link) as file:
                return file.read()
        except OSError as error:
            if error.errno != errno.ELOOP:  # it has not become a link since
                raise


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


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
    names = _names(folder)
    paths = [models_dir / name for name in (POINTER, *names)]
    if can_link(models_dir):
        for path in paths[1:]:
            if not os.path.lexists(path):
                _link(path, Path(POINTER, path.name))
        sync_folder(models_dir)
        _link(paths[0], Path(RELEASES, build_id))
        sync_folder(models_dir)
    else:
        before = live_id(models_dir)
        if before and paths[0].is_symlink():  # made by a host that has links: they lead through it
            _copy_anew(models_dir, release_folder(models_dir, before))
        sync_folder(models_dir)
        try:
            with replace_together(*paths, unique=True) as (first, *rest):
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
    build_id = None
    try:
        build_id = live_id(models_dir)
        if build_id is None:
            return
        folder = release_folder(models_dir, build_id)
        names = _names(folder)
        if MANIFEST_FILE not in names:  # looked for after the pickles: these were there if it is
            logger.warning("%s is live, but not whole: choose another by --rollback ID", folder)
            return
        unlinked = [name for name in names if not _is_linked(models_dir, name)]
        if (models_dir / POINTER).is_symlink() and (not unlinked or can_link(models_dir)):
            for name in unlinked:
                _link(models_dir / name, Path(POINTER, name))
        else:
            _copy_anew(models_dir, folder)
        for name in set(BY_PATH) - set(names):
            (models_dir / name).unlink(missing_ok=True)
        sync_folder(models_dir)
    except OSError as error:
        logger.warning("%s is live, but not yet by path: %s", build_id or "a release", error)


def can_link(folder: Path) -> bool:
    """Whether symbolic links can be made in `folder`, and one put in another's place."""
    if os.name == "nt":  # a link to a folder cannot be replaced in one step there
        return False
    probe = unique_name(folder / POINTER)
    try:
        probe.symlink_to(POINTER)
        probe.unlink()
    except OSError:
        return False
    return True


def _names(folder: Path) -> list[str]:
    """What is to be found by path of the release in `folder`."""
    return [name for name in BY_PATH if (folder / name).is_file()]


def _is_linked(models_dir: Path, name: str) -> bool:
    path = models_dir / name
    return path.is_symlink() and path.readlink() == Path(POINTER, name)


def _link(path: Path, target: Path) -> None:
    """Put a link in the place of what is at `path`, in one step."""
    temporary = unique_name(path)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_anew(models_dir: Path, folder: Path) -> None:
    """Replace what is found by path and is no copy of what the release in `folder` has."""
    for name in _names(folder):
        path = models_dir / name
        if path.is_file() and _same(path, folder / name):
            continue
        with replace_together(path, unique=True) as (file,), (folder / name).open("rb") as source:
            shutil.copyfileobj(source, file)


def _same(path: Path, other: Path) -> bool:
    import filecmp

    return not path.is_symlink() and filecmp.cmp(path, other, shallow=False)

"""Replace files completely or not at all, share them with a group, lock a folder."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import logging
import os
import platform
import secrets
import shutil
import stat
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from .errors import InputError, MlError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes read or written at a time."""
LFS_POINTER = "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"
"""What people read of a file that `is_lfs_pointer`."""
LFS_START = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS has in a file's place until it is pulled."""
OWN, SHARED = 0o640, 0o660
"""Modes of new files: read by the group; written by it, too, in a setgid folder that it writes."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
_setting: int | None = None
_held: dict[Path, tuple[int, int]] = {}
"""Device and inode of the lock's file in each folder that this process holds."""


def use_mode(mode: int | None) -> None:
    """Give new files this mode from here on; None: `OWN` or `SHARED`, as their folder is."""
    global _setting
    _setting = mode


def mode_for(folder: Path) -> int:
    """Return the mode of new files in a folder, whatever the umask: they may hold user ids."""
    if _setting is not None:
        return _setting
    try:
        mode = folder.stat().st_mode
    except OSError:
        return OWN
    return SHARED if mode & stat.S_ISGID and mode & stat.S_IWGRP else OWN


def new_umask() -> int:
    """Return the umask with which another program gives its files the mode of ours."""
    mode = OWN if _setting is None else _setting
    return 0o777 & ~(mode | (mode & 0o444) >> 2)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a new file or folder; a folder may be entered by those who may read it."""
    with suppress(OSError):  # it is another user's, or the file system has no modes
        if path.is_dir():
            mode |= (mode & 0o444) >> 2 | path.stat().st_mode & stat.S_ISGID
        path.chmod(mode)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing, see `set_mode`.

    Raises:
        MlError: a link to a folder that does not exist is in its place.
        OSError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        for link in missing:
            if link.is_symlink():
                raise MlError(
                    f"{link} is a link to {link.readlink()}, which does not exist: mount or make "
                    "that folder, or delete the link"
                ) from None
        raise
    for path in reversed(missing):
        set_mode(path, mode_for(path.parent))


def create(path: Path, mode: int) -> BinaryIO:
    """Open a new file for writing; what has its name is deleted, and no link is followed."""
    path.unlink(missing_ok=True)
    file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    set_mode(path, mode)
    return file


def kind_of(path: Path) -> str | None:
    """Return what is in the place of a file; None where it is a regular file, or nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    return next((kind for is_it, kind in _KINDS if is_it(mode)), None)


def check_file(path: Path) -> None:
    """Refuse what is no regular file: a rename would replace it, and reading may never end.

    Raises:
        IsADirectoryError: it is a folder, a pipe, a socket or a device.
    """
    if kind := kind_of(path):
        raise IsADirectoryError(errno.EISDIR, f"{kind} is in the place of a file", str(path))


@contextmanager
def replace_together(*paths: Path, unique: bool = False) -> Iterator[tuple[BinaryIO, ...]]:
    """Write all of `paths`, or leave each of them as it was.

    Yields one binary file per path, under a temporary name in the same folder. After the block all
    are synced to disk, then renamed to their paths in the order given; if the block raises, none
    is. Temporary names are fixed (`.NAME.tmp`), so that the next process overwrites what a killed
    one left. Hold `locked(folder)` meanwhile. A file keeps its mode; for a new one, see `mode_for`.

    Args:
        *paths: the files, each in an existing folder.
        unique: whether the temporary names are those of `unique_name`.

    Raises:
        OSError: the disk is full, the folder is read-only, and the like.
    """
    for path in paths:
        check_file(path)
    modes = [
        stat.S_IMODE(path.stat().st_mode) if path.is_file() else mode_for(path.parent)
        for path in paths
    ]
    temporary = [
        unique_name(path) if unique else path.with_name(f".{path.name}.tmp") for path in paths
    ]
    try:
        with ExitStack() as stack:
            files = tuple(
                stack.enter_context(create(name, mode))
                for name, mode in zip(temporary, modes, strict=True)
            )
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for name, path in zip(temporary, paths, strict=True):
            name.replace(path)
        for folder in {path.parent for path in paths}:
            sync_folder(folder)
    except BaseException as error:
        for name in temporary:
            name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(paths[0].parent)
        raise


def unique_name(path: Path) -> Path:
    """Return `.NAME.RANDOM.tmp` beside `path`: unique even where locks do not reach all hosts."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut; does nothing on Windows, which cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder`, created if it is missing; while waiting, log which process holds it.

    The operating system releases the lock of a process that dies. The same thread may lock the
    folder again inside. The file `.lock` names the process that holds the lock, or held it last.

    Raises:
        MlError: the folder was moved away, or its link leads elsewhere, while this process held it;
            or see `make_folder`.
        OSError: it cannot be made or written.
    """
    from filelock import FileLock, Timeout

    if folder.absolute() in _held:
        _check_in_place(folder)
    else:
        make_folder(folder)
        check_file(folder / ".lock")
    path = folder.resolve() / ".lock"
    lock = FileLock(path, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with suppress(OSError, ValueError):
            logger.warning(
                "another process is writing to %s: waiting until it is done (%s)",
                folder,
                path.read_text(encoding="utf-8").strip(),
            )
        lock.acquire()
    if lock.lock_counter == 1:
        set_mode(path, mode_for(folder))
        _held[folder.absolute()] = _identity(path)
        now = datetime.now(UTC).isoformat(" ", "seconds")
        with suppress(OSError):  # a full disk; only people read this file
            path.write_text(f"process {os.getpid()} on {platform.node()}, since {now}\n", "utf-8")
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            _held.pop(folder.absolute(), None)
        lock.release()


def _check_in_place(folder: Path) -> None:
    """Raise MlError where the folder is not the one that was locked."""
    with suppress(OSError):
        if _held.get(folder.absolute()) == _identity(folder / ".lock"):
            return
    raise MlError(
        f"{folder} was moved, replaced or emptied while this process worked there: nothing more is "
        "written; put it back, or run the command again"
    )


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Return whether Git LFS has a pointer in the place of this file; no where there is no file."""
    try:
        check_file(path)
        with path.open("rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except OSError:
        return False


def refuse_lfs_pointer(path: Path) -> None:
    """Raise InputError where `is_lfs_pointer`."""
    if is_lfs_pointer(path):
        raise InputError(f"{path} is {LFS_POINTER}")


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path`, which is new, a hard link to `source`; a copy where that is not possible."""
    try:
        os.link(source, path)
    except OSError:
        mode = stat.S_IMODE(source.stat().st_mode)
        with source.open("rb") as read, create(path, mode) as file:
            shutil.copyfileobj(read, file)
            file.flush()
            os.fsync(file.fileno())


def discard(*temporary: Path) -> None:
    """Delete what was not renamed; a rename onto a link to the same file leaves its source."""
    for path in temporary:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def same_content(path: Path, other: Path) -> bool:
    """Return whether both are regular files with the same content."""
    if path.is_symlink() or not path.is_file() or not other.is_file():
        return False
    return path.samefile(other) or filecmp.cmp(path, other, shallow=False)

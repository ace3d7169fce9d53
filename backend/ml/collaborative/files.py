"""Replace files completely or not at all, and lock a folder for one process."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import logging
import os
import platform
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from .errors import InputError

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


@contextmanager
def replace_together(*paths: Path, unique: bool = False) -> Iterator[tuple[BinaryIO, ...]]:
    """Write all of `paths`, or leave each of them as it was.

    Yields one binary file per path, under a temporary name in the same folder. After the block all
    are synced to disk, then renamed to their paths in the order given; if the block raises, none
    is. Temporary names are fixed (`.NAME.tmp`), so that the next process overwrites what a killed
    one left. Hold `locked(folder)` meanwhile.

    Args:
        *paths: the files, each in an existing folder.
        unique: whether the temporary names are those of `unique_name`.

    Raises:
        OSError: the disk is full, the folder is read-only, and the like.
    """
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "a folder is in the place of a file", str(path))
    temporary = [
        unique_name(path) if unique else path.with_name(f".{path.name}.tmp") for path in paths
    ]
    try:
        with ExitStack() as stack:
            files = tuple(stack.enter_context(name.open("wb")) for name in temporary)
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
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
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
        now = datetime.now(UTC).isoformat(" ", "seconds")
        with suppress(OSError):  # a full disk; only people read this file
            path.write_text(f"process {os.getpid()} on {platform.node()}, since {now}\n", "utf-8")
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Return whether Git LFS has a pointer in the place of this file; no where there is no file."""
    try:
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
        with source.open("rb") as read, path.open("xb") as file:
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

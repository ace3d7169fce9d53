"""Extract members of a zip archive that may be damaged or hostile."""

from __future__ import annotations

import errno
import hashlib
import logging
import stat
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InputError
from ..files import CHUNK, LFS_POINTER, is_lfs_pointer, make_folder, replace_together
from ..progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .registry import DataFile

logger = logging.getLogger(__name__)

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)
"""What zipfile raises at a damaged archive, besides EINVAL if it seeks to a negative position."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that are allowed: zipfile unpacks others without a limit on memory."""


class BadArchiveError(InputError):
    """An archive is damaged or has other content than expected."""


def extract(
    zip_path: Path, files: Sequence[DataFile], data_dir: Path, *, authentic: bool
) -> dict[str, str]:
    """Extract `files` into `data_dir`, all or none; return their SHA-256 by target.

    A member's own path is never used, only the target. Optional members that the archive lacks are
    left out, unless it lacks all of them.

    Args:
        zip_path: the archive.
        files: members of one archive.
        data_dir: where their targets are.
        authentic: whether the archive is from an authentic sender.

    Raises:
        BadArchiveError: the file is not a complete zip archive; a member is missing, too large, a
            link, or has another hash than expected; or its hash is unknown and the sender is not
            authentic.
    """
    archive = files[0].archive
    for file in files:
        make_folder((data_dir / file.target).parent)
    try:
        with ExitStack() as stack:
            zipped = stack.enter_context(zipfile.ZipFile(zip_path))
            names = set(zipped.namelist())
            has = [file for file in files if not file.optional or _name(file) in names]
            files = has or files
            targets = [data_dir / file.target for file in files]
            outputs = stack.enter_context(replace_together(*targets))
            hashes = [
                _copy_member(zipped, file, output)
                for file, output in zip(files, outputs, strict=True)
            ]
            known = archive.md5 is not None and _md5(zip_path) == archive.md5
            for file, found, output in zip(files, hashes, outputs, strict=True):
                if not known and found != file.sha256:
                    _accept_unknown(file, found, Path(output.name), authentic=authentic)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if is_lfs_pointer(zip_path):
            raise BadArchiveError(LFS_POINTER) from None
        size = zip_path.stat().st_size
        raise BadArchiveError(f"damaged archive of {size:,} bytes ({error})") from None
    return dict(zip((file.target for file in files), hashes, strict=True))


def _accept_unknown(file: DataFile, found: str, path: Path, *, authentic: bool) -> None:
    """Accept content of unknown hash with a warning, if sender, first line and content are right.

    The content is read as a build reads it: once it is recorded, nobody asks again.

    Raises:
        BadArchiveError: they are not, or the file has a hash that never changes.
    """
    from . import movielens_files  # which takes pandas

    name = _name(file)
    if file.archive.frozen and file.sha256:
        raise BadArchiveError(f"{name} has SHA-256 {found}, expected {file.sha256}")
    if not authentic:
        raise BadArchiveError(f"{name} has unknown content and its sender is not authentic")
    if (line := first_line(path)) != file.header:
        raise BadArchiveError(f"{name} begins with {line[:60]!r}, expected {file.header!r}")
    try:
        movielens_files.judge(path, line)
    except InputError as error:
        found = str(error).removesuffix(movielens_files.ADVICE)
        raise BadArchiveError(found.replace(str(path), name)) from None
    known = (
        "the archive's MD5 is not the published one"
        if file.archive.md5
        else "its version is not known here"
    )
    logger.warning("%s: %s; its layout is right, so it is used", name, known)


def _name(file: DataFile) -> str:
    """Return the name of `file` in its archive."""
    return f"{file.archive.name}/{file.member}"


def _copy_member(zipped: zipfile.ZipFile, file: DataFile, output: BinaryIO) -> str:
    """Copy one member to `output`; return its SHA-256 in hex."""
    name = _name(file)
    try:
        info = zipped.getinfo(name)
    except KeyError:
        raise BadArchiveError(f"the archive has no {name}") from None
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise BadArchiveError(f"{name} is not a plain file")
    if info.compress_type not in METHODS:
        raise BadArchiveError(
            f"{name} is compressed by method {info.compress_type}, expected deflate"
        )
    if info.file_size > file.archive.max_bytes:
        raise BadArchiveError(
            f"{name} has {info.file_size:,} bytes, expected at most {file.archive.max_bytes:,}"
        )
    digest = hashlib.sha256()
    with zipped.open(info) as member, progress_bar("extracting", "B", info.file_size) as bar:
        while chunk := member.read(CHUNK):
            output.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    output.flush()
    return digest.hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def first_line(path: Path) -> str:
    """Return the first line of a file, at most 200 bytes of it."""
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace").strip()

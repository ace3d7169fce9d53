"""Have a data set's files in the data folder: find an archive, verify it, extract it safely."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from ..errors import InputError, SourceError
from ..files import CHUNK, locked, replace_together, sha256
from ..progress import progress_bar
from .downloads import download, without_password

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .registry import Archive, DataFile

logger = logging.getLogger(__name__)

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
SUMS = "SHA256SUMS"
"""In the data folder: hashes of the extracted files, as `sha256sum -c` reads them."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)
"""What zipfile raises at a damaged archive, besides EINVAL where it seeks to a negative place."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression that is let through: zipfile unpacks the others without a bound on memory."""


class BadArchiveError(InputError):
    """An archive was had, but it is damaged or not what it should be."""


def ensure_files(
    files: Sequence[DataFile], data_dir: Path, base_url: str | None, *, force: bool = False
) -> bool:
    """Have `files` in `data_dir`, verified; fetch those that are missing or damaged.

    Args:
        files: the files of one data set.
        data_dir: made if need be.
        base_url: where archives are looked for before GroupLens: https, http, file:// or a folder.
        force: fetch all of them again.

    Returns:
        Whether anything was fetched.

    Raises:
        InputError: archives were had, but none of them is right.
        SourceError: no archive was right, and some source could not be reached.
    """
    if not (force or _missing(files, data_dir)):
        return False
    with locked(data_dir):
        wanted = list(files) if force else _missing(files, data_dir, say=True)
        fetched = False
        for archive in dict.fromkeys(file.archive for file in wanted):
            members = [file for file in wanted if file.archive == archive]
            try:
                _fetch(archive, members, data_dir, base_url)
                fetched = True
            except (InputError, SourceError) as error:
                if not all(file.optional for file in members):
                    raise
                logger.warning("going on without %s, nothing is lost: %s", members[0].target, error)
                _discard_damaged(members, data_dir)
    return fetched


def _missing(files: Sequence[DataFile], data_dir: Path, *, say: bool = False) -> list[DataFile]:
    """Those to fetch; an absent optional one alone is not worth fetching an archive again."""
    wrong = [file for file in files if not is_verified(file, data_dir, say=say)]
    needed = {file.archive for file in wrong if not file.optional}
    needed |= {file.archive for file in wrong if (data_dir / file.target).exists()}
    needed |= {file.archive for file in files} - {f.archive for f in files if not f.optional}
    return [file for file in wrong if file.archive in needed]


def _discard_damaged(files: Sequence[DataFile], data_dir: Path) -> None:
    """Remove what is not verified, so that nobody reads it."""
    for file in files:
        if not is_verified(file, data_dir):
            (data_dir / file.target).unlink(missing_ok=True)


def is_verified(file: DataFile, data_dir: Path, *, say: bool = False) -> bool:
    """Whether `file` is in `data_dir` with its pinned content, or as it was extracted.

    A file that is neither pinned nor extracted by us is somebody's own: it passes if its first
    line is right.
    """
    path = data_dir / file.target
    if not path.is_file():
        return False
    found = sha256(path)
    if found == file.sha256:
        return True
    recorded = _read_sums(data_dir).get(file.target)
    if file.archive.frozen and file.sha256:
        good = False
    elif recorded:
        good = found == recorded
    elif good := _first_line(path) == file.header:
        logger.warning("%s: its version is unknown here; its layout is right, so it is used", path)
    if say and not good:
        logger.warning("%s is damaged: fetching it again", path)
    return good


def sources(archive: Archive, data_dir: Path, base_url: str | None) -> Iterator[str | Path]:
    """Where `archive` may be had, best first: paths and http(s) URLs.

    Raises:
        InputError: the base URL is neither https, http, file:// nor a folder, or malformed.
    """
    name = f"{archive.name}.zip"
    if (data_dir / name).is_file():
        yield data_dir / name
    if base_url:
        parts = _split(base_url)
        if parts.scheme in ("https", "http"):
            yield f"{base_url.rstrip('/')}/{name}"
        elif parts.scheme == "file":
            yield _folder(url2pathname(parts.path)) / name
        elif "://" not in base_url:
            yield _folder(base_url) / name
        else:
            raise InputError(
                f"MOVIELENS_BASE_URL has the scheme {parts.scheme}://: "
                "expected https://…, http://…, file://… or a folder"
            )
    yield f"{GROUPLENS}/{name}"
    yield from archive.mirrors


def _folder(text: str) -> Path:
    """The folder that MOVIELENS_BASE_URL names; it must be there, a slip would go unseen."""
    folder = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111  leaves an unknown ~user
    if not folder.is_dir():
        raise InputError(f"MOVIELENS_BASE_URL names {folder}, and there is no such folder")
    return folder


def _split(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises too
        if "@" in parts.path + parts.query + parts.fragment:  # a / in the password ends the host
            raise ValueError
    except ValueError:
        raise InputError(  # without the URL, which may hold a password
            "MOVIELENS_BASE_URL is not a well-formed URL: "
            "a special character in its user or password is written as %XX"
        ) from None
    return parts


def _fetch(
    archive: Archive, files: Sequence[DataFile], data_dir: Path, base_url: str | None
) -> None:
    """Extract `files` from the first source whose archive is right."""
    errors: list[InputError | SourceError] = []
    for source in sources(archive, data_dir, base_url):
        name = str(source) if isinstance(source, Path) else without_password(source)
        try:
            if isinstance(source, Path):
                if not source.is_file():
                    raise SourceError("no such file")
                _extract(source, files, data_dir, authentic=True)
            else:
                _download_and_extract(source, archive, files, data_dir)
        except (InputError, SourceError) as error:
            errors.append(type(error)(f"{name}: {error}"))
            continue
        for passed_over in errors:
            logger.warning("passed over %s", passed_over)
        logger.info("extracted %s", name)
        return
    kind = SourceError if any(isinstance(e, SourceError) for e in errors) else InputError
    raise kind(
        f"no source has a good {archive.name}.zip: {'; '.join(map(str, errors))}. "
        f"Download it elsewhere into {data_dir}, or set MOVIELENS_BASE_URL to a place that has it"
    )


def _download_and_extract(
    url: str, archive: Archive, files: Sequence[DataFile], data_dir: Path
) -> None:
    part = data_dir / f"{archive.name}.zip.part"
    logger.info("fetching %s", without_password(url))
    pinned = archive.md5 is not None or all(file.sha256 for file in files)
    try:
        authentic = download(url, part, archive.max_bytes, allow_lapsed=pinned)
        _extract(part, files, data_dir, authentic=authentic)
    finally:
        part.unlink(missing_ok=True)


def _extract(zip_path: Path, files: Sequence[DataFile], data_dir: Path, *, authentic: bool) -> None:
    """Extract `files`, all or none; a member's own path is never used, only our target.

    Optional ones that the archive does not have are left out, as long as it has any.

    Raises:
        BadArchiveError: not a whole zip, a member is missing, too large, a link, or not the pinned
            content; or nothing proves the content and the sender is not authentic either.
    """
    archive = files[0].archive
    for file in files:
        (data_dir / file.target).parent.mkdir(parents=True, exist_ok=True)
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
        size = zip_path.stat().st_size
        raise BadArchiveError(f"damaged archive of {size:,} bytes ({error})") from None
    sums = _read_sums(data_dir) | {f.target: h for f, h in zip(files, hashes, strict=True)}
    with replace_together(data_dir / SUMS) as (output,):
        output.writelines(f"{sums[name]}  {name}\n".encode() for name in sorted(sums))


def _accept_unknown(file: DataFile, found: str, path: Path, *, authentic: bool) -> None:
    """Let content of unknown hash pass, with a warning, only if nothing speaks against it."""
    name = _name(file)
    if file.archive.frozen and file.sha256:
        raise BadArchiveError(f"{name} has SHA-256 {found}, expected {file.sha256}")
    if not authentic:
        raise BadArchiveError(f"{name} is unknown content from a sender that is not authentic")
    if (line := _first_line(path)) != file.header:
        raise BadArchiveError(f"{name} begins with {line[:60]!r}, expected {file.header!r}")
    known = (
        "the archive's MD5 is not the published one"
        if file.archive.md5
        else "its version is not known here"
    )
    logger.warning("%s: %s; its layout is right, so it is used", name, known)


def _name(file: DataFile) -> str:
    """In its archive."""
    return f"{file.archive.name}/{file.member}"


def _copy_member(zipped: zipfile.ZipFile, file: DataFile, output: BinaryIO) -> str:
    """Copy one member to `output`; return its SHA-256."""
    name = _name(file)
    try:
        info = zipped.getinfo(name)
    except KeyError:
        raise BadArchiveError(f"no {name} in the archive") from None
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise BadArchiveError(f"{name} is not a plain file")
    if info.compress_type not in METHODS:
        raise BadArchiveError(f"{name} is compressed by method {info.compress_type}, not deflated")
    if info.file_size > file.archive.max_bytes:
        raise BadArchiveError(f"{name} would take {info.file_size:,} bytes")
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


def _read_sums(data_dir: Path) -> dict[str, str]:
    """Hashes recorded at extraction, by target; empty where there are none."""
    path = data_dir / SUMS
    if not path.is_file():
        return {}
    lines = (line.split("  ", 1) for line in path.read_text("utf-8", "replace").splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2}


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("utf-8", "replace").strip()

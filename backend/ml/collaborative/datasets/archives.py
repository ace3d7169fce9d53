"""Keep a data set's files in the data folder: find an archive, verify it, extract it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from ..errors import InputError, SourceError
from ..files import LFS_POINTER, is_lfs_pointer, locked, replace_together, sha256
from ..paths import expand
from .downloads import download, without_password
from .zips import extract, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .registry import Archive, DataFile

logger = logging.getLogger(__name__)

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
SUMS = "SHA256SUMS"
"""In the data folder: hashes of the extracted files, as `sha256sum -c` reads them."""


def ensure_files(
    files: Sequence[DataFile], data_dir: Path, base_url: str | None, *, force: bool = False
) -> bool:
    """Verify `files` in `data_dir`; fetch those that are missing or damaged.

    Args:
        files: the files of one data set.
        data_dir: created if it is missing.
        base_url: where archives are looked for before GroupLens: https, http, file:// or a folder.
        force: fetch all of them again.

    Returns:
        Whether anything was fetched.

    Raises:
        InputError: every archive that was found is damaged or has other content than expected.
        SourceError: the same, and some source could not be reached.
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
            except (InputError, SourceError, OSError) as error:
                if not all(file.optional for file in members):
                    raise
                logger.warning(
                    "going on without %s, which is optional: %s", members[0].target, error
                )
                _discard_damaged(members, data_dir)
    return fetched


def _missing(files: Sequence[DataFile], data_dir: Path, *, say: bool = False) -> list[DataFile]:
    """Return the files to fetch; a missing optional file alone does not cause a download."""
    wrong = [file for file in files if not is_verified(file, data_dir, say=say)]
    needed = {file.archive for file in wrong if not file.optional}
    needed |= {file.archive for file in wrong if (data_dir / file.target).exists()}
    needed |= {file.archive for file in files} - {f.archive for f in files if not f.optional}
    return [file for file in wrong if file.archive in needed]


def _discard_damaged(files: Sequence[DataFile], data_dir: Path) -> None:
    """Delete files that are not verified, so that no build reads them; folders stay."""
    for file in files:
        path = data_dir / file.target
        if path.is_file() and not is_verified(file, data_dir):
            path.unlink(missing_ok=True)


def is_verified(file: DataFile, data_dir: Path, *, say: bool = False) -> bool:
    """Return whether `file` is in `data_dir` with its expected hash, or as it was extracted.

    A file without an expected or recorded hash was put there by somebody: its first line decides.

    Raises:
        OSError: it cannot be read, and is not optional.
    """
    path = data_dir / file.target
    if not path.is_file():
        return False
    try:
        found = sha256(path)
    except OSError as error:
        if not file.optional:
            raise
        if say:
            logger.warning("%s cannot be read (%s): fetching it again", path, error.strerror)
        return False
    if found == file.sha256:
        return True
    recorded = _read_sums(data_dir).get(file.target)
    if file.archive.frozen and file.sha256:
        good = False
    elif recorded:
        good = found == recorded
    elif good := first_line(path) == file.header:
        logger.warning(
            "%s: its version is not known here; its layout is right, so it is used", path
        )
    if say and not good:
        wrong = LFS_POINTER if is_lfs_pointer(path) else "damaged"
        logger.warning("%s is %s: fetching it again", path, wrong)
    return good


def sources(archive: Archive, data_dir: Path, base_url: str | None) -> Iterator[str | Path]:
    """Yield the places to get `archive` from, best first: paths and http(s) URLs.

    Raises:
        InputError: the base URL is malformed, or not https, http, file:// or an existing folder.
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
    """Return the folder that MOVIELENS_BASE_URL names.

    Raises:
        InputError: there is none; without this, a typing error would go unnoticed.
    """
    folder = expand(text).absolute()
    try:
        if folder.is_dir():
            return folder
        reason = "there is no such folder"
    except OSError as error:  # too long a name, say
        reason = str(error.strerror)
    # A text without a slash could be a secret in the wrong place.
    shown = f"names {str(folder)[:200]}" if "/" in text or "\\" in text else "is a folder's name"
    raise InputError(f"MOVIELENS_BASE_URL {shown}: {reason}")


def _split(base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises too
        if "@" in parts.path + parts.query + parts.fragment:  # a / in the password ends the host
            raise ValueError
    except ValueError:
        raise InputError(  # without the URL, which may hold a password
            "MOVIELENS_BASE_URL is not a well-formed URL: "
            "write special characters in its user or password as %XX"
        ) from None
    return parts


def _fetch(
    archive: Archive, files: Sequence[DataFile], data_dir: Path, base_url: str | None
) -> None:
    """Extract `files` from the first source that has a good archive."""
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
        for skipped in errors:
            logger.warning("skipped %s", skipped)
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
    """Extract `files`, see `zips.extract`, and record their hashes."""
    sums = _read_sums(data_dir) | extract(zip_path, files, data_dir, authentic=authentic)
    with replace_together(data_dir / SUMS) as (output,):
        output.writelines(f"{sums[name]}  {name}\n".encode() for name in sorted(sums))


def _read_sums(data_dir: Path) -> dict[str, str]:
    """Return the hashes recorded at extraction, by target; empty if there are none."""
    path = data_dir / SUMS
    if not path.is_file():
        return {}
    lines = (line.split("  ", 1) for line in path.read_text("utf-8", "replace").splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2}

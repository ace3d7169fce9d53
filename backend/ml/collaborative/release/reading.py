"""Read one release so that not a byte is used, or unpickled, before it is verified."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from ..errors import DamagedReleaseError, MissingReleaseError, ReleaseError
from ..files import CHUNK, LFS_POINTER, LFS_START
from ..paths import MODELS_DIR, expand
from ..texts import decode_texts
from .arrays import NAMES, OPTIONAL, RANKING, find_fault, forget_pages, ranking_from
from .live import Live
from .manifest import (
    ARRAYS,
    HELD_OUT,
    MANIFEST_FILE,
    MODEL_FILE,
    TOOL,
    TRAINSET_FILE,
    read_manifest,
)
from .versions import check_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

T = TypeVar("T")
logger = logging.getLogger(__name__)

_ADVICE = f"build again, or choose another release with {TOOL} rollback ID"
_COMMIT = "run git add ml/models and commit where it was built, or build again"


def verify_release(folder: Path) -> dict[str, Any]:
    """Return the manifest of the release in `folder`, once all its files are as published.

    Raises:
        ReleaseError: a file has another size or hash, or the pickles are not among them; or see
            `manifest.read_manifest` and `load_arrays`.
    """
    manifest = read_manifest(folder)
    load_arrays(folder, mmap=True)
    named = {entry["name"] for entry in manifest["files"]}
    done = {f"{ARRAYS}/{name}.npy" for name in NAMES}
    for name in sorted((named | {MODEL_FILE, TRAINSET_FILE}) - done):
        with open_verified(folder, manifest, name):
            pass
    return manifest


@contextmanager
def open_verified(folder: Path, manifest: Mapping[str, Any], name: str) -> Iterator[BinaryIO]:
    """Open a file of a release at its start, once its content has the manifest's hash.

    Raises:
        DamagedReleaseError: it is missing, cut, or another.
    """
    path = folder / name
    entry = next((entry for entry in manifest["files"] if entry["name"] == name), None)
    if entry is None:
        raise DamagedReleaseError(f"{folder / MANIFEST_FILE} does not name {name}: {_ADVICE}")
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DamagedReleaseError(f"{path} is missing: {_ADVICE}") from None
    with file:
        if file.read(len(LFS_START)) == LFS_START:
            raise DamagedReleaseError(f"{path} is {LFS_POINTER}")
        file.seek(0)
        size, expected = os.fstat(file.fileno()).st_size, entry["bytes"]
        if size != expected:
            raise DamagedReleaseError(
                f"{path} has {size:,} bytes, published were {expected:,}: {_ADVICE}"
            )
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != entry["sha256"]:
            raise DamagedReleaseError(
                f"{path} is not the file that was published (another SHA-256): {_ADVICE}"
            )
        file.seek(0)
        yield file


def load_models(models_dir: str | Path | None = None) -> tuple[SVD, Trainset]:
    """Return the live model and its trainset, each verified before it is unpickled.

    A pickle is code, and a hash says only that it is the one that the manifest beside it names:
    load only your own builds.

    In a clone after `git commit -a`, where `releases/` lacks the live release, they are the pickles
    at the fixed paths, verified in the same way; the model then comes without its `parts`.

    Args:
        models_dir: default `ml/models`; or the folder of one release.

    Raises:
        MissingReleaseError: there is none.
        DamagedReleaseError: a file is missing, cut, or another than was published.
        NewerReleaseError: see `manifest.read_manifest`.
        OtherVersionsError: the pickles were made with other versions of the libraries.
    """
    live = Live(expand(models_dir or MODELS_DIR))
    return live.read_live(lambda folder: _load_pickles(folder, has_arrays=not live.is_partial()))


def _load_pickles(folder: Path, *, has_arrays: bool) -> tuple[SVD, Trainset]:
    """Return the model and the trainset of the release in `folder`, with its parts if it has any.

    Raises:
        OtherVersionsError: see `versions.check_versions`.
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    import joblib

    from ..algorithms.parts import Parts, attach
    from ..surprise_classes import SVD, Trainset

    manifest = read_manifest(folder)
    check_versions(folder, manifest)
    with open_verified(folder, manifest, MODEL_FILE) as file:
        svd = joblib.load(file)
    with open_verified(folder, manifest, TRAINSET_FILE) as file:
        trainset = joblib.load(file)
    for name, found, expected in ((MODEL_FILE, svd, SVD), (TRAINSET_FILE, trainset, Trainset)):
        if not isinstance(found, expected):
            raise DamagedReleaseError(
                f"{folder / name} holds a {type(found).__name__}, expected a "
                f"surprise.{expected.__name__}: {_ADVICE}"
            )
    if not has_arrays:
        return svd, trainset
    arrays = load_arrays(folder, ("fold_in_root", "implicit", *RANKING))
    parts = Parts(arrays["fold_in_root"], arrays.get("implicit"), ranking_from(arrays))
    return attach(svd, parts), trainset


def read_served(live: Live, read: Callable[[Path], T]) -> T:
    """Return what `read` gives for the live release, or for an older one if its arrays are missing.

    They are missing in a clone after `git commit -a`. The older one is the newest by the history
    that `rollback` may choose and that can be read; it is named in a warning.

    Raises:
        MissingReleaseError: the arrays are missing, and no older release can be read.
        ReleaseError: see `Live.live_folder`; or from `read`.
    """
    while live.is_partial():
        build_id = live.live_id()
        missing = f"{live.releases_dir / str(build_id)} is live, but missing here"
        for older in reversed(live.older(build_id)):
            with suppress(ReleaseError, FileNotFoundError):
                found = read(live.folder(older))
                logger.warning("%s: %s is served; %s", missing, older, _COMMIT)
                return found
        if live.is_partial():
            raise MissingReleaseError(f"{missing}, and no older release is complete: {_COMMIT}")
    return live.read_live(read)


def read_held_out(folder: Path) -> dict[str, NDArray[Any]]:
    """Return what a release keeps of its held-out fifth, by name; older ones keep less.

    Raises:
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    manifest = read_manifest(folder)
    files = {entry["name"] for entry in manifest["files"]}
    found = {}
    for name, (key, number) in HELD_OUT.items():
        file = f"{name}.npy"
        if file not in files:
            continue
        rows = found[name] = _read_array(folder, manifest, file)
        fields: Mapping[str, Any] = rows.dtype.fields or {}
        kinds = [fields[field][0].str for field in (key, number) if field in fields]
        if kinds != ["<u8", "<f8"] or rows.ndim != 1 or not (abs(rows[number]) < math.inf).all():
            raise DamagedReleaseError(f"{folder / file} does not say what was held out: {_ADVICE}")
    return found


def load_arrays(
    folder: Path, names: Collection[str] = NAMES, *, mmap: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the release in `folder`, verified; see `arrays.model_arrays`.

    Args:
        folder: of the release.
        names: of the arrays wanted; one that this release need not have is left out.
        mmap: whether to leave them on the disk until they are used, shared between processes.

    Raises:
        DamagedReleaseError: they cannot be served, see `arrays.find_fault`.
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    manifest = read_manifest(folder)
    published = {entry["name"] for entry in manifest["files"]}
    optional = {name for name in OPTIONAL if f"{ARRAYS}/{name}.npy" not in published}
    if not optional >= {*RANKING}:
        optional -= {*RANKING}  # all of them, or none
    found = {
        name: _read_array(folder, manifest, f"{ARRAYS}/{name}.npy", mmap=mmap)
        for name in names
        if name not in optional
    }
    fault = find_fault(found, manifest["model"]["rating_scale"])
    if fault:
        raise invalid_array(folder, *fault)
    for array in found.values():
        forget_pages(array)
    return found


def invalid_array(folder: Path, name: str, what: str) -> DamagedReleaseError:
    """Return the error on an array that cannot be served."""
    path = folder / ARRAYS / f"{name}.npy"
    return DamagedReleaseError(f"{path} {what}: {_ADVICE}")


def read_users(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the row of each user of a release, by id.

    Raises:
        DamagedReleaseError: the ids are not text, or not all different.
    """
    try:
        users = decode_texts(arrays["user_ids"], arrays["user_id_ends"])
    except UnicodeDecodeError:
        raise invalid_array(folder, "user_ids", "has ids that are not UTF-8") from None
    rows = dict(zip(users, range(len(users)), strict=True))
    if len(rows) < len(users):
        raise invalid_array(folder, "user_ids", "has a user twice")
    return rows


def _load_array(file: BinaryIO, *, mmap: bool) -> NDArray[Any]:
    """Return the array in an open file; with `mmap` left there, in the very file that was verified.

    Raises:
        ValueError: it is not an array of numbers, whole.
    """
    import numpy as np
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it has objects")
    start, wanted = file.tell(), math.prod(shape) * dtype.itemsize
    left = os.fstat(file.fileno()).st_size - start
    if left != wanted:  # else a shape that is invented takes all memory
        raise ValueError(f"{dtype} {shape} takes {wanted:,} bytes, it has {left:,}")
    order: Literal["F", "C"] = "F" if fortran else "C"
    if mmap:
        return np.memmap(file, dtype, "r", start, shape, order)
    return np.fromfile(file, dtype).reshape(shape, order=order)


def _read_array(
    folder: Path, manifest: Mapping[str, Any], name: str, *, mmap: bool = False
) -> NDArray[Any]:
    """Return an array of a release, verified; objects in it are refused, not unpickled.

    Raises:
        DamagedReleaseError: see `open_verified`; or the file is another than a build writes.
    """
    with open_verified(folder, manifest, name) as file:
        try:
            return _load_array(file, mmap=mmap)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a header that is no array's can raise anything
            raise DamagedReleaseError(
                f"{folder / name} is not an array of numbers ({error!s:.80}): {_ADVICE}"
            ) from None

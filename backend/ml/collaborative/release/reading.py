"""Read one release so that not a byte is used, or unpickled, before it is verified."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from ..errors import DamagedReleaseError, MissingReleaseError, ReleaseError
from ..files import CHUNK
from ..paths import MODELS_DIR
from .arrays import NAMES, OPTIONAL, RANKING, ranking_from
from .live import Live
from .manifest import (
    ARRAYS,
    HELD_OUT_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    TOOL,
    TRAINSET_FILE,
    read_manifest,
)
from .versions import check_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

T = TypeVar("T")
logger = logging.getLogger(__name__)

_COMMIT = "run git add ml/models and commit where it was built, or build again"


def verify_release(folder: Path) -> dict[str, Any]:
    """Return the manifest of the release in `folder`, once all its files are as published.

    Raises:
        ReleaseError: a file has another size or hash, or the pickles are not among them; or see
            `manifest.read_manifest`.
    """
    manifest = read_manifest(folder)
    named = {entry["name"] for entry in manifest["files"]}
    for name in sorted(named | {MODEL_FILE, TRAINSET_FILE}):
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
    advice = f"build again, or choose another release with {TOOL} rollback ID"
    entry = next((entry for entry in manifest["files"] if entry["name"] == name), None)
    if entry is None:
        raise DamagedReleaseError(f"{folder / MANIFEST_FILE} does not name {name}: {advice}")
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DamagedReleaseError(f"{path} is missing: {advice}") from None
    with file:
        size, expected = os.fstat(file.fileno()).st_size, entry["bytes"]
        if size != expected:
            raise DamagedReleaseError(
                f"{path} has {size:,} bytes, published were {expected:,}: {advice}"
            )
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != entry["sha256"]:
            raise DamagedReleaseError(
                f"{path} is not the file that was published (another SHA-256): {advice}"
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
    live = Live(Path(models_dir or MODELS_DIR))
    return live.read_live(lambda folder: _load_pickles(folder, has_arrays=not live.is_partial()))


def _load_pickles(folder: Path, *, has_arrays: bool) -> tuple[SVD, Trainset]:
    """Return the model and the trainset of the release in `folder`, with its parts if it has any.

    Raises:
        OtherVersionsError: see `versions.check_versions`.
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    import joblib

    from ..algorithms.parts import Parts, attach

    manifest = read_manifest(folder)
    check_versions(folder, manifest)
    with open_verified(folder, manifest, MODEL_FILE) as file:
        svd = joblib.load(file)
    with open_verified(folder, manifest, TRAINSET_FILE) as file:
        trainset = joblib.load(file)
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


def read_held_out(folder: Path) -> NDArray[Any] | None:
    """Return what a release keeps of its held-out fifth; None where it keeps nothing.

    Raises:
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    manifest = read_manifest(folder)
    if HELD_OUT_FILE not in {entry["name"] for entry in manifest["files"]}:
        return None
    return _read_array(folder, manifest, HELD_OUT_FILE)


def load_arrays(
    folder: Path, names: Collection[str] = NAMES, *, mmap: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the release in `folder`, verified; see `arrays.model_arrays`.

    Args:
        folder: of the release.
        names: of the arrays wanted; one that this release need not have is left out.
        mmap: whether to leave them on the disk until they are used, shared between processes.

    Raises:
        ReleaseError: see `open_verified` and `manifest.read_manifest`.
    """
    manifest = read_manifest(folder)
    published = {entry["name"] for entry in manifest["files"]}
    return {
        name: _read_array(folder, manifest, f"{ARRAYS}/{name}.npy", mmap=mmap)
        for name in names
        if name not in OPTIONAL or f"{ARRAYS}/{name}.npy" in published
    }


def _map_array(file: BinaryIO) -> NDArray[Any]:
    """Return the array in an open file, left there: the very file that was verified."""
    import numpy as np
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it has objects")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


def _read_array(
    folder: Path, manifest: Mapping[str, Any], name: str, *, mmap: bool = False
) -> NDArray[Any]:
    """Return an array of a release, verified; objects in it are refused, not unpickled.

    Raises:
        DamagedReleaseError: see `open_verified`; or the file is another than a build writes.
    """
    from numpy.lib import format as npy

    with open_verified(folder, manifest, name) as file:
        try:
            array: NDArray[Any] = (
                _map_array(file) if mmap else npy.read_array(file, allow_pickle=False)
            )
        except ValueError as error:
            raise DamagedReleaseError(
                f"{folder / name} is not an array of numbers ({error!s:.80}): build again"
            ) from None
    return array

"""One release: writing it whole, and reading it so that not a byte is unpickled unverified."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from ..errors import DamagedReleaseError, OtherVersionsError, ReleaseError
from ..files import CHUNK, sha256, sync_folder
from ..paths import MODELS_DIR
from .arrays import NAMES, OPTIONAL, model_arrays
from .live import MODEL_FILE, REPORT_FILE, TRAINSET_FILE, live_folder
from .manifest import MANIFEST_FILE, read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

T = TypeVar("T")

ARRAYS = "arrays"
HELD_OUT_FILE = "held_out.npy"
"""What the same training says of the fifth of ratings that is always held out, see `hold_out`."""


def write_release(
    parent: Path,
    draft: Mapping[str, Any],
    svd: SVD,
    trainset: Trainset,
    *,
    report: str | None = None,
    held_out: NDArray[Any] | None = None,
) -> Path:
    """Write a release to the folder `parent/ID`, which is there once it is whole on the disk.

    Args:
        parent: of the release's folder; made if need be.
        draft: see `manifest.draft_manifest`; the files are added to it.
        svd: the model.
        trainset: what it was trained on, with its ratings.
        report: the page about the build.
        held_out: see `hold_out.HoldOut.rows`.

    Raises:
        InputError: the trainset's ids are of other types than a release can hold.
        OSError: it could not be written; nothing of it is left.
    """
    import joblib

    build_id: str = draft["build_id"]
    slim, rows = _with_id(svd, build_id), _with_id(trainset, build_id)
    slim.trainset = rows
    arrays = model_arrays(svd, trainset)
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".{build_id}.tmp"
    try:
        (temporary / ARRAYS).mkdir(parents=True)
        joblib.dump(slim, temporary / MODEL_FILE)
        joblib.dump(rows, temporary / TRAINSET_FILE)
        for name, array in arrays.items():
            _write_array(temporary / ARRAYS / f"{name}.npy", array)
        if held_out is not None:
            _write_array(temporary / HELD_OUT_FILE, held_out)
        if report is not None:
            (temporary / REPORT_FILE).write_text(report, encoding="utf-8")
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = [
            {
                "name": path.relative_to(temporary).as_posix(),
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
            }
            for path in paths
        ]
        manifest = temporary / MANIFEST_FILE
        manifest.write_bytes(write_manifest({**draft, "files": entries}))
        for path in (*paths, manifest):
            _sync_file(path)
        sync_folder(temporary / ARRAYS)
        sync_folder(temporary)
        temporary.rename(parent / build_id)
        sync_folder(parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(parent)
        raise
    return parent / build_id


def _with_id(thing: T, build_id: str) -> T:
    """A shallow copy that says which build it is of."""
    twin = copy.copy(thing)
    twin.build_id = build_id  # type: ignore[attr-defined]
    return twin


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """As `numpy.save`, but on a full disk the error says that it is full."""
    from numpy.lib import format as npy

    with path.open("wb") as file:
        # To what has no descriptor NumPy writes with `write`, which raises the system's own error.
        npy.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def read_live(models_dir: Path, read: Callable[[Path], T]) -> T:
    """What `read` says of the live release's folder.

    It is asked again where it fails while another release is made live: the one that it was
    reading may have been removed.

    Raises:
        ReleaseError: see `live.live_folder`; or from `read`.
    """
    while True:
        folder = live_folder(models_dir)
        try:
            return read(folder)
        except (ReleaseError, FileNotFoundError):
            if live_folder(models_dir) == folder:
                raise


def verify_release(folder: Path) -> dict[str, Any]:
    """The manifest of the release in `folder`, once all of its files have their sizes and hashes.

    Raises:
        ReleaseError: they have not, or the pickles are not among them; or see
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
    """A file of a release, open at its start, once its content has the manifest's hash.

    Raises:
        DamagedReleaseError: it is missing, cut, or another.
    """
    path = folder / name
    advice = "go back to another release with --rollback ID (--list shows them), or build anew"
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
    """The live model and its trainset, of one build, each verified before it is unpickled.

    A pickle is code, and a hash says only that it is the one that the manifest beside it names:
    load your own builds alone.

    Args:
        models_dir: default `ml/models`; or the folder of one release.

    Raises:
        MissingReleaseError: there is none.
        DamagedReleaseError: a file is missing, cut, or another than was published.
        NewerReleaseError: see `manifest.read_manifest`.
        OtherVersionsError: the pickles were made with libraries that are not those installed.
    """
    return read_live(Path(models_dir or MODELS_DIR), _load_pickles)


def _load_pickles(folder: Path) -> tuple[SVD, Trainset]:
    import joblib

    manifest = read_manifest(folder)
    check_versions(folder, manifest)
    with open_verified(folder, manifest, MODEL_FILE) as file:
        svd = joblib.load(file)
    with open_verified(folder, manifest, TRAINSET_FILE) as file:
        trainset = joblib.load(file)
    return svd, trainset


def check_versions(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse pickles made with another scikit-surprise, or another major version of NumPy.

    Raises:
        OtherVersionsError: they are.
    """
    from importlib.metadata import version

    made = manifest["versions"]
    for library, parts in (("scikit-surprise", 3), ("numpy", 1)):
        here, then = version(library), made[library]
        if here.split(".")[:parts] != then.split(".")[:parts]:
            raise OtherVersionsError(
                f"{folder} was pickled with {library} {then}, and {here} is installed: install "
                f"{library}=={then}, build anew, or use its plain arrays, which any NumPy reads"
            )


def read_held_out(folder: Path) -> NDArray[Any] | None:
    """What the release in `folder` keeps of its held-out fifth; None where it keeps nothing.

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
    """The arrays of the release in `folder`, verified; see `arrays.model_arrays`.

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
    """The array in an open file, left there: the very file that was verified."""
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
    """An array of a release, verified; objects in it are refused, not unpickled.

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
                f"{folder / name} is no array of numbers ({error!s:.80}): build anew"
            ) from None
    return array

"""The manifest of a release as it is read: checked with plain Python, so serving stays light."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ..errors import DamagedReleaseError, NewerReleaseError
from ..files import LFS_POINTER, check_file, is_lfs_pointer
from ..ratings import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = 1
"""Version of a release's form. A reader refuses a higher one; `schema.Manifest` declares it."""
MANIFEST_FILE, MODEL_FILE, TRAINSET_FILE = "manifest.json", "svd_model.pkl", "cf_trainset.pkl"
REPORT_FILE = "report.html"
HELD_OUT = {"held_out": ("pair", "prediction"), "held_out_lists": ("films", "above")}
"""Arrays of what a later build is compared with, and their fields: a hash and a number, see
`evaluation.HoldOut.rows`."""
MAX_NUMBER = 1e9
"""No training gives a number as large as this, and products of such overflow."""
ARRAYS = "arrays"
"""Folder of the plain arrays in a release."""
ITEM_ONLY = "item-only"
"""The shape of a model without users: they are folded in."""
TOOL = "python -m ml.collaborative"

_BUILD_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}", re.ASCII)
_FILE_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
"""Name of a file inside the release: it leads nowhere else, on any platform."""
PARTS: dict[str, Any] = {
    "build_id": str, "created": str, "git_commit": str | None, "asked": str | None,
    "algorithm": str | None,
    "parameters": dict | None, "seed": int | None,
    "data": dict, **{f"data.{name}": int for name in Counts._fields},
    "data.table_sha256": str | None, "data.sources": list,
    "catalog": dict | None, "model": dict, "model.global_mean": float | int,
    "model.rating_scale": list, "metrics": list, "gate": dict | None, "files": list,
    "versions": dict, "versions.numpy": str, "versions.scikit-surprise": str,
}  # fmt: skip
"""The parts that a reader relies on, and their types."""
_ENTRIES: dict[str, dict[str, Any]] = {
    "data.sources": {"name": str, "dropped": dict},
    "metrics": {},
    "files": {"name": str, "bytes": int, "sha256": str},
}
"""The same for the entries of those that are lists."""
_MISSING = object()


def is_build_id(text: str) -> bool:
    """Return whether `text` can be a build's id, see `writing.make_build_id`."""
    return bool(_BUILD_ID.fullmatch(text))


def counts_of(manifest: Mapping[str, Any]) -> Counts:
    """Return the counts in a manifest."""
    return Counts(**{name: manifest["data"][name] for name in Counts._fields})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a release's folder.

    Raises:
        DamagedReleaseError: it is missing, or not what a build writes.
        NewerReleaseError: it has a higher schema version.
    """
    path = folder / MANIFEST_FILE
    try:
        check_file(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DamagedReleaseError(f"{path} is missing") from None
    except (ValueError, RecursionError):
        if is_lfs_pointer(path):
            raise DamagedReleaseError(f"{path} is {LFS_POINTER}") from None
        raise DamagedReleaseError(f"{path} is not JSON: cut, or from another program") from None
    schema = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(schema, int):
        raise DamagedReleaseError(f"{path} is not a manifest: it has no schema_version")
    if schema > SCHEMA_VERSION:
        raise NewerReleaseError(
            f"{path} has schema version {schema}, this code reads up to {SCHEMA_VERSION}: "
            f"update the code, or choose an older release with {TOOL} rollback ID"
        )
    wrong = _first_wrong(found)
    if wrong:
        raise DamagedReleaseError(f"{path} is not what a build writes: look at {wrong!r}")
    if is_build_id(folder.name) and folder.name != found["build_id"]:
        raise DamagedReleaseError(f"{path} is of another release, {found['build_id']}")
    return dict(found)


def _first_wrong(manifest: dict[str, Any]) -> str | None:
    """Return the first part that is missing or of another type than a reader relies on."""
    for name, kind in PARTS.items():
        if not isinstance(_part(manifest, name), kind):
            return name
    for name, kinds in _ENTRIES.items():
        for entry in _part(manifest, name):
            if not isinstance(entry, dict) or not all(
                isinstance(entry.get(key, _MISSING), kind) for key, kind in kinds.items()
            ):
                return name
    scale, mean = manifest["model"]["rating_scale"], manifest["model"]["global_mean"]
    is_scale = [type(bound) in (float, int) for bound in scale] == [True, True]
    sound = {
        "build_id": is_build_id(manifest["build_id"]),
        "metrics": all(
            type(rmse := score.get("rmse", 0)) in (float, int) and 0 <= rmse < MAX_NUMBER
            for score in manifest["metrics"]
        ),
        "model.rating_scale": is_scale and -MAX_NUMBER < scale[0] < scale[1] < MAX_NUMBER,
        "model.global_mean": is_scale and scale[0] <= mean <= scale[1],  # NaN is not
        "files": all(_FILE_NAME.fullmatch(entry["name"]) for entry in manifest["files"]),
    }
    return next((name for name, is_sound in sound.items() if not is_sound), None)


def _part(manifest: dict[str, Any], name: str) -> Any:
    """Return a part of a manifest by its path with dots, whose first steps are there."""
    part: Any = manifest
    for key in name.split("."):
        part = part.get(key, _MISSING)
    return part

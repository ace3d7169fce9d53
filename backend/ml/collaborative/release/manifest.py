"""The manifest of a release: what it was made of and how, how good it is, and its files."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import DamagedReleaseError, NewerReleaseError
from ..ratings import SAMPLE_PREFIX, Counts, is_app_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surprise import SVD, Trainset

    from ..evaluation.protocol import Score

SCHEMA_VERSION = 1
"""Of what a release is; a reader refuses a higher one. `manifest.schema.json` describes it."""
MANIFEST_FILE = "manifest.json"
LIBRARIES = ("numpy", "scikit-surprise", "pandas", "numba", "joblib")

_BUILD_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_FILE_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
"""Of a file inside the release: it leads nowhere else, on any platform."""


_PARTS: dict[str, Any] = {
    "build_id": str, "created": str, "git_commit": str | None, "algorithm": str | None,
    "parameters": dict | None, "tuning": dict | None, "seed": int | None,
    "data": dict, **{f"data.{name}": int for name in Counts._fields},
    "data.table_sha256": str | None, "data.sources": list,
    "catalog": dict | None, "model": dict, "model.global_mean": float | int,
    "model.rating_scale": list, "metrics": list, "gate": dict | None, "files": list,
    "versions": dict, "versions.numpy": str, "versions.scikit-surprise": str,
}  # fmt: skip
"""What a reader relies on, and its type."""
_ENTRIES: dict[str, dict[str, Any]] = {
    "data.sources": {"name": str, "dropped": dict},
    "metrics": {},
    "files": {"name": str, "bytes": int, "sha256": str},
}
"""The same of the entries of those that are lists."""
_MISSING = object()


def is_build_id(text: str) -> bool:
    """Whether `text` can be a build's id, see `_make_build_id`."""
    return bool(_BUILD_ID.fullmatch(text))


def count(trainset: Trainset) -> Counts:
    """Return the counts of a trainset."""
    import numpy as np
    import pandas as pd

    from .arrays import rated, raw_ids

    users = pd.Series(list(map(str, raw_ids(trainset)[0])), dtype=str)
    of_app = is_app_user(users).to_numpy()
    ratings = np.diff(rated(trainset)[0])
    return Counts(
        trainset.n_ratings,
        trainset.n_users,
        trainset.n_items,
        int(ratings[of_app].sum()),
        int(of_app.sum()),
        bool(users.str.startswith(SAMPLE_PREFIX).all()),
    )


def counts_of(manifest: Mapping[str, Any]) -> Counts:
    """The counts that a manifest tells."""
    return Counts(**{name: manifest["data"][name] for name in Counts._fields})


def draft_manifest(
    svd: SVD,
    trainset: Trainset,
    *,
    algorithm: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    seed: int | None = None,
    data: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    gate: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    shape: str | None = None,
) -> dict[str, Any]:
    """All of a new build's manifest but its files; nothing in it is secret or a person's.

    What the one who publishes does not know of the model is null: `manifest.schema.json` says
    what each part means.
    """
    now = datetime.now(UTC)
    return {
        "schema_version": SCHEMA_VERSION,
        "build_id": _make_build_id(now),
        "created": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "git_commit": _git_commit(),
        "algorithm": algorithm,
        "parameters": parameters,
        "tuning": tuning,
        "seed": seed,
        "data": {**count(trainset)._asdict(), **(data or {"table_sha256": None, "sources": []})},
        "catalog": catalog,
        "model": {
            "factors": int(svd.qi.shape[1]),
            "global_mean": float(trainset.global_mean),
            "rating_scale": [float(bound) for bound in trainset.rating_scale],
            **({"shape": shape} if shape else {}),
        },
        "metrics": list(metrics),
        "gate": gate,
        "files": [],
        "versions": versions or installed_versions(),
    }


def _make_build_id(now: datetime) -> str:
    """Date and time (UTC), the microsecond in five hexadecimal digits, a random one.

    So ids are in order of time, also of two builds in one second.
    """
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.randbelow(16):x}"


def describe_scores(evaluations: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """The manifest's `metrics`: each score with how it was measured.

    Args:
        evaluations: scores by the way to hold out.
    """
    return [
        {"held_out": way, **{k: v for k, v in asdict(score).items() if k != "measures"},
         **{name: value for name, value in asdict(score.measures).items() if value is not None}}
        for way, scores in evaluations.items()
        for score in scores
    ]  # fmt: skip


def installed_versions() -> dict[str, str]:
    """Of Python, the libraries a build depends on, and this project."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries, "ml": __version__}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a release's folder.

    Raises:
        DamagedReleaseError: it is missing, or not what a build writes.
        NewerReleaseError: it is of a higher schema version.
    """
    path = folder / MANIFEST_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DamagedReleaseError(f"{path} is missing") from None
    except (ValueError, RecursionError):
        raise DamagedReleaseError(f"{path} is not JSON: it is cut or of another program") from None
    schema = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(schema, int):
        raise DamagedReleaseError(f"{path} is not a manifest: it has no schema_version")
    if schema > SCHEMA_VERSION:
        raise NewerReleaseError(
            f"{path} is of schema {schema}, and this version of ml reads up to {SCHEMA_VERSION}: "
            "update the code, or go back to an older release with --rollback ID"
        )
    wrong = _first_wrong(found)
    if wrong:
        raise DamagedReleaseError(f"{path} is not what a build writes: look at {wrong!r}")
    if is_build_id(folder.name) and folder.name != found["build_id"]:
        raise DamagedReleaseError(f"{path} is of another release, {found['build_id']}")
    return dict(found)


def write_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of `manifest.json`."""
    return (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()


def _first_wrong(manifest: dict[str, Any]) -> str | None:
    """The first part that is missing or of another type than a reader relies on."""
    for name, kind in _PARTS.items():
        if not isinstance(_part(manifest, name), kind):
            return name
    for name, kinds in _ENTRIES.items():
        for entry in _part(manifest, name):
            if not isinstance(entry, dict) or not all(
                isinstance(entry.get(key, _MISSING), kind) for key, kind in kinds.items()
            ):
                return name
    scale = manifest["model"]["rating_scale"]
    sound = {
        "build_id": is_build_id(manifest["build_id"]),
        "metrics": all(isinstance(s.get("rmse", 0), float | int) for s in manifest["metrics"]),
        "model.rating_scale": [isinstance(bound, float | int) for bound in scale] == [True, True],
        "files": all(_FILE_NAME.fullmatch(entry["name"]) for entry in manifest["files"]),
    }
    return next((name for name, is_sound in sound.items() if not is_sound), None)


def _part(manifest: dict[str, Any], name: str) -> Any:
    """A part of a manifest by its path with dots, whose first steps are there."""
    part: Any = manifest
    for key in name.split("."):
        part = part.get(key, _MISSING)
    return part


def _git_commit() -> str | None:
    """Of the repository that this file is in; None where there is none, or no git."""
    env = {name: value for name, value in os.environ.items() if name != "GIT_DIR"}  # of a hook
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],  # noqa: S607  git as found on the path
            cwd=Path(__file__).parent, env=env, capture_output=True, text=True, timeout=10,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    commit = done.stdout.strip()
    return commit if re.fullmatch("[0-9a-f]{40,64}", commit) else None

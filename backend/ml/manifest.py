"""The manifest of a release: what it was made of and how, how good it is, and its files."""

from __future__ import annotations

import json
import platform
import re
import secrets
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from . import __version__
from .errors import DamagedReleaseError, InputError, NewerReleaseError
from .ratings import is_app_user
from .sample import USER_PREFIX as SAMPLE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surprise import SVD, Trainset

    from .evaluation import Score

SCHEMA_VERSION = 1
"""Of what a release is; a reader refuses a higher one. `manifest.schema.json` describes it."""
MANIFEST_FILE = "manifest.json"
LIBRARIES = ("numpy", "scikit-surprise", "pandas", "numba", "joblib")

_BUILD_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_PARTS = {
    "build_id": str, "created": str, "data": dict, "model": dict, "metrics": list, "files": list,
    "versions": dict,
}  # fmt: skip
"""What a reader relies on, and its type."""


class Counts(NamedTuple):
    """How much a model was trained on."""

    ratings: int
    users: int
    films: int
    app_ratings: int
    app_users: int
    is_sample: bool
    """Whether all users are of the generated sample."""


def is_build_id(text: str) -> bool:
    """Whether `text` can be a build's id: date, time (UTC) and six random hexadecimal digits."""
    return bool(_BUILD_ID.fullmatch(text))


def count(trainset: Trainset) -> Counts:
    """The counts of a trainset.

    Raises:
        InputError: it is that of a loaded model, without its ratings.
    """
    import numpy as np
    import pandas as pd

    from .trainset import ArrayTrainset, IdTrainset

    if isinstance(trainset, IdTrainset) and not isinstance(trainset, ArrayTrainset):
        raise InputError("this trainset has no ratings: give the one from cf_trainset.pkl")
    users = pd.Series([str(trainset.to_raw_uid(user)) for user in trainset.all_users()], dtype=str)
    of_app = is_app_user(users).to_numpy()
    if isinstance(trainset, ArrayTrainset):
        rated = np.diff(trainset.by_user.starts)
    else:
        rated = np.array([len(trainset.ur[user]) for user in trainset.all_users()])
    return Counts(
        trainset.n_ratings,
        trainset.n_users,
        trainset.n_items,
        int(rated[of_app].sum()),
        int(of_app.sum()),
        bool(users.str.startswith(SAMPLE_PREFIX).all()),
    )


def counts_of(manifest: Mapping[str, Any]) -> Counts:
    """The counts that a manifest tells.

    Raises:
        DamagedReleaseError: it does not.
    """
    try:
        return Counts(**{name: manifest["data"][name] for name in Counts._fields})
    except KeyError as error:
        raise DamagedReleaseError(f"{MANIFEST_FILE} lacks data.{error.args[0]}") from None


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
) -> dict[str, Any]:
    """All of a new build's manifest but its files; nothing in it is secret or a person's.

    What the one who publishes does not know of the model is null: `manifest.schema.json` says
    what each part means.
    """
    now = datetime.now(UTC)
    return {
        "schema_version": SCHEMA_VERSION,
        "build_id": f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
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
        },
        "metrics": list(metrics),
        "gate": gate,
        "files": [],
        "versions": installed_versions(),
    }


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
    except FileNotFoundError:
        raise DamagedReleaseError(f"{path} is missing") from None
    except ValueError:
        raise DamagedReleaseError(f"{path} is not JSON: it is cut or of another program") from None
    schema = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(schema, int):
        raise DamagedReleaseError(f"{path} is not a manifest: it has no schema_version")
    if schema > SCHEMA_VERSION:
        raise NewerReleaseError(
            f"{path} is of schema {schema}, and this version of ml reads up to {SCHEMA_VERSION}: "
            "update the code, or go back to an older release with --rollback"
        )
    wrong = [name for name, kind in _PARTS.items() if not isinstance(found.get(name), kind)]
    wrong += [name for name in ("build_id",) if not is_build_id(str(found.get(name)))]
    wrong += ["files" for entry in found.get("files") or [] if not _is_file_entry(entry)]
    if wrong:
        raise DamagedReleaseError(f"{path} is not what a build writes: look at {wrong[0]!r}")
    return dict(found)


def write_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of `manifest.json`."""
    return (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()


def _is_file_entry(entry: object) -> bool:
    """Whether it names a file inside the release, its size and its hash."""
    if not isinstance(entry, dict):
        return False
    name, size, digest = (entry.get(key) for key in ("name", "bytes", "sha256"))
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(digest, str)):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _git_commit() -> str | None:
    """Of the repository that this file is in; None where there is none, or no git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],  # noqa: S607  git as found on the path
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    commit = done.stdout.strip()
    return commit if re.fullmatch("[0-9a-f]{40,64}", commit) else None

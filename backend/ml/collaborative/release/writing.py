"""Write one release: complete on the disk under its name, or not there at all."""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError
from ..files import make_folder, mode_for, set_mode, sha256, sync_folder
from ..ratings import SAMPLE_PREFIX, Counts, is_app_user
from .arrays import model_arrays, rated, raw_ids
from .manifest import (
    ARRAYS,
    ITEM_ONLY,
    MANIFEST_FILE,
    MODEL_FILE,
    REPORT_FILE,
    SCHEMA_VERSION,
    TRAINSET_FILE,
)
from .versions import installed_versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from surprise import SVD, Trainset

T = TypeVar("T")


def count(trainset: Trainset) -> Counts:
    """Return the counts of a trainset."""
    import numpy as np
    import pandas as pd

    users = pd.Series(list(map(str, raw_ids(trainset)[0])), dtype=str)
    of_app = is_app_user(users).to_numpy()
    ratings = np.diff(rated(trainset)[0])
    return Counts(
        trainset.n_ratings,
        trainset.n_users,
        trainset.n_items,
        int(ratings[of_app].sum()),
        int(of_app.sum()),
        bool(len(users) and users.str.startswith(SAMPLE_PREFIX).all()),
    )


def draft_manifest(
    svd: SVD,
    trainset: Trainset,
    *,
    asked: str | None = None,
    algorithm: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int | None = None,
    data: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    gate: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    shape: str | None = None,
) -> dict[str, Any]:
    """Return all of a new build's manifest but its files; nothing in it is secret or personal.

    What the caller does not know of the model is null: `schema.Manifest` says what each part means.
    """
    now = datetime.now(UTC)
    shape = shape or (None if trainset.n_users else ITEM_ONLY)
    return {
        "schema_version": SCHEMA_VERSION,
        "build_id": make_build_id(now),
        "created": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "git_commit": _git_commit(),
        "asked": asked,
        "algorithm": algorithm,
        "parameters": parameters,
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


def make_build_id(now: datetime) -> str:
    """Return date and time (UTC), the microsecond in five hexadecimal digits, a random one."""
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.randbelow(16):x}"


def describe_scores(evaluations: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the manifest's `metrics`: each score with how it was measured.

    Args:
        evaluations: scores by the way to hold out; each a dataclass whose `measures` is one, too.
    """
    return [
        {"held_out": way, **{k: v for k, v in asdict(score).items() if k != "measures"},
         **{name: value for name, value in asdict(score.measures).items() if value is not None}}
        for way, scores in evaluations.items()
        for score in scores
    ]  # fmt: skip


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of `manifest.json`, once it is as `schema.Manifest` declares it.

    Raises:
        InputError: it is not.
    """
    from pydantic import ValidationError

    from .schema import Manifest

    written = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    try:
        Manifest.model_validate_json(written, strict=True)
    except ValidationError as error:
        raise InputError(f"the build's manifest is not as declared: {error}") from None
    return written.encode()


def _git_commit() -> str | None:
    """Return the commit of the repository that this file is in; None without one."""
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


def write_release(
    parent: Path,
    draft: Mapping[str, Any],
    svd: SVD,
    trainset: Trainset,
    *,
    report: str | None = None,
    held_out: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write a release to the folder `parent/ID`, which is there once it is whole on the disk.

    Args:
        parent: of the release's folder; made if need be.
        draft: see `draft_manifest`; the files are added to it.
        svd: the model.
        trainset: what it was trained on, with its ratings.
        report: the page about the build.
        held_out: see `held_out.HoldOut.rows`.

    Raises:
        InputError: see `arrays.model_arrays`; or the draft is not as `schema.Manifest` declares it.
        OSError: it could not be written; nothing of it is left.
    """
    import joblib

    make_folder(parent)
    build_id: str = draft["build_id"]
    plain, rows = _with_id(svd, build_id), _with_id(trainset, build_id)
    plain.trainset = rows
    vars(plain).pop("parts", None)  # they lie in arrays: pickles name no class of ours for them
    arrays = model_arrays(svd, trainset)
    temporary = parent / f".{build_id}.tmp"
    temporary.mkdir(mode=0o700)  # until its files have their modes
    try:
        (temporary / ARRAYS).mkdir()
        joblib.dump(plain, temporary / MODEL_FILE)
        joblib.dump(rows, temporary / TRAINSET_FILE)
        for name, array in arrays.items():
            _write_array(temporary / ARRAYS / f"{name}.npy", array)
        for name, rows in (held_out or {}).items():
            _write_array(temporary / f"{name}.npy", rows)
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
        manifest.write_bytes(_manifest_bytes({**draft, "files": entries}))
        for path in (*paths, manifest):
            set_mode(path, mode_for(parent))
            _sync_file(path)
        for folder in (temporary / ARRAYS, temporary):
            set_mode(folder, mode_for(parent))
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
    """Return a shallow copy that has the build's id."""
    twin = copy.copy(thing)
    twin.build_id = build_id  # type: ignore[attr-defined]
    return twin


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """Write as `numpy.save` does, but on a full disk the error says that it is full."""
    from numpy.lib import format as npy

    with path.open("wb") as file:
        # To what has no descriptor NumPy writes with `write`, which raises the system's own error.
        npy.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

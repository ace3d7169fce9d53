"""A small model to publish, and what is found in a folder that it is published to."""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import joblib
import pytest
from helpers import PUBLISHED
from joblib.numpy_pickle import NumpyUnpickler

from ml.build_collaborative import train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.release import (
    MODEL_FILE,
    TRAINSET_FILE,
    ReleaseStore,
    draft_manifest,
    load_models,
)
from ml.collaborative.release.cleaning import LEFT_BEHIND
from ml.collaborative.release.history import History

FILES = {".lock", "live", "releases", *PUBLISHED}
"""What is in a models folder that has a release, without a report."""


class Model(NamedTuple):
    """What is published."""

    pair: tuple[Any, Any]
    draft: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Model:
        """What is in two plain pickles; all that publishing needs is imported by then."""
        svd, trainset = (joblib.load(folder / name) for name in (MODEL_FILE, TRAINSET_FILE))
        with TemporaryDirectory() as trial:
            ReleaseStore(Path(trial)).publish(svd, trainset)
            load_models(trial)
        return cls((svd, trainset), draft_manifest(svd, trainset))

    def publish(self, models: Path, build_id: str, **how: Any) -> None:
        """Publish it under this build id."""
        ReleaseStore(models).publish(*self.pair, draft=self.draft | {"build_id": build_id}, **how)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and its trainset, as they were before there were releases."""
    folder = tmp_path_factory.mktemp("plain")
    svd, trainset = train_svd_model(sample_ratings().head(300), epochs=1, factors=2)
    joblib.dump(svd, folder / MODEL_FILE)
    joblib.dump(trainset, folder / TRAINSET_FILE)
    return folder


@pytest.fixture(scope="session")
def model(plain: Path) -> Model:
    """The same, loaded."""
    return Model.load(plain)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill loses nothing of it, and a sync is quick."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture(params=["links", "copies"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether hard links are not available."""
    if request.param == "copies":
        monkeypatch.setattr(os, "link", refuse_links)
    return bool(request.param == "copies")


def ids_at_fixed_paths(models: Path) -> tuple[str | None, str | None]:
    """Build ids of the model and the trainset at the fixed paths, each loaded whole.

    None where the file is missing or has no id.
    """

    def load(name: str) -> str | None:
        try:
            return getattr(joblib.load(models / name), "build_id", None)
        except FileNotFoundError:
            return None

    return load(MODEL_FILE), load(TRAINSET_FILE)


def ids_loaded(models: Path) -> set[str]:
    """Build ids in what the project's own loader says is one build."""
    svd, trainset = load_models(models)
    return {svd.build_id, svd.trainset.build_id, trainset.build_id}


def unfinished(models: Path) -> set[Path]:
    """What publishes that were stopped have left, and releases whose removal was stopped."""
    return {*models.glob("releases/.*.tmp"), *models.glob(".*.tmp")}


def age(paths: set[Path]) -> None:
    """Let it be more than an hour ago that these were left."""
    then = time.time() - LEFT_BEHIND - 10
    for path in paths:
        os.utime(path, (then, then), follow_symlinks=False)


def tell(*command: str | Path) -> str:
    """Run a command; why it failed, if it did."""
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "no reason given" if done.returncode else ""


def assert_live(models: Path, build_id: str) -> None:
    """It is live for all who look, its switch is logged, and nothing unfinished is left."""
    assert ReleaseStore(models).live_id() == build_id
    assert ids_loaded(models) == {build_id}
    assert ids_at_fixed_paths(models) == (build_id, build_id)
    assert History(models).lines()[-1]["build_id"] == build_id
    assert {path.name for path in models.iterdir()} == FILES
    assert {path.name for path in models.glob("releases/*")} == {*ReleaseStore(models).build_ids()}


def new_id() -> str:
    """A build id of this very moment."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.randbelow(16):x}"


def refuse_links(*_: Any, **__: Any) -> None:
    """Fail as `os.link` does on a file system without links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def names_in(path: Path) -> set[str]:
    """What a joblib dump asks for, as MODULE.NAME, in its own bytes."""
    names, find = set(), NumpyUnpickler.find_class

    def find_class(self: Any, module: str, name: str) -> Any:
        names.add(f"{module}.{name}")
        return find(self, module, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NumpyUnpickler, "find_class", find_class)
        joblib.load(path)
    return names

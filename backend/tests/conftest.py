"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from helpers import BACKEND
from warm_scripts import SUPPORTED, WarmScripts

from ml.collaborative.algorithms.loops.gibbs import compiled_side
from ml.collaborative.algorithms.loops.sgd import compiled_epoch
from ml.collaborative.datasets import movielens

pytest_plugins = ("app_source", "postgrest_server", "published", "spark_cluster", "web_server")


CLOSED = "http://127.0.0.1:9"
"""A proxy where nothing listens: as good as no network."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the loops before there are workers, so that these do not do it twice."""
    if not hasattr(session.config, "workerinput") and session.config.getoption("numprocesses"):
        compiled_side()
        for ratings_type in ("float32", "float64"):
            compiled_epoch(ratings_type)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real archives."""
    for item in items:
        if "movielens_archives" in getattr(item, "fixturenames", ()):
            item.add_marker("realdata")


@pytest.fixture(scope="session")
def movielens_archives() -> Path:
    """A folder with the real `ml-100k.zip` and `ml-latest-small.zip`; skips where there is none."""
    folder = Path(os.environ.get("MOVIELENS_BASE_URL", "").removeprefix("file://"))
    if not (folder / "ml-100k.zip").is_file():
        pytest.skip("no real MovieLens archives: set MOVIELENS_BASE_URL to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def script_env() -> dict[str, str]:
    """The environment of a script under test: no network, no settings of this machine's user."""
    env = dict(os.environ, http_proxy=CLOSED, https_proxy=CLOSED, no_proxy="127.0.0.1,localhost")
    # Set but empty: wins over a developer's backend/.env, and counts as not set.
    return env | {
        "SUPABASE_URL": "",
        "SUPABASE_SERVICE_ROLE_KEY": "",
        "SUPABASE_DB_URL": "",
        "MOVIELENS_BASE_URL": "",
    }


@pytest.fixture(scope="session")
def start(script_env: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start `python -m MODULE ARGS…` in `backend/`; keywords are further environment variables."""

    def start(module: str, *args: str | Path, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, args)],
            cwd=BACKEND,
            env=script_env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background ignores Ctrl-C, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture(scope="session")
def warm_scripts(script_env: dict[str, str]) -> Iterator[WarmScripts | None]:
    """What runs the scripts without a second of imports each, where that is safe."""
    if SUPPORTED:
        with closing(WarmScripts(script_env)) as warm:
            yield warm
    else:
        yield None


@pytest.fixture(scope="session")
def run(
    start: Callable[..., subprocess.Popen[str]],
    script_env: dict[str, str],
    warm_scripts: WarmScripts | None,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `start`, but run to the end."""

    def run(module: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        # Python reads its own variables when it starts.
        if warm_scripts and not any(name.startswith("PYTHON") for name in env):
            return warm_scripts.run(module, [*map(str, args)], script_env | env, 120)
        process = start(module, *args, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def real_ratings(
    movielens_archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    """All of ML-100K, mapped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
        return movielens.load("ml-100k", tmp_path_factory.mktemp("data"), None).ratings

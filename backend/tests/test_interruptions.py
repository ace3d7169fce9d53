"""Ctrl-C, kill -9, a full disk and a second build at any step: nothing is lost, nothing half."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from app_source import socket_path
from helpers import BACKEND, PUBLISHED, contents, interrupt
from postgres_relay import Relay
from postgrest_server import Slow, SupabaseServer

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

Start = Callable[..., subprocess.Popen[str]]
BUILD = "ml.build_collaborative"
SLOW = ("--dataset", "sample", "--epochs", "3000")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with a small published model."""
    save_models(*train_svd_model(sample_ratings().head(500), epochs=1), str(tmp_path))
    return tmp_path


def wait_for(process: subprocess.Popen[str], said: str) -> None:
    """Read the process's log until it has said `said`."""
    assert process.stderr is not None
    for line in process.stderr:
        if said in line:
            return
    pytest.fail(f"the process ended without saying {said!r}")


def test_ctrl_c_ends_with_one_clear_line_and_keeps_the_model(start: Start, models: Path) -> None:
    before = contents(models)
    process = start(BUILD, *SLOW, "--models-dir", models)
    wait_for(process, "training on")
    _, said = interrupt(process)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted; nothing is half-written"
    assert "Traceback" not in said
    assert contents(models) == before


def test_ctrl_c_while_sampling_does_not_wait_for_the_chains(start: Start, models: Path) -> None:
    """Of four chains of 400 samples each, few samples come after it."""
    code = (
        "import os, numpy as np, pandas as pd; "
        "from ml.collaborative.algorithms.bayesian import Schedule, fit_bayesian; "
        "from ml.collaborative.trainset import make_trainset; "
        "from ml.collaborative.ratings import make_ratings; "
        "r = np.random.default_rng(0); n = 300_000; "
        "t = make_trainset(make_ratings(r.integers(0, 500, n).astype(str), "
        "r.integers(1, 500, n), r.integers(1, 6, n))); "
        "fit_bayesian(t, factors=10, seed=0, schedule=Schedule(4, 400, 0), "
        "watch=lambda *_: os.write(1, b'sample\\n'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=BACKEND, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "sample\n"
    rest, said = interrupt(process)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert rest.count("sample") < 200


@pytest.mark.parametrize("asked", [0, 3], ids=["first request", "pages"])
def test_ctrl_c_while_reading_app_ratings_keeps_the_model(
    start: Start, models: Path, supabase_server: SupabaseServer, movielens_archives: Path,
    asked: int,
) -> None:  # fmt: skip
    before = contents(models)
    supabase_server.insert([(f"u{user}", 11, 4) for user in range(50)])
    supabase_server.max_rows = 10
    supabase_server.faults = [*[None] * asked, Slow(3.0)]
    process = start(
        BUILD, "--catalog", "all", "--models-dir", models, "--data-dir", models / "data",
        MOVIELENS_BASE_URL=str(movielens_archives), SUPABASE_URL=supabase_server.url,
        SUPABASE_SERVICE_ROLE_KEY=supabase_server.service_key,
    )  # fmt: skip
    wait_for(process, "reading the app's ratings")
    while len(supabase_server.requests) <= asked:
        assert process.poll() is None
    _, said = interrupt(process)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert {name: b for name, b in contents(models).items() if name in before} == before


def test_ctrl_c_while_postgres_is_silent_keeps_the_model(
    start: Start, models: Path, supabase_server: SupabaseServer, movielens_archives: Path
) -> None:
    before = contents(models)
    with Relay(socket_path(supabase_server.database), after=300, then="stall") as relay:
        process = start(
            BUILD, "--catalog", "all", "--models-dir", models, "--data-dir", models / "data",
            MOVIELENS_BASE_URL=str(movielens_archives), SUPABASE_DB_URL=relay.url(),
        )  # fmt: skip
        relay.stalled.wait(60)
        _, said = interrupt(process)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert {name: b for name, b in contents(models).items() if name in before} == before


@pytest.mark.slow
def test_kill_9_while_training_keeps_the_model_and_the_next_build_works(
    start: Start, models: Path
) -> None:
    before = contents(models)
    process = start(BUILD, *SLOW, "--models-dir", models)
    wait_for(process, "training on")
    process.kill()
    process.communicate(timeout=60)
    assert contents(models) == before
    again = start(BUILD, "--dataset", "sample", "--models-dir", models)
    _, said = again.communicate(timeout=60)
    assert again.returncode == 0
    assert "waiting" not in said  # the dead process's lock does not block


def test_kill_9_while_saving_leaves_whole_files_and_the_next_build_cleans_up(
    start: Start, models: Path
) -> None:
    """Killed as soon as a temporary file is seen: each file is the old one or the new one."""
    before = contents(models)
    process = start(BUILD, "--dataset", "sample", "--factors", "4000", "--epochs", "1",
                    "--force-publish", "--models-dir", models)  # fmt: skip
    while process.poll() is None and not list(models.glob("releases/.*.tmp")):
        pass
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for name in ("svd_model.pkl", "cf_trainset.pkl"):
        loaded = joblib.load(models / name)
        old = (models / name).read_bytes() == before[name]
        trainset = loaded if name == "cf_trainset.pkl" else loaded.trainset
        assert old or trainset.n_ratings == 26_765
    again = start(BUILD, "--dataset", "sample", "--models-dir", models)
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert set(contents(models)) == PUBLISHED


def test_a_full_disk_is_one_clear_line_and_keeps_the_model(
    models: Path, script_env: dict[str, str]
) -> None:
    """Files may not grow over 100 kB: the write fails in the middle, as on a full disk."""
    before = contents(models)
    done = subprocess.run(
        [sys.executable, "-m", BUILD, "--dataset", "sample", "--models-dir", models],
        cwd=BACKEND, env=script_env, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: File too large")
    assert "Traceback" not in done.stderr
    assert contents(models) == before


def test_a_second_build_waits_for_the_first_and_says_so(start: Start, models: Path) -> None:
    first = start(BUILD, "--dataset", "sample", "--models-dir", models)
    wait_for(first, "training on")
    first.send_signal(signal.SIGSTOP)
    second = start(BUILD, "--dataset", "sample", "--factors", "3", "--models-dir", models,
                   "--force-publish")  # fmt: skip
    waiting = f"another process is writing to {models}: waiting until it is done"
    wait_for(second, f"{waiting} (process {first.pid}")
    first.send_signal(signal.SIGCONT)
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert joblib.load(models / "svd_model.pkl").n_factors == 3
    assert joblib.load(models / "cf_trainset.pkl").n_ratings == 26_765

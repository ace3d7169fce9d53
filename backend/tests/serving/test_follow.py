"""The thread that follows releases: no error ends it, and it says how it is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import BACKEND
from surprise import SVD, Trainset

from benchmarks.service_load import wait_until
from ml.build_collaborative import train_svd_model
from ml.collaborative import RequestError, load_collaborative
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.release import ReleaseStore
from ml.collaborative.serving import CollaborativeModel, FollowerState, ReleaseFollower, follow

Base = tuple[SVD, Trainset]
SOON = 0.02


@pytest.fixture(scope="module")
def bases() -> list[Base]:
    table = sample_ratings().head(300)
    return [train_svd_model(table, epochs=1, factors=2, seed=seed) for seed in (0, 1)]


@pytest.fixture
def models(tmp_path: Path, bases: list[Base]) -> Path:
    ReleaseStore(tmp_path).publish(*bases[0])
    return tmp_path


@pytest.fixture
def model(models: Path) -> CollaborativeModel:
    return load_collaborative(models)


@pytest.fixture(autouse=True)
def all_threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "follow-releases"]


def wait_for(follower: ReleaseFollower, done: Callable[[FollowerState], bool], what: str) -> None:
    wait_until(lambda: done(follower.state), what)


def test_each_new_release_is_loaded(model: CollaborativeModel, bases: list[Base]) -> None:
    models = model._store.models_dir
    with model.follow(SOON) as follower:
        assert follower.model is model
        assert follower.state.release == model.snapshot.build_id
        for base in bases:
            new = ReleaseStore(models).publish(*base).name
            wait_for(follower, lambda state, new=new: state.release == new, "the release")
            assert model.snapshot.build_id == new
        old, _ = ReleaseStore(models).roll_back()
        wait_for(follower, lambda state: state.release == old, "the older release")
        state = follower.state
        assert (state.status, state.error, state.alive) == ("ok", None, True)
        assert state.checked is not None


class Twice(BaseException):
    """An error that is no Exception, and has no text."""

    def __str__(self) -> str:
        raise MemoryError


@pytest.mark.parametrize(
    ("error", "said", "callback"),
    [
        (MemoryError(), "MemoryError", "none"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error", "good"),
        (SystemExit(3), "SystemExit: 3", "bad"),
        (Twice(), "Twice", "bad"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_error_ends_it_whatever_on_error_does(
    model: CollaborativeModel, bases: list[Base], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, error: BaseException, said: str, callback: str,
) -> None:  # fmt: skip
    def fail() -> bool:
        raise error

    told: list[BaseException] = []

    def tell(error: BaseException) -> None:
        told.append(error)
        if callback == "bad":
            raise SystemExit(1)

    monkeypatch.setattr(model, "reload_if_changed", fail)
    with model.follow(SOON, None if callback == "none" else tell) as follower:
        wait_for(follower, lambda state: state.status == "stale", "three failures")
        assert follower.state.error == said
        assert follower.state.alive
        monkeypatch.undo()
        new = ReleaseStore(model._store.models_dir).publish(*bases[1]).name
        wait_for(follower, lambda state: state.release == new, "the release")
        assert follower.state.error is None
        assert follower.state.status == "ok"
    assert len(told) >= 3 or callback == "none"
    assert {*told} <= {error}
    assert caplog.text.count(f"{said}; looking again in 0.02 s") == 1
    assert ("on_error failed: SystemExit: 1" in caplog.text) == (callback == "bad")


@pytest.mark.parametrize("content", [b"\xff\xfe2\0", b"", None])
def test_whatever_is_in_live_the_next_release_is_loaded(
    model: CollaborativeModel, bases: list[Base], content: bytes | None
) -> None:
    models = model._store.models_dir
    live = models / "live"
    before = model.snapshot.build_id
    with model.follow(SOON) as follower:
        if content is None:
            live.unlink()
            live.mkdir()
        else:
            live.write_bytes(content)
        wait_for(follower, lambda state: state.error is not None, "the error")
        assert follower.state.release == before
        if content is None:
            live.rmdir()
        live.write_text(before)
        new = ReleaseStore(models).publish(*bases[1]).name
        wait_for(follower, lambda state: state.release == new, "the release")
        assert follower.state.error is None


def test_before_the_first_release_it_waits_and_is_not_stale(
    tmp_path: Path, bases: list[Base]
) -> None:
    told: list[BaseException] = []
    follower = ReleaseFollower(lambda: load_collaborative(tmp_path), SOON, told.append)
    assert follower.state == FollowerState("stale", None, None, None, alive=False)
    with follower:
        wait_until(lambda: len(told) > 2 * follow.FAILURES, "some checks")
        state = follower.state
        assert (state.status, state.release, follower.model) == ("waiting", None, None)
        assert state.error is not None
        assert state.error.startswith(f"no release in {tmp_path}")
        new = ReleaseStore(tmp_path).publish(*bases[0]).name
        wait_for(follower, lambda state: state.release == new, "the release")
        assert follower.state.status == "ok"


def test_a_check_that_hangs_is_stale_and_does_not_hold_up_the_end(
    model: CollaborativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(model, "reload_if_changed", ended.wait)
    monkeypatch.setattr(follow, "GRACE", 0.0)
    monkeypatch.setattr(follow, "PATIENCE", 0.0)
    with model.follow(SOON) as follower:
        wait_for(follower, lambda state: state.status == "stale", "lateness")
        assert follower.state.alive
    ended.set()
    wait_for(follower, lambda state: not state.alive, "the end of the thread")


def test_it_starts_and_stops_as_often_as_asked(model: CollaborativeModel) -> None:
    follower = model.follow(3600)
    for _ in range(3):
        assert follower.start() is follower
        assert follower.state.alive
        assert [t.name for t in threading.enumerate()].count("follow-releases") == 1
        follower.stop()
        follower.stop()
        assert (follower.state.alive, follower.state.status) == (False, "stale")
    with model.follow(3600) as first, model.follow(3600) as second:
        first.stop()
        assert second.state.alive
    with ReleaseFollower(model, SOON, lambda _: follower.stop()):  # also from its own thread
        pass


def test_on_error_can_stop_it(model: CollaborativeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "reload_if_changed", lambda: 1 / 0)
    follower = ReleaseFollower(model, SOON, lambda _: follower.stop())
    follower.start()
    wait_for(follower, lambda state: not state.alive, "the end")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "60", None, 1e300])
def test_an_invalid_interval_is_refused(model: CollaborativeModel, seconds: object) -> None:
    with pytest.raises(RequestError, match="expected seconds as a number above 0, found"):
        model.follow(seconds)


async def nobody_awaits(_: BaseException) -> None:
    raise AssertionError


@pytest.mark.parametrize("callback", ["log", nobody_awaits])
def test_an_invalid_callback_is_refused(model: CollaborativeModel, callback: object) -> None:
    with pytest.raises(RequestError, match="expected on_error as a function that is not async"):
        model.follow(60, callback)


FORKS = """
import os, sys, time, warnings
from threading import Thread
warnings.simplefilter("ignore")
from ml.collaborative import load_collaborative
model = load_collaborative(sys.argv[1])
with model.follow(0.02) as follower:
    # As if a thread were loading: a child that waits for it would wait for ever.
    assert model._reloading.acquire(timeout=10)
    child = os.fork()
    if child:
        model._reloading.release()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    end = time.monotonic() + 20
    new = model._store.models_dir / "new"
    new.write_text(sys.argv[2])
    new.replace(new.with_name("live"))
    while follower.state.release != sys.argv[2] and time.monotonic() < end:
        time.sleep(0.01)
    user = next(iter(model.snapshot.users))
    good = follower.state.status == "ok" and follower.state.release == sys.argv[2]
    os._exit(0 if good and len(model.recommend(user)) == 10 else 7)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="Windows has no forks")
def test_a_fork_during_a_reload_leaves_a_child_that_follows(
    models: Path, bases: list[Base]
) -> None:
    other = ReleaseStore(models).live_id() or ""
    ReleaseStore(models).publish(*bases[1])
    done = subprocess.run(
        [sys.executable, "-c", FORKS, models, other], cwd=BACKEND, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_ends_without_stopping_it(models: Path) -> None:
    code = (
        "import sys; from ml.collaborative import load_collaborative\n"
        "load_collaborative(sys.argv[1]).follow(seconds=0.001)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, models], cwd=BACKEND, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

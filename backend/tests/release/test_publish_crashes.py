"""A publish that is killed at any step: one whole build is live, the one before or the new one.

The files at the fixed paths change one after the other, and tell which build they are of.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from published import FILES, Model, age, ids_at_fixed_paths, ids_loaded, new_id, unfinished
from publishers import Publisher, publishers

from ml.collaborative.errors import MissingReleaseError
from ml.collaborative.release import ReleaseStore, verify_release
from ml.collaborative.release.cleaning import LEFT_BEHIND
from ml.collaborative.release.history import History

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

KEEP = 2
STEPS = 60
"""A publish has more than so many."""
PAIR = "svd_model.pkl", "cf_trainset.pkl"


@pytest.fixture(scope="module")
def warm(plain: Path) -> Iterator[list[Publisher]]:
    """Three warm processes."""
    with publishers(plain, 3) as started:
        yield started


@pytest.fixture
def ids() -> Iterator[str]:
    """Build ids in order of time."""
    return (f"20260101-000000-{number:06x}" for number in itertools.count())


class Seen:
    """What was found after each stop, so that a test knows that it saw all there is to see."""

    def __init__(self, models: Path) -> None:
        self.models = models
        self.live: list[str | None] = []
        self.mixed = 0

    def look(self, before: str | None, new: str | None) -> str | None:
        """Releases are whole, and what is live is one of these two; returns which."""
        live = ReleaseStore(self.models).live_id()
        assert live in (before, new)
        if live:
            assert ids_loaded(self.models) == {live}
        else:
            with pytest.raises(MissingReleaseError):
                ids_loaded(self.models)
        for build_id in ReleaseStore(self.models).build_ids():
            verify_release(ReleaseStore(self.models).folder(build_id))
        fixed = ids_at_fixed_paths(self.models)
        assert set(fixed) <= {before, new}
        self.mixed += len(set(fixed)) > 1
        self.live.append("new" if live == new else "before")
        return live

    def assert_all(self, at_least: int) -> None:
        """There were so many steps, some before the switch and some after, or in its middle."""
        assert len(self.live) >= at_least
        assert set(self.live) == {"before", "new"}
        assert self.mixed


def wait_for_load(pipe: int) -> None:
    """Wait until a load has begun and ended, in a reader that writes a byte before each."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        os.read(pipe, 1 << 16)
    os.set_blocking(pipe, True)
    for _ in range(2):
        assert os.read(pipe, 1), "the reader has ended"


def young(models: Path) -> set[Path]:
    """The unfinished ones that were not aged: another host may be at work on them."""
    then = time.time() - LEFT_BEHIND
    return {path for path in unfinished(models) if path.lstat().st_mtime > then}


def assert_tidy(models: Path, live: str, *, left: set[Path]) -> None:
    """All is as if no publish had ever been stopped, but for what may be of another host."""
    assert ReleaseStore(models).live_id() == live
    assert ids_loaded(models) == {live}
    assert ids_at_fixed_paths(models) == (live, live)
    assert History(models).lines()[-1]["build_id"] == live
    assert unfinished(models) == left
    assert {path.name for path in {*models.iterdir()} - left} == FILES


@pytest.mark.slow
def test_a_first_publish_stopped_at_any_step_is_live_whole_or_not_at_all(
    in_memory: Path, warm: list[Publisher], model: Model, ids: Iterator[str], copies: bool
) -> None:
    seen = Seen(in_memory)
    for step in itertools.count(1):
        models = seen.models = in_memory / str(step)
        new, after = next(ids), next(ids)
        done = warm[0].run("publish", models, build_id=new, step=step, copies=copies)
        live = seen.look(None, new)
        if not done.killed:
            break
        left = young(models)
        model.publish(models, after)
        assert_tidy(models, after, left=left)
        log = [line["build_id"] for line in History(models).lines()]
        assert log == ([new, after] if live else [after])
    seen.assert_all(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("turns", [False, True], ids=["as before", "of the other kind"])
def test_a_publish_stopped_at_any_step_leaves_the_release_before_or_the_new_one(
    in_memory: Path,
    warm: list[Publisher],
    model: Model,
    ids: Iterator[str],
    copies: bool,
    turns: bool,
) -> None:
    """Who publishes next finds the same way back as if nothing had happened.

    Of two hosts that share a folder, one may have links where the other has none.
    """
    seen, before = Seen(in_memory), next(ids)
    model.publish(in_memory, before)
    for step in itertools.count(1):
        new, after = next(ids), next(ids)
        done = warm[0].run("publish", in_memory, build_id=new, step=step, copies=copies != turns,
                           report="a page", keep=KEEP)  # fmt: skip
        live = seen.look(before, new)
        if not done.killed:
            break
        left = young(in_memory)
        if len(set(ids_at_fixed_paths(in_memory))) > 1:
            # Who writes next repairs that, whatever else it does.
            ReleaseStore(in_memory).roll_back(str(live))
            assert ids_at_fixed_paths(in_memory) == (live, live)
        model.publish(in_memory, after, keep=KEEP)
        assert_tidy(in_memory, after, left=left)
        age(left)
        log = History(in_memory).lines()
        assert [line["build_id"] for line in log[-2:]] == [live, after]
        assert {line["action"] for line in log} == {"publish"}
        assert ReleaseStore(in_memory)._choose("") == live
        before = after
    seen.assert_all(80)


@pytest.mark.slow
def test_a_rollback_stopped_at_any_step_has_or_has_not_taken_place(
    in_memory: Path, warm: list[Publisher], model: Model, ids: Iterator[str], copies: bool
) -> None:
    seen = Seen(in_memory)
    model.publish(in_memory, next(ids))
    for step in itertools.count(1):
        before = next(ids)
        model.publish(in_memory, before)
        older = ReleaseStore(in_memory)._choose("")
        done = warm[0].run("roll_back", in_memory, step=step, copies=copies)
        live = seen.look(before, older)
        if not done.killed:
            break
        left, after = young(in_memory), next(ids)
        model.publish(in_memory, after)
        assert_tidy(in_memory, after, left=left)
        age(left)
        actions = [(line["build_id"], line["action"]) for line in History(in_memory).lines()]
        went_back = [(older, "rollback")] if live == older else []
        assert actions[-len(went_back) - 2 :] == (
            [(before, "publish"), *went_back, (after, "publish")]
        )
    seen.assert_all(15)


@pytest.mark.slow
def test_old_pickles_are_kept_beside_at_whatever_step_the_first_publish_is_stopped(
    in_memory: Path, warm: list[Publisher], plain: Path, model: Model, ids: Iterator[str],
    copies: bool,
) -> None:  # fmt: skip
    """At the fixed paths there is a model all along: theirs, then ours."""
    old = {name: (plain / name).read_bytes() for name in PAIR}
    for step in itertools.count(1):
        models = in_memory / str(step)
        shutil.copytree(plain, models)
        new, after = next(ids), next(ids)
        done = warm[0].run("publish", models, build_id=new, step=step, copies=copies)
        assert set(ids_at_fixed_paths(models)) <= {None, new}
        if not done.killed:
            break
        left = young(models)
        model.publish(models, after)
        for name in PAIR:
            assert (models / f"{name}.before").read_bytes() == old[name]
            (models / f"{name}.before").unlink()
        assert_tidy(models, after, left=left)
    assert step > 50


@pytest.mark.parametrize("size", [100, 300, 1000, 2500, 5000, 5400])
def test_a_publish_killed_in_the_middle_of_a_write_is_as_if_it_had_not_been(
    in_memory: Path,
    warm: list[Publisher],
    model: Model,
    ids: Iterator[str],
    copies: bool,
    size: int,
) -> None:
    before, new, after = next(ids), next(ids), next(ids)
    model.publish(in_memory, before)
    assert warm[0].run("publish", in_memory, build_id=new, byte=size, copies=copies).killed
    (left,) = unfinished(in_memory)
    assert max(path.stat().st_size for path in left.rglob("*.*")) == size
    assert Seen(in_memory).look(before, None) == before
    model.publish(in_memory, after)
    assert_tidy(in_memory, after, left={left})


def test_what_a_crash_left_behind_is_removed_by_the_first_publish_an_hour_later(
    in_memory: Path, warm: list[Publisher], model: Model, ids: Iterator[str]
) -> None:
    model.publish(in_memory, next(ids))
    assert warm[0].run("publish", in_memory, build_id=next(ids), byte=1000).killed
    left = unfinished(in_memory)
    model.publish(in_memory, next(ids))
    assert unfinished(in_memory) == left != set()
    age(left)
    model.publish(in_memory, next(ids))
    assert unfinished(in_memory) == set()


@pytest.mark.slow
@pytest.mark.parametrize("copies", ["links", "copies"], indirect=True)
def test_readers_find_whole_builds_while_publishers_are_killed_at_any_step(
    in_memory: Path, warm: list[Publisher], model: Model, copies: bool
) -> None:
    """They load after each kill, too: what is live then is among what they have seen."""
    publisher, *readers = warm
    draw, stop, kills = random.Random(1), in_memory / "stop", 100 if copies else 300
    models, pipes = in_memory / "models", []
    model.publish(models, new_id())
    for reader, job in zip(readers, ("read", "read_fixed"), strict=True):
        os.mkfifo(in_memory / job)
        reader.start(job, models, stop=str(stop), fifo=str(in_memory / job))
        pipes.append(os.open(in_memory / job, os.O_RDONLY))
    live: set[str | None] = set()
    fixed: set[str | None] = set()
    for _ in range(kills):
        step = draw.randint(1, 3 * STEPS)
        assert publisher.run("publish_on", models, copies=copies, step=step).killed
        for pipe in pipes:
            wait_for_load(pipe)
        live.add(ReleaseStore(models).live_id())
        fixed.update(ids_at_fixed_paths(models))
    stop.touch()
    read, read_fixed = (reader.finish().result for reader in readers)
    for pipe in pipes:
        os.close(pipe)
    left, log = unfinished(models), History(models).lines()
    print(f"{len(log)} publishes, {kills} kills, {len(left)} in the middle", read, read_fixed)
    assert read["wrong"] == read_fixed["wrong"] == []
    assert min(len(left), len(log), len(live), len(fixed)) > kills / 10
    assert read["seen"] >= len(live)
    assert read_fixed["seen"] >= len(fixed)
    last = new_id()
    age(left)
    model.publish(models, last)
    assert_tidy(models, last, left=set())

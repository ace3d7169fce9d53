"""Two hosts that publish to one folder: with links, without, and where locks do not reach both."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from published import Model, age, assert_live, new_id, tell, unfinished
from publishers import publishers

from ml.collaborative.release.live import Live

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes and mounts")

TIMES = 60
"""That each host publishes."""


def as_host(tmp_path: Path, models: Path, number: int) -> list[str]:
    """Run a command as on another host: `models/.lock` is a file of its own to it, for real."""
    lock = tmp_path / f"lock-{number}"
    lock.touch()
    bind = 'mount --bind "$0" "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, str(lock), str(models / ".lock")]


@pytest.mark.slow
@pytest.mark.parametrize("without", [(False, False), (True, True), (False, True)], ids=str)
@pytest.mark.parametrize("how", ["one lock", "two hosts", "two locks"])
def test_two_who_publish_at_once_leave_a_whole_live_release_also_where_no_lock_reaches_both(
    in_memory: Path, plain: Path, model: Model, without: tuple[bool, bool], how: str
) -> None:
    """Each publish ends well or in the system's own error; both, or one, may be without links."""
    models, stop = in_memory / "models", in_memory / "stop"
    model.publish(models, new_id())
    before: Callable[[int], list[str]] = lambda _: []  # noqa: E731
    locks = [{}, {"lock": str(in_memory / "lock")}] if how == "two locks" else [{}, {}]
    if how == "two hosts":
        before = lambda number: as_host(in_memory, models, number) if number < 2 else []  # noqa: E731
        why = tell(*before(0), "true")
        if why:
            pytest.skip(f"no mounts of a process's own here: {why}")
    with publishers(plain, 4, before) as (*hosts, reader, at_fixed_paths):
        reader.start("read", models, stop=str(stop))
        at_fixed_paths.start("read_fixed", models, stop=str(stop))
        for host, copies, lock in zip(hosts, without, locks, strict=True):
            host.start("publish_on", models, times=TIMES, copies=copies, **lock)
        one, other = (host.finish().result for host in hosts)
        stop.touch()
        read, read_fixed = reader.finish().result, at_fixed_paths.finish().result
    errors = [error for *_, error in (*one, *other) if error]
    at_once = sum(a < d and c < b for a, b, _ in one for c, d, _ in other)
    print(how, without, f"{at_once} at once, errors: {errors}", read, read_fixed)
    assert at_once > TIMES / 4
    assert all("[Errno " in error for error in errors)
    assert len(errors) < (1 if how == "one lock" else TIMES / 2)
    assert read["wrong"] == []
    assert min(read["loads"], read_fixed["loads"], read["seen"]) > TIMES / 4
    assert read_fixed["wrong"] == []
    age(unfinished(models))
    model.publish(models, last := new_id())
    assert_live(models, last)


def test_a_release_that_another_host_has_just_removed_leaves_the_files_at_the_fixed_paths(
    in_memory: Path, model: Model, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was live when this host looked, and is gone when it repairs."""
    gone, live = new_id(), new_id()
    model.publish(in_memory, gone, keep=1)
    model.publish(in_memory, live, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(Live, "live_id", lambda _: gone)
        Live(in_memory)._repair()
    assert_live(in_memory, live)


def test_what_is_live_but_cannot_be_read_is_a_warning(
    in_memory: Path, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model.publish(in_memory, live := new_id())

    def fail(_: Live) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Live, "live_id", fail)
        Live(in_memory)._repair()
    assert "a release is live, but its files are not yet in " in caplog.text
    assert_live(in_memory, live)

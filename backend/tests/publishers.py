"""Processes that publish and read, forked from a warm one, to be killed at any step.

Run as a script, this is the warm process: each line on its standard input is a job, done by a
child of its own, and each line on its standard output says how that child ended.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from helpers import BACKEND
from published import Model, ids_at_fixed_paths, ids_loaded, new_id, refuse_links

from ml.collaborative.release import ReleaseStore

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.remove", "os.fsync"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Done(NamedTuple):
    """How a job ended."""

    killed: bool
    result: Any


class Publisher:
    """The warm process, seen from the test.

    Args:
        model: a folder with a model and its trainset, as plain pickles.
        before: a command to run it with, as `unshare -m`.
    """

    def __init__(self, model: Path, before: Sequence[str] = ()) -> None:
        # The killed leave no data of coverage behind: it would only slow them down.
        env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        self.process = subprocess.Popen(
            # A fork beside threads is a warning, and here they are those of idle libraries.
            [*before, sys.executable, "-W", "ignore", __file__, str(model)],
            cwd=BACKEND,
            env=env | {"PYTHONPATH": str(BACKEND), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def start(self, job: str, models: Path, **args: Any) -> None:
        """Begin a job; see the functions of `JOBS`, and `_obey` for what goes with each."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"job": job, "models": str(models), **args}) + "\n")
        self.process.stdin.flush()

    def finish(self) -> Done:
        """How the job ended that was begun first of those not asked after."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the warm process is dead"
        return Done(*json.loads(line))

    def run(self, job: str, models: Path, **args: Any) -> Done:
        """A job from its beginning to its end."""
        self.start(job, models, **args)
        return self.finish()


@contextmanager
def publishers(
    model: Path, number: int, before: Callable[[int], Sequence[str]] = lambda _: ()
) -> Iterator[list[Publisher]]:
    """So many warm processes; none of them is left."""
    started = [Publisher(model, before(index)) for index in range(number)]
    try:
        yield started
    finally:
        for publisher in started:
            with suppress(ProcessLookupError):
                os.killpg(publisher.process.pid, signal.SIGKILL)
            publisher.process.communicate()


# What a child does.


def _publish(model: Model, models: Path, build_id: str, **how: Any) -> None:
    model.publish(models, build_id, **how)


def _roll_back(_: Model, models: Path) -> None:
    ReleaseStore(models).roll_back("")


def _publish_on(model: Model, models: Path, times: int | None = None) -> list[Any]:
    """Publish so often, or until killed; when each began and ended, and its error."""
    said = []
    for _ in itertools.repeat(None) if times is None else range(times):
        begun, error_text = time.monotonic(), ""
        try:
            model.publish(models, new_id(), keep=2)
        except Exception as error:
            error_text = f"{type(error).__name__}: {error}"
        said.append((begun, time.monotonic(), error_text))
    return said


def _ticker(fifo: str | None) -> Callable[[], None]:
    """Return what writes a byte to a named pipe, if one is given."""
    if fifo is None:
        return lambda: None
    descriptor = os.open(fifo, os.O_WRONLY)

    def tick() -> None:
        os.write(descriptor, b".")

    return tick


def _read(_: Model, models: Path, stop: str, fifo: str | None = None) -> dict[str, Any]:
    """Load with the project's loader until there is a file `stop`; a byte in `fifo` each time."""
    seen: set[str] = set()
    loads, wrong, tick = 0, [], _ticker(fifo)
    while not Path(stop).exists():
        tick()
        try:
            ids = ids_loaded(models)
        except Exception as error:
            wrong.append(f"{error!r} {error}")
            continue
        loads += 1
        seen |= ids
        if len(ids) > 1:
            wrong.append(f"two builds: {ids}")
    return {"loads": loads, "seen": len(seen), "wrong": wrong}


def _read_fixed(_: Model, models: Path, stop: str, fifo: str | None = None) -> dict[str, Any]:
    """The same with both files at the fixed paths; their ids tell a mix."""
    seen: set[str | None] = set()
    loads, mixed, wrong, tick = 0, 0, [], _ticker(fifo)
    while not Path(stop).exists():
        tick()
        try:
            ids = ids_at_fixed_paths(models)
        except Exception as error:
            wrong.append(f"{error!r} {error}")
            continue
        loads += 1
        seen |= {*ids}
        mixed += len({*ids}) > 1
        if None in ids:
            wrong.append("a file is missing")
    return {"loads": loads, "seen": len(seen), "mixed": mixed, "wrong": wrong}


JOBS: dict[str, Callable[..., Any]] = {
    "publish": _publish, "roll_back": _roll_back, "publish_on": _publish_on,
    "read": _read, "read_fixed": _read_fixed,
}  # fmt: skip


# What goes wrong meanwhile.


def _die_before_step(step: int) -> None:
    """Be killed just before change or sync number `step` of a file or folder, counted from 1."""
    steps, fsync = itertools.count(1), os.fsync

    def watch(event: str, args: tuple[Any, ...]) -> None:
        is_step = event in CHANGES or (event == "open" and bool(args[2] & WRITING))
        if is_step and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched_fsync(descriptor: int) -> None:
        watch("os.fsync", (descriptor,))
        fsync(descriptor)

    os.fsync = watched_fsync
    sys.addaudithook(watch)


def _die_at_byte(size: int) -> None:
    """Be killed where a file would grow over `size`, which it has by then."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _lock_alone(path: str) -> None:
    """Take another lock than all other processes do."""
    real = filelock.FileLock
    filelock.FileLock = lambda _, **how: real(path, **how)  # type: ignore[assignment,misc]


def _without_links(yes: bool) -> None:
    if yes:
        os.link = refuse_links


TROUBLES: dict[str, Callable[[Any], None]] = {
    "step": _die_before_step, "byte": _die_at_byte, "lock": _lock_alone, "copies": _without_links,
}  # fmt: skip


# The warm process.


def _obey(model: Model, order: dict[str, Any], writer: int) -> None:
    """Do a job and write what it says; this process does not come back from it."""
    job, models = JOBS[order.pop("job")], Path(order.pop("models"))
    try:
        for trouble in TROUBLES.keys() & order.keys():
            TROUBLES[trouble](order.pop(trouble))
        result = job(model, models, **order)
    except OSError as error:
        result = repr(error)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os.write(writer, json.dumps(result).encode())
    os._exit(0)


def _serve(model: Model) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            _obey(model, order, writer)
        os.close(writer)
        with os.fdopen(reader) as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.waitstatus_to_exitcode(status) == 0, "a job failed"
        print(json.dumps((killed, json.loads(said) if said else None)), flush=True)


if __name__ == "__main__":
    _serve(Model.load(Path(sys.argv[1])))

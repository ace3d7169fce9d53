"""The process of a script, from its first moment to its end: signals, streams, exit code.

A script calls `begin` before it imports anything else, and `run` last:

    starting    Ctrl-C, TERM or HUP ends it at once: nothing has been done yet
    working     they raise Stopped; what is half done is cleaned up. Further ones are ignored for
                PATIENCE seconds, then they end it at once
    ending      they are ignored: a release is published, or the work is over; the rest is short
"""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from enum import Enum, auto

from .errors import MlError

TYPE_CHECKING = False  # importing typing takes as long as all else before `begin`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar, NoReturn

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""What ends a script; its exit code is 128 and the signal's number, as a shell reports it."""
PATIENCE = 3.0
"""Seconds after a first signal in which further ones are ignored: timeout, systemd and terminals
send two, and people press Ctrl-C twice."""
STOPPED = "interrupted; nothing is half-written"
NO_THREADS = (
    "no further process or thread can be started: the limit of this user or container is reached "
    "(ulimit -u, or its limit of pids); raise it, or end other processes"
)
NO_MEMORY = "failed to map segment", "cannot allocate memory"
"""What the loader of libraries says of a lack of memory, in errors of other kinds."""


class Stopped(KeyboardInterrupt):
    """A signal asks the script to end."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(STOPPED)

    def __del__(self) -> None:
        if _Process.phase is _Phase.WORKING:  # a library dropped it: do not go on all the same
            _leave(self.exit_code, STOPPED)


class NoThreadsError(MlError):
    """No further thread can be started; a library (OpenBLAS) sends SIGINT where that is so."""

    def __init__(self) -> None:
        super().__init__(NO_THREADS)


class _Phase(Enum):
    FOREIGN = auto()  # not a script of ours: somebody calls its functions
    STARTING = auto()
    WORKING = auto()
    ENDING = auto()


class _Process:
    """What is known of this process."""

    phase = _Phase.FOREIGN
    handled: ClassVar[list[int]] = []
    """Numbers of the signals that are handled."""
    stopped: tuple[int, float] | None = None
    """The first signal's number, and when it came."""
    no_stdout = False
    """Whether stdout was closed at the start."""


def begin() -> None:
    """Prepare the process of a script: its streams, its signals, and errors nobody else reports."""
    _open_streams()
    _Process.phase = _Phase.STARTING
    sys.excepthook = _report
    sys.unraisablehook = _report_unraisable
    for name in SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup, or `&`
            signal.signal(number, _handle)
            _Process.handled.append(number)


@contextmanager
def working() -> Iterator[None]:
    """Let signals raise `Stopped` in the block; in a process without `begin`, change nothing."""
    if _Process.phase is _Phase.STARTING:
        _Process.phase = _Phase.WORKING
    try:
        yield
    finally:
        if _Process.phase is not _Phase.FOREIGN:
            _Process.phase = _Phase.ENDING


def publish() -> None:
    """Tell that the work cannot be undone from here on, and that the script runs to its end."""
    if _Process.phase is _Phase.WORKING and not _Process.stopped:
        _Process.phase = _Phase.ENDING


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script and leave the process, whatever has become of its streams and threads."""
    try:
        code = main()
    except SystemExit as leaving:  # of argparse
        code = leaving.code if isinstance(leaving.code, int) else 0
    for number in _Process.handled:  # while Python ends it resets the handlers of signals
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        say(f"error: standard output: {describe(error)}")
        code = code or 1
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    if code > 128:  # threads may be at work, and nobody waits for them
        os._exit(code)
    sys.stdout, sys.stderr = _nowhere(), _nowhere()  # what could not be written is lost
    sys.exit(code)


def print_out(text: str) -> None:
    """Write a text and a line's end to stdout.

    Raises:
        OSError: that is full or was closed at the start.
        UnicodeEncodeError: its encoding lacks a letter.
    """
    if _Process.no_stdout:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    print(text, flush=True)


def say(line: str) -> None:
    """Write a line to stderr, if that is possible."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _handle(number: int, _: object) -> None:
    """Do what the phase asks for when a signal comes."""
    if number == signal.SIGINT and _no_threads_left():
        if _Process.phase is not _Phase.WORKING:
            _leave(1, NO_THREADS)
        raise NoThreadsError
    if _Process.phase is _Phase.STARTING:
        _leave(128 + number, STOPPED)
    if _Process.phase is _Phase.ENDING:
        return
    if _Process.stopped is None:
        _Process.stopped = number, time.monotonic()
        raise Stopped(number)
    first, since = _Process.stopped
    if time.monotonic() - since > PATIENCE:
        _leave(128 + first, STOPPED)


def _no_threads_left() -> bool:
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError:
        return True
    return False


def check_resources() -> None:
    """Raise what this process lacks, before something else is blamed for a failure.

    Raises:
        NoThreadsError: no thread can be started.
        OSError: no file can be opened.
    """
    if _no_threads_left():
        raise NoThreadsError
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (ulimit -n)") from None


def _leave(code: int, message: str) -> NoReturn:
    """End at once: without Python's streams, in which the main thread may be busy."""
    with suppress(OSError):
        os.write(2, f"error: {message}\n".encode())
    os._exit(code)


def _report(_: type[BaseException], error: BaseException, __: object) -> None:
    """Report what was raised outside of the work, as while importing; the exit code is 1."""
    say(f"error: {describe(error) or describe_fault(error)}")


def _report_unraisable(unraisable: Any) -> None:
    """End where a signal came in a place that cannot raise; other errors there end nothing."""
    if isinstance(unraisable.exc_value, Stopped):
        _leave(unraisable.exc_value.exit_code, STOPPED)


def describe(error: BaseException) -> str | None:
    """Return one line on what this machine lacks, where that is why the error was raised."""
    if isinstance(error, NoThreadsError) or "can't start new thread" in str(error):
        return NO_THREADS
    if isinstance(error, BlockingIOError) and error.filename is None and _no_threads_left():
        return NO_THREADS  # of a fork
    if isinstance(error, MemoryError):
        return f"not enough memory: {_line(error)}".removesuffix(": ")
    if any(word in _line(one).lower() for one in _chain(error) for word in NO_MEMORY):
        return "not enough memory: a library cannot be loaded"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the package {error.name} is not installed: use the Python of the builds' environment "
            "(.venv; in an app .venv-build)"
        )
    if isinstance(error, ImportError):
        cause = error.__cause__ or error.__context__ or error  # NumPy's own is a page of advice
        return f"a library cannot be loaded: {_line(cause)}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or _line(error)}{where}"
    return None


def describe_fault(error: BaseException) -> str:
    """Return one line on an error that this program should have caught; without its message.

    The message may hold a secret, and it says nothing to the person who reads it.
    """
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = ""
    if trace:
        path = trace.tb_frame.f_code.co_filename
        where = f" in {path.replace(os.sep, '/').rpartition('/')[2]}, line {trace.tb_lineno}"
    return (
        f"a fault of this program ({type(error).__name__}{where}): "
        "see all of it with --verbose, and report it"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _open_streams() -> None:
    """Make the three streams usable: none closed, and none that fails at an accented letter."""
    for descriptor in range(3):  # else the next file that is opened gets this number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            _Process.no_stdout |= name == "stdout"
            setattr(sys, name, _nowhere())
        elif name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> Any:
    return open(os.devnull, "r+", encoding="utf-8")  # noqa: PTH123  until exit


def give_back_memory() -> None:
    """Give the memory of freed arrays back to the system, which glibc else keeps for later ones.

    Without it a build of a million ratings needs 610 MiB in place of 480. It does nothing on other
    systems.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

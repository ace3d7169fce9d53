"""Follow the releases in the background: a thread that no error ends, and what it has to say."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self
from weakref import WeakSet

from ..errors import MissingReleaseError, MlError, RequestError
from .lists import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import CollaborativeModel

    OnError = Callable[[BaseException], object]

logger = logging.getLogger(__name__)

FAILURES = 3
"""Checks in a row that failed, at which the state is stale."""
GRACE = 60.0
"""Seconds, besides `FAILURES` intervals, that a check may take: loading a large release does."""
PATIENCE = 10.0
"""Seconds that `stop` waits for a check that is under way; the thread ends after it."""


class FollowerState(NamedTuple):
    """What a follower has to say of itself, for a service's health."""

    status: Literal["ok", "waiting", "stale"]
    """waiting: there is no release yet. stale: new releases are not loaded, because `FAILURES`
    checks in a row failed, or none ended for as many intervals and a minute, or the thread does not
    run; what is loaded is served all the same."""
    release: str | None
    """Build id of the release that is served; None where there is none yet."""
    checked: datetime | None
    """When the last check ended, in UTC; None before the first."""
    error: str | None
    """Why the last check failed; None where it did not."""
    alive: bool
    """Whether the thread runs in this process."""


class ReleaseFollower:
    """Loads the live release as soon as there is one, and each release after it, in a thread.

    No error ends the thread: it is kept in `state`, logged once as a warning, and passed to
    `on_error`; the next check is made as always. It is a daemon: a process ends without stopping
    it. A process that is forked off while it runs gets a thread of its own.

    Use it as a context manager, or by `start` and `stop`, each as often as you like.

    Args:
        source: a model; or a function that returns one, such as `load_collaborative`, which is
            called at each check until it does.
        seconds: from the end of a check to the next; the first comes at once.
        on_error: called in the thread with the error of each check that failed; what it raises is
            logged.

    Raises:
        RequestError: `seconds` is not a number above 0, or `on_error` cannot be called.
    """

    def __init__(
        self,
        source: CollaborativeModel | Callable[[], CollaborativeModel],
        seconds: float = 60.0,
        on_error: OnError | None = None,
    ) -> None:
        _check_arguments(seconds, on_error)
        self._seconds, self._on_error = float(seconds), on_error
        self._model = None if callable(source) else source
        self._load = source if callable(source) else None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failures, self._ended = 0, time.monotonic()
        self._checked: datetime | None = None
        self._error: str | None = None
        _followers.add(self)

    @property
    def model(self) -> CollaborativeModel | None:
        """The model, which is always the same one; None until the first release is loaded."""
        return self._model

    @property
    def state(self) -> FollowerState:
        """What it has to say of itself now."""
        alive = self._thread is not None and self._thread.is_alive()
        limit = FAILURES * self._seconds + GRACE  # by a clock that nobody sets
        late = time.monotonic() - self._ended > limit
        status: Literal["ok", "waiting", "stale"] = "ok" if self._model else "waiting"
        if not alive or late or self._failures >= FAILURES:
            status = "stale"
        release = self._model.snapshot.build_id if self._model else None
        return FollowerState(status, release, self._checked, self._error, alive)

    def start(self) -> Self:
        """Start the thread unless it runs, and return this follower.

        Raises:
            RuntimeError: the system has no more threads.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive() or self._stop.is_set():
                self._stop, self._ended = threading.Event(), time.monotonic()
                self._thread = threading.Thread(
                    target=self._follow, args=(self._stop,), name="follow-releases", daemon=True
                )
                self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended, `PATIENCE` seconds at most."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _follow(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with suppress(BaseException):  # memory can run out while an error is noted, too
                self._check()
            with suppress(BaseException):
                stop.wait(self._seconds)

    def _check(self) -> None:
        """Look for another release, and load it. Whatever comes of that is noted, not raised."""
        try:
            self._look()
        except MissingReleaseError as error:
            self._note(error, self._failures + 1 if self._model else 0)
        except BaseException as error:  # SystemExit and the like would end the thread, too
            self._note(error, self._failures + 1)
        else:
            self._note(None, 0)

    def _look(self) -> None:
        model = self._model
        if model is None and self._load is not None:
            self._model = model = self._load()
        elif model is None or not model.reload_if_changed():
            return
        logger.info("serving release %s", model.snapshot.build_id)

    def _note(self, error: BaseException | None, failures: int) -> None:
        self._failures, self._ended = failures, time.monotonic()
        before, self._error = self._error, None if error is None else _describe(error)
        self._checked = datetime.now(UTC)
        if error is None:
            if before is not None:
                logger.info("new releases are loaded again")
            return
        if self._error != before:
            logger.warning("%s; looking again in %g s", self._error, self._seconds)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except BaseException as wrong:
                logger.warning("on_error failed: %s", _describe(wrong))

    def _after_fork(self) -> None:
        """Go on in a process that was forked off: it has no thread, and perhaps a lock taken."""
        self._lock = threading.Lock()
        if self._thread is not None and not self._stop.is_set():
            self._thread = None
            self.start()


def _check_arguments(seconds: Any, on_error: Any) -> None:
    try:
        right = 0 < seconds <= threading.TIMEOUT_MAX
    except TypeError:
        right = False
    if not right:
        raise RequestError(f"expected seconds as a number above 0, found {shown(seconds)}")
    if on_error is not None and (not callable(on_error) or iscoroutinefunction(on_error)):
        raise RequestError(
            f"expected on_error as a function that is not async, or None, found {shown(on_error)}"
        )


def _describe(error: BaseException) -> str:
    """Return one line on an error; of others' errors with the type, for their text may be empty."""
    text = ""
    with suppress(BaseException):  # the text of others' errors is made by their code
        text = " ".join(str(error).split())
    return text if isinstance(error, MlError) else f"{type(error).__name__}: {text}".rstrip(": ")


_followers: WeakSet[ReleaseFollower] = WeakSet()


def _go_on_after_fork() -> None:
    for follower in list(_followers):
        follower._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_go_on_after_fork)

"""Scripts run in forks of a warm process: real processes, whose libraries are imported already.

Run as a script, this is the warm process. Each message on its socket asks for one run.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from helpers import BACKEND

LIBRARIES = (
    "filelock", "jinja2", "joblib", "matplotlib", "matplotlib.figure", "numpy", "pandas", "pyarrow",
    "pydantic_settings", "supabase", "surprise", "threadpoolctl", "tqdm",
)  # fmt: skip
WAITS = "ml.collaborative.datasets.downloads", "ml.collaborative.app_ratings.retries"
"""Modules that wait between tries: here the tries follow one another at once."""
SUPPORTED = sys.platform == "linux"
"""Elsewhere a fork beside the threads of libraries may not be safe."""


class WarmScripts:
    """The warm process, seen from the tests; `run` may be called from several threads."""

    def __init__(self, env: dict[str, str]) -> None:
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                cwd=BACKEND, env=env | {"PYTHONPATH": str(BACKEND)}, pass_fds=[other.fileno()],
                start_new_session=True,
            )  # fmt: skip

    def run(
        self, module: str, args: Sequence[str], env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE ARGS...` to its end, in `backend/`."""
        order = json.dumps({"argv": [module, *args], "env": env}).encode()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            reader, writer = os.pipe()
            with os.fdopen(reader) as ended:
                try:
                    socket.send_fds(self.socket, [order], [out.fileno(), err.fileno(), writer])
                finally:
                    os.close(writer)
                if not select.select([ended], [], [], timeout)[0]:
                    raise TimeoutError(f"{module} {args} was not done after {timeout} s")
                code = int(ended.read())
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess([module, *args], code, out.read(), err.read())

    def close(self) -> None:
        """End the warm process and what it runs."""
        self.socket.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _serve(orders: socket.socket) -> None:
    """Start a run for each message: the order, and descriptors of stdout, stderr and the end."""
    while True:
        message, descriptors, *_ = socket.recv_fds(orders, 1 << 20, 3)
        if not message:  # the tests are over
            return
        out, err, ended = descriptors
        if not _fork():  # this one waits for the run, while the warm process takes the next order
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if not (run := _fork()):
                os.dup2(out, 1)
                os.dup2(err, 2)
                for descriptor in descriptors:
                    os.close(descriptor)
                _run(**json.loads(message))
            code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
            os.write(ended, str(code).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # idle threads of libraries
        return os.fork()


def _reap(*_: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run(argv: list[str], env: dict[str, str]) -> None:
    """Do as `python -m` does, and leave as it does."""
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    sys.path[0] = str(BACKEND)
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, _reap)
    for library in LIBRARIES:
        import_module(library)
    for name in WAITS:
        module = import_module(name)
        module.WAITS = (0.0,) * len(module.WAITS)  # type: ignore[attr-defined]
    _serve(socket.socket(fileno=int(sys.argv[1])))

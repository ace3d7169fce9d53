"""A script's signals, streams and end: the right exit code and one line, at any moment."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers import BACKEND, contents, let_others_enter

from ml.collaborative.process import describe

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
BUILD = "ml.build_collaborative"
SAID = "error: interrupted; nothing is half-written\n"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORK = """
import sys, time
from ml.collaborative import process
process.begin()
def main():
    print("begun", flush=True)
    try:
        with process.working():
            try:
                {work}
                print("working", flush=True)
                time.sleep(20)
            except process.Stopped:
                {cleaning}
                raise
    except process.Stopped as error:
        process.say(f"error: {{error}}")
        return error.exit_code
    return 0
process.run(main)
"""


def start_script(
    work: str = "pass", cleaning: str = "pass", prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", WORK.format(work=work, cleaning=cleaning)],
        cwd=BACKEND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout
    while (found := process.stdout.readline()) != f"{line}\n":
        assert found, process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=15)
    return process.returncode, said


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("when", ["begun", "working"])
def test_each_signal_has_its_exit_code_and_one_line(number: signal.Signals, when: str) -> None:
    process = start_script(work="time.sleep(0.3 if sys.argv[1:] else 0)")
    wait_for(process, when)
    process.send_signal(number)
    assert ended(process) == (CODES[number], SAID)


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_does_not_interrupt_the_cleaning_up(number: signal.Signals) -> None:
    process = start_script(cleaning='print("cleaning", flush=True); time.sleep(0.2)')
    wait_for(process, "working")
    process.send_signal(number)
    wait_for(process, "cleaning")
    for _ in range(3):
        process.send_signal(number)
    assert ended(process) == (CODES[number], SAID)


def test_a_signal_after_some_seconds_ends_what_does_not_end() -> None:
    process = start_script(
        work="process.PATIENCE = 0.05", cleaning='print("cleaning", flush=True); time.sleep(20)'
    )
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "cleaning")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (143, SAID)


HANG = "print('in it', flush=True); time.sleep(20)"
DROPPED = f"""
                try:
                    {HANG}
                except BaseException:
                    pass"""
IN_A_DESTRUCTOR = f"""
                class Old:
                    def __del__(self):
                        {HANG}
                Old()"""


@pytest.mark.parametrize("library", [DROPPED, IN_A_DESTRUCTOR])
def test_a_library_that_drops_the_interruption_does_not_make_it_go_on(library: str) -> None:
    process = start_script(work=library)
    wait_for(process, "in it")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, SAID)


def test_what_is_published_is_ended_in_peace() -> None:
    process = start_script(work='process.publish(); print("it", flush=True); time.sleep(0.2); '
                                "return 0")  # fmt: skip
    wait_for(process, "it")
    for number in CODES:
        process.send_signal(number)
    assert ended(process) == (0, "")


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_was_ignored_before_stays_so(number: signal.Signals) -> None:
    """Of nohup, and of a job that a script put into the background."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK.format(work="time.sleep(0.3); return 0", cleaning="pass")],
        cwd=BACKEND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )  # fmt: skip
    wait_for(process, "begun")
    process.send_signal(number)
    assert ended(process) == (0, "")


def test_as_process_1_term_ends_it() -> None:
    """The kernel drops a signal to process 1 that it has no handler for."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    try:
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no namespace of processes here")
    except OSError:
        pytest.skip("no unshare here")
    process = start_script(work="import os; assert os.getpid() == 1", prefix=unshare)
    wait_for(process, "working")
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert ended(process) == (143, SAID)


def test_a_build_that_is_stopped_by_term_keeps_the_model(start: Start, tmp_path: Path) -> None:
    process = start(BUILD, "--dataset", "sample", "--epochs", "3000", "--models-dir", tmp_path)
    assert process.stderr
    while "600 users" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, SAID)
    assert contents(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_a_build_that_is_stopped_at_any_moment_is_old_or_new(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    for tenth in range(2, 24, 2):
        models = tmp_path / str(tenth)
        process = start(BUILD, "--dataset", "sample", "--algorithm", "svd", "--models-dir", models)
        time.sleep(tenth / 10)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        published = models.is_dir() and (models / "live").exists()
        assert process.returncode == (0 if published else CODES[number]), said
        assert not list(models.glob("releases/.*"))


def run_with(shell: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script with its streams as the shell's words say."""
    command = ["bash", "-c", f'exec "$@" {shell}', "_", sys.executable, "-m", *map(str, args)]
    return subprocess.run(
        command, cwd=BACKEND, env=os.environ | env, capture_output=True, check=False
    )


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@FULL
@pytest.mark.parametrize(
    "shell",
    [
        "2>&-",
        pytest.param(">/dev/full", marks=pytest.mark.slow),
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param(">&- 2>&- <&-", marks=pytest.mark.slow),
        pytest.param("2>/dev/full", marks=pytest.mark.slow),
    ],
)
def test_a_build_is_done_whatever_its_streams_are(shell: str, tmp_path: Path) -> None:
    done = run_with(shell, BUILD, "--dataset", "sample", "--algorithm", "svd", "--models-dir",
                    tmp_path, PYTHONIOENCODING="ascii")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "live").is_file()
    assert (b"held-out RMSE 0." in done.stdout) == (shell.startswith("2>"))
    assert (b"could not be printed: " in done.stderr) == (shell in (">/dev/full", ">&-"))


@FULL
@pytest.mark.parametrize(
    "shell",
    [
        "2>/dev/full",
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param(">&- 2>&- <&-", marks=pytest.mark.slow),
    ],
)
def test_exit_codes_do_not_depend_on_stderr(shell: str, tmp_path: Path) -> None:
    (tmp_path / "live").write_bytes(b"\xff\xfe2\0")
    usage = run_with(shell, "ml.collaborative", "recommend", "--stars", "1:2")
    damaged = run_with(shell, "ml.collaborative", "similar", "1", "--models-dir", tmp_path)
    assert (usage.returncode, damaged.returncode) == (2, 3)


@FULL
def test_a_result_that_cannot_be_printed_is_an_error(tmp_path: Path) -> None:
    done = run_with(">/dev/full", "ml.collaborative", "releases", "--models-dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"error: No space left on device: standard output\n"
    done = run_with(">&-", "ml.collaborative", "releases", "--models-dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"error: Bad file descriptor: standard output\n"


def test_only_a_limit_of_threads_is_called_one() -> None:
    error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert describe(error) == "Resource temporarily unavailable"


def as_user(*command: str | Path, processes: int = 0, **env: str) -> subprocess.Popen[str]:
    """Run a command as a user of no account, who can read all files, as a container's can."""
    user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    user += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--"]

    def limit() -> None:
        if processes:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))

    try:
        works = subprocess.run([*user, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        works = False
    if not works:
        pytest.skip("cannot become another user here")
    return subprocess.Popen(
        [*user, *map(str, command)], env=env, text=True, preexec_fn=limit,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that any user can write."""
    folder = tmp_path_factory.mktemp("open")
    let_others_enter(folder)
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("home", [None, pytest.param("/", marks=pytest.mark.slow)])
def test_a_user_without_a_home_builds(
    open_folder: Path, script_env: dict[str, str], home: str | None
) -> None:
    env = {name: value for name, value in script_env.items() if name not in ("HOME", "TMPDIR")}
    env |= {"PYTHONPATH": str(BACKEND), "PYTHONDONTWRITEBYTECODE": "1"}
    assert "SURPRISE_DATA_FOLDER" not in env
    if home:
        env["HOME"] = home
    process = as_user(
        "env", "-C", open_folder, sys.executable, "-m", BUILD, "--dataset", "sample", "--report",
        "--algorithm", "svd", "--models-dir", open_folder / "models", "--quiet", **env,
    )  # fmt: skip
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "", "")
    assert [path.name for path in open_folder.iterdir()] == ["models"]


def test_a_limit_of_processes_is_named(open_folder: Path, script_env: dict[str, str]) -> None:
    env = script_env | {"PYTHONPATH": str(BACKEND), "PYTHONDONTWRITEBYTECODE": "1"}
    process = as_user(sys.executable, "-m", BUILD, "--dataset", "sample", "--models-dir",
                      open_folder / "models", "--quiet", processes=1, **env)  # fmt: skip
    _, said = process.communicate(timeout=60)
    last = said.splitlines()[-1]
    assert (process.returncode, "Traceback" in said) == (1, False), said
    assert last.startswith("error: no further process or thread can be started: the limit of this ")


@pytest.mark.parametrize("megabytes", [200, pytest.param(450, marks=pytest.mark.slow)])
def test_a_limit_of_memory_is_named(tmp_path: Path, megabytes: int) -> None:
    limit = megabytes << 20
    done = subprocess.run(
        [sys.executable, "-m", BUILD, "--dataset", "sample", "--models-dir", tmp_path, "--quiet"],
        cwd=BACKEND, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not enough memory")
    assert "Traceback" not in done.stderr


def test_a_failed_request_is_not_blamed_on_the_server_where_no_file_can_be_opened() -> None:
    """In a process of its own, whose files are all in use."""
    code = (
        "import resource; from ml.collaborative.process import check_resources; check_resources();"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); check_resources()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BACKEND, capture_output=True, text=True, check=False
    )
    # The C library may add a line of its own, where it finds no file to load at the end.
    assert "OSError: [Errno 24] Too many open files (ulimit -n)\n" in done.stderr


FREED = """
from pathlib import Path
import resource
import numpy as np
from ml.collaborative.process import give_back_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
arrays = [np.ones(12_500) for _ in range(1000)]  # so small that they are of the heap
del arrays[:-1]  # the last one holds the place of the others
before = resident()
give_back_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED], cwd=BACKEND, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 80

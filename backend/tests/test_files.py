"""Files are written whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import BACKEND

from ml.collaborative.files import locked, replace_together, sha256

WRITE = """
import sys
from pathlib import Path
from ml.collaborative.files import replace_together

folder = Path(sys.argv[1])
with replace_together(folder / "a", folder / "b") as (a, b):
    a.write(b"new a")
    a.flush()
    b.write(b"new")
    print("half written", flush=True)
    sys.stdin.read()
"""
WRITE_MUCH = """
import resource, sys
from pathlib import Path
from ml.collaborative.files import replace_together

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
folder = Path(sys.argv[1])
try:
    with replace_together(folder / "a", folder / "b") as (a, b):
        a.write(b"new a")
        b.write(bytes(2 << 20))
except OSError as error:
    print(error.errno)
"""
LOCK = """
import sys
from pathlib import Path
from ml.collaborative.files import locked

folder = Path(sys.argv[1])
with locked(folder):
    print("has it", sorted(path.name for path in folder.glob("done-*")), flush=True)
    sys.stdin.read()
    (folder / "done-1").touch()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(code: str, folder: Path, processes: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=BACKEND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def line(stream: object) -> str:
    return stream.readline().strip()  # type: ignore[attr-defined,no-any-return]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


OLD = {"a": "old a", "b": "old b"}
NEW = {"a": "new a", "b": "new b"}


def write(folder: Path, b_content: bytes = b"new b", error: BaseException | None = None) -> None:
    with replace_together(folder / "a", folder / "b") as (a, b):
        a.write(b"new a")
        b.write(b_content)
        if error:
            raise error


def test_readers_see_the_old_files_until_all_new_ones_are_whole(folder: Path) -> None:
    with replace_together(folder / "a", folder / "b") as (a, b):
        a.write(b"new a")
        b.write(b"new b")
        assert {name: (folder / name).read_text() for name in OLD} == OLD
    assert contents(folder) == NEW


def test_a_folder_in_a_files_place_is_an_error_and_no_file_moves(folder: Path) -> None:
    (folder / "c").mkdir()
    with (
        pytest.raises(IsADirectoryError, match="in the place of a file"),
        replace_together(folder / "a", folder / "c"),
    ):
        pytest.fail("the block must not begin")
    assert (folder / "a").read_text() == "old a"


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_an_exception_leaves_the_old_files(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(folder, error=error)
    assert contents(folder) == OLD


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, error=KeyboardInterrupt())
    assert contents(tmp_path) == {}


def test_a_folder_that_is_not_there_is_an_os_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_together(folder / "a", folder / "no" / "b"):
        pytest.fail("there is nothing to write to")
    assert contents(folder) == OLD


def test_kill_9_leaves_the_old_files_and_the_next_write_works(
    folder: Path, processes: list[subprocess.Popen[str]]
) -> None:
    process = start(WRITE, folder, processes)
    assert line(process.stdout) == "half written"
    process.kill()
    process.wait()
    assert {name: (folder / name).read_text() for name in OLD} == OLD
    write(folder)
    assert contents(folder) == NEW


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
def test_a_file_that_may_not_grow_leaves_the_old_files(
    folder: Path, processes: list[subprocess.Popen[str]]
) -> None:
    out, err = start(WRITE_MUCH, folder, processes).communicate(timeout=30)
    assert (out.split(), err) == ([str(errno.EFBIG)], "")
    assert contents(folder) == OLD


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a tiny disk here: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a tiny disk here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_old_files(tiny_disk: Path) -> None:
    for name, content in OLD.items():
        (tiny_disk / name).write_text(content)
    with pytest.raises(OSError, match="No space left") as raised:
        write(tiny_disk, bytes(1 << 20))
    assert raised.value.errno == errno.ENOSPC
    assert contents(tiny_disk) == OLD
    write(tiny_disk)
    assert contents(tiny_disk) == NEW


def test_a_second_process_waits_for_the_first_and_says_so(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    first = start(LOCK, tmp_path, processes)
    assert line(first.stdout) == "has it []"
    second = start(LOCK, tmp_path, processes)
    host = re.escape(platform.node())
    assert re.fullmatch(
        rf"another process is writing to {tmp_path}: waiting until it is done "
        rf"\(process {first.pid} on {host}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00\)",
        line(second.stderr),
    )
    first.communicate(timeout=30)
    assert line(second.stdout) == "has it ['done-1']"


def test_a_killed_process_does_not_block_the_next(
    tmp_path: Path, processes: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    holder = start(LOCK, tmp_path, processes)
    assert line(holder.stdout) == "has it []"
    holder.kill()
    holder.wait()
    with caplog.at_level(logging.INFO, "ml"), locked(tmp_path):
        assert not list(tmp_path.glob("done-*"))
    assert caplog.text == ""


def test_a_lock_is_had_twice_by_its_holder_and_released_after_the_outer_block(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "made" / "on the way"
    with locked(folder):
        with locked(folder):
            pass
        waiting = start(LOCK, folder, processes)
        assert "another process is writing" in line(waiting.stderr)
    assert line(waiting.stdout) == "has it []"


def test_a_lock_is_released_where_the_block_raises(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    with pytest.raises(ValueError, match="no"), locked(tmp_path):
        raise ValueError("no")
    assert line(start(LOCK, tmp_path, processes).stdout) == "has it []"


def test_sha256_of_a_known_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )

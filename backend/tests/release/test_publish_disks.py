"""Publishing to a disk that is full, read-only or has no links; and what is on it before a switch.

And two hosts on one shared folder, whose locks do not reach each other.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import joblib
import pytest
from published import (
    Model,
    age,
    assert_live,
    ids_at_fixed_paths,
    ids_loaded,
    new_id,
    tell,
    unfinished,
)
from publishers import publishers

from ml.build_collaborative import train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.release import ReleaseStore, draft_manifest
from ml.collaborative.release.history import History

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX limits and mounts")

COPIED = ("svd_model.pkl", "cf_trainset.pkl", "manifest.json")
PAGE = 4096
KEEP = 2
Disk = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a disk for the time of the test; skips where that is not allowed."""

    def mount(*args: str | Path) -> Path:
        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        done = tell("mount", *args, place)
        if done:
            pytest.skip(f"cannot mount a disk here: {done}")
        stack.callback(subprocess.run, ["umount", str(place)], check=True)
        return place

    with ExitStack() as stack:
        yield mount


def state_of(models: Path) -> dict[Path, Any]:
    """Everything in the folder but its lock: what each file holds, and where each link leads."""
    return {
        path: path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in models.rglob("*")
        if path.name != ".lock"
    }


def assert_fails(model: Model, models: Path, why: str) -> None:
    """A publish ends in this error, and all is as it was before."""
    before = state_of(models)
    with pytest.raises(OSError, match=why) as raised:
        model.publish(models, new_id(), keep=KEEP)
    assert raised.value.filename
    assert state_of(models) == before


# What is on the disk


class Journal:
    """What has been synced with which content, when something takes the place of `live`."""

    def __init__(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self.pointer = models, models / "live"
        self.synced: dict[Path, Any] = {}
        self.before: dict[Path, Any] = {}
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def sync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.synced[path] = self.content(path)
            fsync(descriptor)

        def move(act: Callable[..., None], source: Path, target: Path) -> None:
            if Path(target) == self.pointer:
                self.before, self.synced = self.synced, {}
            act(source, target)
            for path in [path for path in self.synced if path.is_relative_to(source)]:
                self.synced[Path(target) / path.relative_to(source)] = self.synced.pop(path)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "rename", lambda *paths: move(rename, *paths))
        monkeypatch.setattr(os, "replace", lambda *paths: move(replace, *paths))

    @staticmethod
    def content(path: Path) -> Any:
        return {p.name for p in path.iterdir()} if path.is_dir() else path.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="tells a descriptor's path")
@pytest.mark.parametrize("is_first", [True, False])
def test_a_release_is_on_the_disk_with_all_its_folders_before_it_is_live(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, copies: bool, is_first: bool
) -> None:
    models = tmp_path.resolve() / "models"
    if not is_first:
        model.publish(models, new_id())
    journal, build_id = Journal(models, monkeypatch), new_id()
    model.publish(models, build_id)
    folder = ReleaseStore(models).folder(build_id)
    needed = [folder, *folder.rglob("*"), folder.parent]
    assert len(needed) > 15
    assert {path: journal.before.get(path) for path in needed} == (
        {path: journal.content(path) for path in needed}
    )
    if is_first:
        assert "releases" in journal.before[models]
    staged = {path.name.rsplit(".", 2)[0]: content for path, content in journal.before.items()}
    assert staged[".live"] == f"{build_id}\n".encode()
    for name in COPIED if copies else ():
        assert staged[f".{name}"] == (folder / name).read_bytes()
    assert "live" in journal.synced[models]
    assert journal.synced[models / "history.jsonl"] == (models / "history.jsonl").read_bytes()


# A full disk


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """As on a full disk, a write fails where a file would grow over `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def leave(disk: Path, *, pages: int | None = None, files: int | None = None) -> None:
    """Fill a disk until it has room for so many pages, or files; none of the last filling stays."""
    for path in disk.glob("filler*"):
        path.unlink()
    free = os.statvfs(disk)
    if pages is not None:
        (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - pages * PAGE))
    for number in range(0 if files is None else free.f_favail - files):
        (disk / f"filler-{number}").touch()


def pad_log(models: Path, size: int) -> None:
    """Let the log be of this size."""
    log = models / "history.jsonl"
    log.write_bytes(log.read_bytes() + b" " * (size - log.stat().st_size - 1) + b"\n")


@pytest.mark.slow
def test_a_write_that_fails_in_any_file_of_a_release_leaves_all_as_it_was(
    tmp_path: Path, model: Model, copies: bool
) -> None:
    model.publish(tmp_path, new_id())
    folder = ReleaseStore(tmp_path).folder(str(ReleaseStore(tmp_path).live_id()))
    sizes = {path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert len(sizes) > 8
    for size in {0, 1, 100, *(size - 1 for size in sizes)}:
        with no_file_over(size):
            assert_fails(model, tmp_path, "File too large")
    last = new_id()
    with no_file_over(max(sizes)):
        model.publish(tmp_path, last)
    assert_live(tmp_path, last)


def test_a_large_array_that_does_not_fit_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's own would say how many numbers it has not written."""
    svd, trainset = train_svd_model(sample_ratings(), epochs=1, factors=2)
    model = Model((svd, trainset), draft_manifest(svd, trainset))
    model.publish(tmp_path, new_id())
    monkeypatch.setattr(joblib, "dump", lambda _, path: Path(path).write_bytes(b"a small pickle"))
    with no_file_over(100_000):
        assert_fails(model, tmp_path, "File too large")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["pages", "files"])
def test_a_disk_with_any_room_too_little_keeps_the_release_before(
    disk: Disk, model: Model, copies: bool, what: str
) -> None:
    full = disk("-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs")
    models = full / "models"
    for _ in range(KEEP):
        model.publish(models, new_id(), keep=KEEP)
    said = set()
    for room in itertools.count():
        before, last = state_of(models), new_id()
        leave(full, **{what: room})
        try:
            model.publish(models, last, keep=KEEP)
        except OSError as error:
            said.add(error.errno)
            assert state_of(models) == before
        else:
            break
    assert room > 15
    assert said == {errno.ENOSPC}
    assert_live(models, last)
    leave(full)
    model.publish(models, last := new_id(), keep=KEEP)
    assert_live(models, last)


@pytest.mark.parametrize("next_is", ["rollback", "publish"])
def test_a_line_that_a_full_disk_kept_from_the_log_is_a_warning_and_the_next_writes_it(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture, next_is: str
) -> None:
    first, second = new_id(), new_id()
    model.publish(tmp_path, first)
    pad_log(tmp_path, 100_000)
    with no_file_over(100_000):
        model.publish(tmp_path, second)
    assert "history.jsonl could not be written: [Errno 27] File too large" in caplog.text
    found = ReleaseStore(tmp_path).live_id(), ids_at_fixed_paths(tmp_path)
    assert found == (second, (second, second))
    assert [line["build_id"] for line in History(tmp_path).lines()] == [first]
    third = first
    if next_is == "rollback":
        assert ReleaseStore(tmp_path).roll_back() == (first, second)
    else:
        model.publish(tmp_path, third := new_id())
    assert [(line["build_id"], line["action"]) for line in History(tmp_path).lines()] == (
        [(first, "publish"), (second, "publish"), (third, next_is)]
    )
    assert_live(tmp_path, third)


# Other disks


def test_where_releases_may_not_be_written_the_one_before_stays(
    tmp_path: Path, disk: Disk, model: Model
) -> None:
    first, second = new_id(), new_id()
    model.publish(tmp_path / "source", first)
    model.publish(tmp_path / "source", second)
    models = tmp_path / "disk"
    shutil.copytree(tmp_path / "source", models, symlinks=True)
    releases = models / "releases"
    fail = tell("mount", "--bind", releases, releases)
    if fail:
        pytest.skip(f"cannot mount a folder here: {fail}")
    try:
        assert not tell("mount", "-o", "remount,ro,bind", releases)
        assert_fails(model, models, "Read-only file system")
        assert ReleaseStore(models).roll_back("") == (first, second)
        assert_live(models, first)
    finally:
        subprocess.run(["umount", str(releases)], check=True)


def test_a_models_folder_on_another_disk_than_temporary_files_works(
    tmp_path: Path, disk: Disk, model: Model, monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models = disk("-t", "tmpfs", "-o", "size=1m", "tmpfs") / "models"
    first, second = new_id(), new_id()
    model.publish(models, first)
    model.publish(models, second)
    assert models.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev
    assert_live(models, second)
    assert ReleaseStore(models).roll_back("") == (first, second)
    assert_live(models, first)


@pytest.fixture
def no_links(tmp_path: Path) -> Iterator[Path]:
    """Mount a real disk that has no hard links; skips where that is not possible."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    image.write_bytes(bytes(8 << 20))
    said = ""
    with ExitStack() as stack:
        device = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True,
                                text=True, check=False).stdout.strip()  # fmt: skip
        if not device:
            pytest.skip("no loop device here")
        stack.callback(subprocess.run, ["losetup", "-d", device], check=True)
        for make, kind in (("vfat", "vfat"), ("exfat", "exfat"), ("exfat", "exfat-fuse")):
            said = tell(f"mkfs.{make}", device) or tell("mount", "-t", kind, device, place)
            if not said:
                break
        else:
            pytest.skip(f"no file system without links here: {said}")
        stack.callback(subprocess.run, ["umount", str(place)], check=True)
        yield place


@pytest.mark.slow
def test_on_a_real_disk_without_links_a_publish_stopped_at_any_step_is_told_by_the_ids(
    no_links: Path, plain: Path, model: Model
) -> None:
    (no_links / "file").touch()
    with pytest.raises(OSError, match=r"not (implemented|permitted|supported)"):
        os.link(no_links / "file", no_links / "link")
    models, seen = no_links / "models", []
    model.publish(models, before := new_id())
    with publishers(plain, 1) as (warm,):
        for step in itertools.count(1, 2):
            new, after = new_id(), new_id()
            done = warm.run("publish", models, build_id=new, step=step, keep=KEEP)
            seen.append(
                (
                    ReleaseStore(models).live_id() == new,
                    *(i == new for i in ids_at_fixed_paths(models)),
                )
            )
            assert ids_loaded(models) == {ReleaseStore(models).live_id()} <= {before, new}
            assert set(ids_at_fixed_paths(models)) <= {before, new}
            if not done.killed:
                break
            age(unfinished(models))
            model.publish(models, after, keep=KEEP)
            assert_live(models, after)
            before = after
    assert len(seen) > 30
    assert {(False, False, False), (True, True, True)} < set(seen)

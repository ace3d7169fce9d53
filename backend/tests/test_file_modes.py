"""Who can read and write what builds leave: a group, and nobody else, whatever the umask."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import IO

import joblib
import pytest
from helpers import BACKEND, let_others_enter
from small_builds import BUILD, Run, build

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import datasets, files, load_collaborative
from ml.collaborative.datasets.movielens import read_ml_100k_films
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import MlError
from ml.collaborative.files import make_folder, replace_together
from ml.collaborative.release import ReleaseStore, draft_manifest
from ml.collaborative.serving.export import export_lists
from ml.download_movielens import download_movielens_100k

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX modes")


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> object:
    """The umask of the process, for the time of a test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> tuple[set[str], set[str]]:
    """The modes of all files in a folder, and of all folders with itself, in octal."""
    found: tuple[set[str], set[str]] = set(), set()
    for path in (folder, *folder.rglob("*")):
        found[path.is_dir()].add(f"{stat.S_IMODE(path.stat().st_mode):o}")
    return found


def test_a_group_reads_what_builds_leave_and_others_do_not(umask: int, tmp_path: Path) -> None:
    models = tmp_path / "new" / "models"
    first = build(models)
    build(models)
    ReleaseStore(models).roll_back(first)
    export_lists(models, models / "lists.parquet", 3)
    assert modes(models.parent) == ({"640"}, {"750"})


def test_copies_have_the_same_mode_where_there_are_no_hard_links(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    build(tmp_path / "models")
    assert modes(tmp_path / "models") == ({"640"}, {"750"})


def test_a_refused_build_has_the_same_mode(umask: int, tmp_path: Path) -> None:
    models = tmp_path / "models"
    model = train_svd_model(sample_ratings().head(500), epochs=1)
    ReleaseStore(models).refuse(*model, draft_manifest(*model), "<html></html>")
    assert modes(models) == ({"640"}, {"750"})


def test_the_setting_decides(run: Run, tmp_path: Path) -> None:
    small = "--dataset", "sample", "--epochs", "2", "--factors", "5", "--force-publish"
    done = run(BUILD, *small, "--models-dir", tmp_path / "models", CF_FILE_MODE="0600")
    assert done.returncode == 0, done.stderr
    assert modes(tmp_path / "models") == ({"600"}, {"700"})
    done = run(BUILD, *small, "--models-dir", tmp_path / "models", CF_FILE_MODE="rw-r-----")
    assert done.returncode == 3
    assert "CF_FILE_MODE: expected the mode of a file in octal digits" in done.stderr


def test_the_setting_decides_for_functions_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, movielens_archives: Path
) -> None:
    monkeypatch.setattr(files, "_setting", None)  # for after the test
    monkeypatch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
    model = train_svd_model(sample_ratings().head(500), epochs=1)
    for octal in ("600", "644"):
        monkeypatch.setenv("CF_FILE_MODE", octal)
        save_models(*model, str(tmp_path / octal / "models"))
        download_movielens_100k(str(tmp_path / octal / "data"))
        assert modes(tmp_path / octal)[0] == {octal}


@pytest.mark.slow
def test_the_setting_decides_for_what_the_tool_fetches(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    env = {"CF_FILE_MODE": "600", "MOVIELENS_BASE_URL": str(movielens_archives)}
    joblib.dump([1 << 40], tmp_path / "ids.pkl")
    where = "--catalog", tmp_path / "ids.pkl", "--data-dir", tmp_path / "data"
    for command in ("evaluate", "tune"):
        done = run("ml.collaborative", command, *where, **env)
        assert done.returncode == 3, done.stderr  # no film of it has ratings
        assert modes(tmp_path / "data") == ({"600"}, {"700"})
        shutil.rmtree(tmp_path / "data")


def test_the_data_folder_is_shared_in_the_same_way(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make_folder(folder)
    with replace_together(folder / "a") as (file,):
        file.write(b"a")
    assert modes(folder) == ({"640"}, {"750"})


def test_what_is_extracted_is_shared_in_the_same_way(
    umask: int, tmp_path: Path, movielens_archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
    download_movielens_100k(str(tmp_path / "data"))
    assert modes(tmp_path / "data") == ({"640"}, {"750"})


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    path.touch()
    path.chmod(0o600)
    with replace_together(path, unique=True) as (file,):
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A setgid folder of group 4000."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become other users")
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, -1, 4000)
    folder.chmod(0o2770)
    let_others_enter(tmp_path)
    return folder


def test_in_a_setgid_folder_a_second_builder_and_the_service_are_other_users(
    shared: Path, tmp_path: Path
) -> None:
    models = shared
    build(tmp_path)  # the members may not be able to import from this Python's folder
    first = as_member(4001, lambda: build(models))
    second = as_member(4002, lambda: build(models))
    assert modes(models) == ({"660"}, {"2770"})
    assert {path.stat().st_gid for path in models.rglob("*")} == {4000}
    assert as_member(4003, lambda: load_collaborative(models).manifest["build_id"]) == second
    again = as_member(4001, lambda: ReleaseStore(models).roll_back()[0])
    assert again == first


def test_a_folder_that_may_not_be_listed_is_a_warning_once_the_release_is_live(
    shared: Path, tmp_path: Path
) -> None:
    model = train_svd_model(sample_ratings().head(500), epochs=1)
    save_models(*model, str(tmp_path))  # see above
    refused = shared / "refused"

    def work() -> str:
        refused.mkdir(mode=0o300)
        save_models(*model, str(shared))
        return ReleaseStore(shared).live_folder().name

    with tempfile.TemporaryFile("w+") as said:
        live = as_member(4001, work, said)
        assert ReleaseStore(shared).build_ids() == [live]
        said.seek(0)
        assert f"nothing is deleted in {refused}: it could not be listed" in said.read()


def test_an_optional_file_that_may_not_be_read_does_not_end_a_build(
    shared: Path, tmp_path: Path, movielens_archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
    links = shared / "links.csv"
    datasets.load("ml-100k", tmp_path / "own", None)  # see above
    as_member(4001, lambda: download_movielens_100k(str(shared)))
    content = links.read_bytes()
    os.chown(links, 0, 0)
    links.chmod(0o600)
    films = as_member(4002, lambda: len(read_ml_100k_films(shared)))
    assert films == "1682"
    as_member(4002, lambda: download_movielens_100k(str(shared)))
    assert (links.stat().st_uid, links.read_bytes()) == (4002, content)


def as_member(uid: int, work: object, said: IO[str] | None = None) -> str:
    """Return what a function gives in a fork of this process, as a user of group 4000 alone."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if said:
                logging.getLogger("ml.collaborative").addHandler(logging.StreamHandler(said))
            os.setgroups([])
            os.setgid(uid)
            os.setgroups([4000])
            os.setuid(uid)
            os.umask(0o022)
            os.write(writer, str(work()).encode())  # type: ignore[operator]
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, said
    return said


def test_a_link_to_a_folder_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "not mounted")
    for place in (link, link / "below"):
        done = run(BUILD, "--dataset", "sample", "--models-dir", place)
        said = f"error: {link} is a link to {tmp_path}/not mounted, which does not exist: mount or "
        assert done.returncode == 1
        assert done.stderr.startswith(said)
        done = run("ml.download_movielens", "--catalog", "all", "--data-dir", place)
        assert done.returncode == 1
        assert done.stderr.startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


MOVED = """
import sys
from pathlib import Path
from ml.collaborative.release import ReleaseStore
from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
store = ReleaseStore(Path(sys.argv[1]))
model = train_svd_model(sample_ratings().head(500), epochs=1)
with store.locked():
    print("locked", flush=True)
    sys.stdin.readline()
    save_models(*model, sys.argv[1])
"""


@pytest.mark.parametrize(
    "left",
    [
        "nothing",
        pytest.param("an empty folder", marks=pytest.mark.slow),
        pytest.param("a link", marks=pytest.mark.slow),
    ],
)
def test_a_models_folder_that_is_moved_away_is_not_made_anew(tmp_path: Path, left: str) -> None:
    models, other = tmp_path / "models", tmp_path / "other"
    other.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", MOVED, str(models)], cwd=BACKEND, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    models.rename(tmp_path / "elsewhere")
    if left == "an empty folder":
        models.mkdir()
    elif left == "a link":
        models.symlink_to(other)
    _, said = process.communicate("go on\n", timeout=60)
    assert f"{MlError.__name__}: {models} was moved, replaced or emptied while" in said
    assert models.exists() == (left != "nothing")
    assert left == "nothing" or list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["live", "svd_model.pkl", ".lock"])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_what_is_no_file_is_neither_replaced_nor_waited_for(
    tmp_path: Path, name: str, kind: str
) -> None:
    model = train_svd_model(sample_ratings().head(500), epochs=1)
    for _ in range(2):
        save_models(*model, str(tmp_path))
    path = tmp_path / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    first = path.lstat()  # following a link changes when it was last read
    before = first.st_ino, first.st_mode, first.st_mtime_ns
    for work in (lambda: save_models(*model, str(tmp_path)), ReleaseStore(tmp_path).roll_back):
        with pytest.raises((MlError, OSError), match=f"{kind} is in the place of a file"):
            work()
    if name != "live":
        assert load_collaborative(tmp_path).recommend("ml_sample_1", 1)
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == before


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "history.jsonl")
    save_models(*train_svd_model(sample_ratings().head(500), epochs=1), str(tmp_path))
    assert "history.jsonl could not be written: " in caplog.text
    assert len(ReleaseStore(tmp_path).releases()) == 1


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / ".a.tmp").symlink_to(other)
    with replace_together(tmp_path / "a") as (file,):
        file.write(b"new")
    assert (other.read_text(), (tmp_path / "a").read_text()) == ("mine", "new")

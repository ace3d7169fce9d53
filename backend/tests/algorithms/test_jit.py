"""The compiled loop: the one that is read, compiled once, kept, and compiled again if damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import copy_backend

from ml.collaborative.algorithms.loops import jit
from ml.collaborative.algorithms.loops.sgd import aligned_rows, compiled_epoch, epoch
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.trainset import make_trainset

TRAIN = """
import sys
from ml.build_collaborative import train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
train_svd_model(sample_ratings().head(300), epochs=1)
print("numba" in sys.modules)
"""


@pytest.mark.parametrize("ratings_type", ["float32", "float64"])
def test_the_compiled_loop_is_the_loop_that_is_read(ratings_type: str) -> None:
    trainset = make_trainset(sample_ratings().head(300))
    starts, items, ratings = trainset.by_user
    results = []
    for run in (epoch, compiled_epoch(ratings_type)):
        rng = np.random.RandomState(0)
        users, films = trainset.n_users, trainset.n_items
        arrays = [rng.normal(size=shape) for shape in (users, films, (users, 3), (films, 3))]
        squares = run(starts, items, ratings.astype(ratings_type), 3.5, *arrays, 0.01, 0.1)
        results.append(np.concatenate([[squares], *map(np.ravel, arrays)]))
    np.testing.assert_allclose(*results, rtol=1e-12)


def test_arrays_of_another_kind_are_refused() -> None:
    def run(**changed: object) -> None:
        arguments = {
            "starts": np.array([0, 1]), "items": np.zeros(1, np.int32),
            "ratings": np.ones(1, np.float32), "mean": 0.0, "bu": np.zeros(1), "bi": np.zeros(1),
            "pu": np.zeros((1, 2)), "qi": np.zeros((1, 2)), "lr": 0.1, "reg": 0.1,
        }  # fmt: skip
        compiled_epoch("float32")(*(arguments | changed).values())

    run()
    for name, wrong in (
        ("ratings", np.ones(1)),
        ("pu", np.zeros(2)),
        ("qi", np.zeros((1, 4))[:, ::2]),
        ("items", np.zeros(1, np.int64)),
    ):
        with pytest.raises(TypeError, match="compiled code takes"):
            run(**{name: wrong})
    kept = np.zeros((1, 2))
    kept.flags.writeable = False
    with pytest.raises(TypeError, match="read-only"):
        run(qi=kept)


def test_rows_begin_at_a_cache_line() -> None:
    values = np.arange(12.0).reshape(3, 4)
    copy = aligned_rows(values)
    assert copy.ctypes.data % 64 == 0
    assert copy.flags.c_contiguous
    assert not np.shares_memory(copy, values)
    np.testing.assert_array_equal(copy, values)


class Project:
    """A copy of the code, trained with in processes of their own."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        copy_backend(folder)
        self.beside = folder / "ml/collaborative/algorithms/loops/__pycache__"
        shutil.rmtree(self.beside, ignore_errors=True)

    def train(self) -> str:
        """What the process says: whether it imported numba, to make the loop."""
        done = subprocess.run(
            [sys.executable, "-c", TRAIN], cwd=self.folder, env=self.env, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, script_env: dict[str, str]) -> Project:
    (tmp_path / "home").mkdir()
    env = script_env | {"HOME": str(tmp_path / "home"), "LOCALAPPDATA": str(tmp_path / "home")}
    env.pop("XDG_CACHE_HOME", None)
    return Project(tmp_path / "project", env)


def test_the_loop_is_made_once_and_again_when_its_source_changes(project: Project) -> None:
    assert project.train() == "True"
    assert len(list(project.beside.glob("sgd.epoch_*.ll"))) == 1
    assert project.train() == "False"
    with (project.beside.parent / "sgd.py").open("a") as source:
        source.write("\n")
    assert project.train() == "True"
    assert project.train() == "False"


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(project: Project) -> None:
    assert project.train() == "True"
    [cached] = project.beside.glob("sgd.*.ll")
    whole = cached.read_bytes()
    assert len([*jit._read([cached])]) == 1
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        b"\xff" * 9,
        whole.replace(b"@epoch", b"@other"),
    ):
        cached.write_bytes(damaged)
        assert [*jit._read([cached])] == []
    assert project.train() == "True"
    assert len([*jit._read([cached])]) == 1
    assert project.train() == "False"


@pytest.mark.skipif(os.name == "nt", reason="a folder's place is not taken by a file there")
@pytest.mark.slow
def test_a_read_only_install_keeps_the_loop_in_the_home_and_trains_without_one(
    project: Project,
) -> None:
    project.beside.write_text("no folder, so nothing can be kept here", encoding="utf-8")
    assert [project.train() for _ in range(2)] == ["True", "False"]
    project.env["HOME"] = str(project.folder / "ml/__init__.py")  # no folder either
    assert [project.train() for _ in range(2)] == ["True", "True"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX users")
def test_a_user_without_a_home_has_the_place_beside_the_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container: no HOME, and no entry in the list of users."""
    import pwd

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert list(jit._folders(tmp_path / "code.py")) == [tmp_path / "__pycache__"]


def test_numbas_settings_for_other_code_do_not_reach_it(project: Project) -> None:
    project.env |= {"NUMBA_DISABLE_JIT": "1", "NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "0"}
    assert [project.train() for _ in range(2)] == ["True", "False"]


def test_many_processes_can_make_the_loop_at_once(project: Project) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: project.train(), range(4)))
    assert project.train() == "False"
    assert [path.name for path in project.beside.glob("*.tmp")] == []


def allocate(size: float) -> float:
    return np.zeros(int(size)).sum()


def test_code_that_calls_what_may_not_be_there_is_refused_not_run() -> None:
    """Resolving a symbol that is missing would end the process without a word."""
    with pytest.raises(RuntimeError, match=r"calls code outside its module: .*NRT"):
        jit.compiled(allocate, jit.Argument("float64"))


def test_the_cache_of_a_user_without_an_account_is_not_a_folder_named_tilde(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123_456_789, raising=False)
    folders = list(jit._folders(Path(jit.__file__)))
    assert folders[0] == Path(jit.__file__).parent / "__pycache__"
    assert all(folder.is_absolute() for folder in folders)

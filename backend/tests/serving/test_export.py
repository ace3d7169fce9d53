"""Recommendations for all users at once are those for each, in bounded memory, as Parquet."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_info

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.release import draft_manifest
from ml.collaborative.serving import export as module
from ml.collaborative.serving.model import load_collaborative

Run = Callable[..., subprocess.CompletedProcess[str]]
STORED = Path(__file__).parents[1] / "release" / "data" / "schema-1"
"""A release that is older than the ranking."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(*train_svd_model(sample_ratings(), epochs=5), str(folder))
    return folder


def test_the_file_has_what_is_recommended_to_each_user(
    run: Run, models: Path, tmp_path: Path
) -> None:
    done = run(
        "ml.collaborative",
        "export",
        tmp_path / "top.parquet",
        "--models-dir",
        models,
        "-n",
        "7",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"4,200 recommendations for 600 users in {tmp_path / 'top.parquet'}\n"
    found = pd.read_parquet(tmp_path / "top.parquet")
    assert found.dtypes.astype(str).to_dict() == {
        "user_id": "str", "movie_id": "int64", "rank": "int32", "score": "float64",
        "stars": "float64",
    }  # fmt: skip
    model = load_collaborative(models)
    for user_id, rows in found.groupby("user_id"):
        expected = model.recommend(str(user_id), n=7)
        assert rows["rank"].tolist() == list(range(1, 8))
        assert rows["movie_id"].tolist() == [film.movie_id for film in expected]
        np.testing.assert_allclose(rows["score"], [film.score for film in expected], atol=1e-6)
        np.testing.assert_allclose(rows["stars"], [film.stars for film in expected], atol=1e-9)


@pytest.mark.parametrize("kind", ["the cold list", "no ranking"])
def test_lists_by_other_scores_are_those_of_each_user(tmp_path: Path, kind: str) -> None:
    folder = STORED
    if kind == "the cold list":
        folder = tmp_path
        svd, trainset = train_svd_model(sample_ratings().head(1000), epochs=5)
        draft = draft_manifest(svd, trainset)
        draft["model"]["lists"] = "cold"
        save_models(svd, trainset, str(folder), draft=draft)
    model = load_collaborative(folder)
    for block in module.recommend_all(model.snapshot, n=5):
        for row, user_id in enumerate(block.user_ids):
            expected = model.recommend(user_id, n=5)
            assert block.movie_ids[row].tolist() == [film.movie_id for film in expected]
            scores = [film.score for film in expected]
            np.testing.assert_allclose(block.scores[row], scores, atol=1e-6)


def test_what_is_closed_early_leaves_no_thread(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = load_collaborative(models).snapshot
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 1)
    threads, of_blas = threading.active_count(), threadpool_info()
    lists = module.recommend_all(snapshot)
    assert len(next(lists).user_ids) == 1
    assert threading.active_count() > threads
    lists.close()
    assert (threading.active_count(), threadpool_info()) == (threads, of_blas)


def test_small_blocks_say_the_same_and_a_user_who_rated_all_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = sample_ratings()
    films = table["movie_id"].unique()
    rest = table[table["user_id"] != "ml_sample_1"]
    everything = pd.DataFrame({"user_id": "ml_sample_1", "movie_id": films, "rating": 4.0})
    full = pd.concat([rest.astype({"user_id": "str"}), everything])
    save_models(*train_svd_model(full, epochs=1, factors=3), str(tmp_path))
    snapshot = load_collaborative(tmp_path).snapshot
    (whole,) = module.recommend_all(snapshot, n=3)
    none = whole.user_ids.index("ml_sample_1")
    assert whole.movie_ids[none].tolist() == [-1, -1, -1]
    assert np.isnan(whole.scores[none]).all()
    assert (np.delete(whole.movie_ids, none, axis=0) > 0).all()
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 17 * len(films))
    blocks = list(module.recommend_all(snapshot, n=3))
    assert [len(block.user_ids) for block in blocks] == [17] * 35 + [5]
    np.testing.assert_array_equal(np.concatenate([b.movie_ids for b in blocks]), whole.movie_ids)
    np.testing.assert_allclose(np.concatenate([b.scores for b in blocks]), whole.scores, rtol=1e-6)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 500)
    assert module.write_parquet(snapshot, tmp_path / "top.parquet", n=3) == 3 * 599
    file = pq.ParquetFile(tmp_path / "top.parquet")
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert min(groups[:-1]) >= 500
    assert file.read()["movie_id"].to_pylist() == whole.movie_ids[whole.movie_ids > 0].tolist()


def test_no_release_and_no_folder_end_with_one_line(run: Run, models: Path, tmp_path: Path) -> None:
    missing = run("ml.collaborative", "export", tmp_path / "top.parquet", "--models-dir", tmp_path)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.startswith(f"error: no release in {tmp_path}: make one with")
    nowhere = run(
        "ml.collaborative", "export", tmp_path / "no" / "top.parquet", "--models-dir", models
    )
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert (
        nowhere.stderr
        == f"error: {tmp_path / 'no'} is not a folder: make it, or name another file\n"
    )


def test_a_name_of_another_kind_of_file_is_refused(run: Run, models: Path, tmp_path: Path) -> None:
    done = run("ml.collaborative", "export", tmp_path / "top.csv", "--models-dir", models)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: found {tmp_path / 'top.csv'}, expected a name that ends with .parquet, "
        "as the file is Parquet\n"
    )
    assert not (tmp_path / "top.csv").exists()


def test_two_at_once_into_one_file_leave_one_of_the_two(
    start: Callable[..., subprocess.Popen[str]], models: Path, tmp_path: Path
) -> None:
    for _ in range(3):
        both = [
            start(
                "ml.collaborative",
                "export",
                tmp_path / "top.parquet",
                "--models-dir",
                models,
                "-n",
                n,
            )
            for n in ("100", "3")
        ]
        assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
        ranks = pd.read_parquet(tmp_path / "top.parquet").groupby("user_id")["rank"].max()
        assert ranks.max() in (3, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["top.parquet"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket", "a folder"])
def test_what_is_no_file_is_not_replaced(
    run: Run, models: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    path = tmp_path / "there"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/null")
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("there")
    first = path.lstat()  # following a link changes when it was last read
    before = first.st_ino, first.st_mode, first.st_mtime_ns
    done = run("ml.collaborative", "export", path, "--models-dir", models)
    assert (done.returncode, done.stderr) == (2, f"error: {path} is {kind}: name a file\n")
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == before
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_stays_and_its_file_is_replaced(models: Path, tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "lists.parquet", tmp_path / "link"
    link.symlink_to(target)
    if exists:
        target.write_text("old")
    rows, _ = module.export_lists(models, link, 3)
    assert link.is_symlink()
    assert len(pd.read_parquet(target)) == rows

"""Arrays that cannot be served are found when they are loaded, not at each request, and named."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from small_builds import edit_manifest
from surprise import SVD, Trainset

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import load_collaborative, load_models
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import DamagedReleaseError, InputError
from ml.collaborative.release import (
    NAMES,
    ReleaseStore,
    load_arrays,
    read_held_out,
    verify_release,
)

Array = np.ndarray[Any, Any]
ADVICE = "build again, or choose another release with python -m ml.collaborative rollback ID"


@pytest.fixture(scope="module")
def trained() -> tuple[SVD, Trainset]:
    """A small Bayesian model, which has every array, and its trainset."""
    return train_svd_model(sample_ratings().head(500), algorithm="bayesian", factors=3)


@pytest.fixture(scope="module")
def release(trained: tuple[SVD, Trainset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    held_out = np.zeros(3, dtype=[("pair", "<u8"), ("prediction", "<f8")])
    models = tmp_path_factory.mktemp("models")
    return ReleaseStore(models).publish(*trained, held_out={"held_out": held_out})


@pytest.fixture
def folder(release: Path) -> Iterator[Path]:
    """The release; what a test does to its arrays is undone."""
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    yield release
    for path, content in before.items():
        path.write_bytes(content)


def put(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and name it in the manifest as it is now."""
    (folder / name).write_bytes(content)

    def edit(manifest: dict[str, Any]) -> None:
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == name)
        entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    edit_manifest(folder, edit)


def put_array(folder: Path, name: str, change: Callable[[Array], Any]) -> None:
    file = io.BytesIO()
    np.save(file, change(np.load(folder / "arrays" / f"{name}.npy")))
    put(folder, f"arrays/{name}.npy", file.getvalue())


def assert_refused(folder: Path, name: str, said: str) -> None:
    """The error names the file, what is wrong with it, and what to do."""
    text = f"^{re.escape(str(folder / 'arrays' / name))}.npy .*{said}.*: {re.escape(ADVICE)}$"
    for load in (
        lambda: load_arrays(folder),
        lambda: load_arrays(folder, mmap=True),
        lambda: load_collaborative(folder),
        lambda: verify_release(folder),  # as before a rollback
    ):
        with pytest.raises(DamagedReleaseError, match=text):
            load()


@pytest.mark.parametrize("name", NAMES)
def test_of_each_array_type_shape_and_numbers_are_checked(folder: Path, name: str) -> None:
    right = np.load(folder / "arrays" / f"{name}.npy")
    for kind in ("float32", "float64", "int64", "U3"):
        if kind != right.dtype.name and (name, kind) != ("rated_stars", "float64"):
            put_array(folder, name, lambda _, kind=kind: right.astype(kind))
            assert_refused(folder, name, "expected")
    for change in (lambda array: array[None], lambda array: array.ravel()[0]):
        put_array(folder, name, lambda _, change=change: change(right))
        assert_refused(folder, name, "expected")
    if name not in (
        "user_ids",
        "rated_stars",
        "rated_movies",
    ):  # of two, either can be the wrong one
        for change in (lambda array: array[:-1], lambda array: np.concatenate([array, array[-1:]])):
            put_array(folder, name, lambda _, change=change: change(right))
            assert_refused(folder, name, "has the shape .* expected .* to fit the other arrays")
    for number in (np.nan, np.inf, -np.inf) if right.dtype.kind == "f" else ():
        put_array(
            folder,
            name,
            lambda _, number=number: np.where(right == right.flat[-1], number, right).astype(
                right.dtype
            ),
        )
        assert_refused(folder, name, "has numbers that are not finite")


def with_at(place: int, value: Any) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("pu", with_at(0, 1e200), "not finite, or not below 1e.09"),
        ("rated_starts", with_at(0, 1), "does not rise from 0 to 500, the number of ratings"),
        ("rated_starts", with_at(-1, 499), "does not rise from 0 to 500"),
        ("rated_starts", with_at(1, -1), "does not rise from 0 to 500"),
        ("rated_starts", with_at(2, 500), "does not rise from 0 to 500"),
        ("rated_movies", with_at(7, -1), "has numbers that are no row of the .* films"),
        ("rated_movies", with_at(7, 1_000_000), "has numbers that are no row of the"),
        ("rated_stars", with_at(0, 0.4), "has ratings outside the scale, 1 to 5"),
        ("rated_stars", with_at(0, 6), "has ratings outside the scale, 1 to 5"),
        ("rated_stars", lambda array: array[:-1], "has the shape|does not rise"),
        ("user_id_ends", with_at(0, -5), "does not rise to .* the bytes of the users' ids"),
        ("user_id_ends", with_at(-1, 1_000_000), "does not rise to"),
        ("user_id_ends", with_at(1, 0), "does not rise to"),
        ("user_ids", with_at(0, 0xFF), "has ids that are not UTF-8"),
        ("movie_ids", lambda array: array[[1, *range(1, len(array))]], "has a film twice"),
        ("ranking_head", lambda array: array[::-1], "has other numbers than rising rows"),
        ("ranking_head", with_at(0, -1), "has other numbers than rising rows"),
        ("ranking_head", with_at(-1, 99_999), "has other numbers than rising rows"),
        ("ranking_cold", with_at(0, -1), "has numbers below 0"),
        ("ranking_gram", lambda array: -array, "is not a sum of products"),
        ("ranking_gram", with_at((0, 1), 1e6), "is not a sum of products"),
        ("ranking_numbers", with_at(0, -1), "has impossible weights"),
        ("ranking_numbers", with_at(1, 0), "has impossible weights"),
        ("ranking_numbers", with_at(2, 1), "has impossible weights"),
        ("ranking_numbers", with_at(2, 1000.5), "has impossible weights"),
        ("ranking_numbers", with_at(3, 0.9), "has a threshold outside the scale: 0.9 stars"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_served_are_refused(
    folder: Path, name: str, change: Callable[[Array], Array], said: str
) -> None:
    put_array(folder, name, change)
    if name == "user_ids":
        with pytest.raises(DamagedReleaseError, match=said):
            load_collaborative(folder)
    elif name == "rated_stars" and "shape" in said:
        with pytest.raises(DamagedReleaseError, match=said):
            load_arrays(folder)
    else:
        assert_refused(folder, name, said)


def test_a_user_twice_is_refused(folder: Path) -> None:
    put_array(folder, "user_ids", lambda array: np.full_like(array, ord("a")))
    put_array(folder, "user_id_ends", lambda array: np.append(np.arange(1, len(array)), array[-1]))
    with pytest.raises(DamagedReleaseError, match=r"user_ids\.npy has a user twice: build"):
        load_collaborative(folder)


@pytest.mark.parametrize("name", ["ranking_q", "ranking_numbers"])
def test_the_ranking_is_whole_or_not_there(folder: Path, name: str) -> None:
    def leave_out(manifest: dict[str, Any]) -> None:
        manifest["files"] = [
            entry for entry in manifest["files"] if entry["name"] != f"arrays/{name}.npy"
        ]

    edit_manifest(folder, leave_out)
    for load in (load_collaborative, load_models):
        with pytest.raises(DamagedReleaseError, match=f"does not name arrays/{name}.npy: build"):
            load(folder)


@pytest.mark.parametrize("name", ["fold_in_root", "implicit", "ranking_q", "ranking_numbers"])
def test_the_pickles_parts_are_checked_too(folder: Path, name: str) -> None:
    put_array(folder, name, lambda array: array * np.nan)
    with pytest.raises(DamagedReleaseError, match=rf"{name}\.npy has numbers that are not finite"):
        load_models(folder)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': 'nothing', 'fortran_order': False, 'shape': (3,), }",
        b"{" * 5_000,
        b"",
    ],
)
def test_a_header_that_is_invented_is_refused_and_takes_no_memory(
    folder: Path, header: bytes, mmap: bool
) -> None:
    start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") if header else b""
    put(folder, "arrays/bu.npy", start + header + bytes(16))
    with pytest.raises(DamagedReleaseError, match=r"bu\.npy is not an array of numbers \("):
        load_arrays(folder, mmap=mmap)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_mean", np.nan), ("global_mean", np.inf), ("global_mean", 5.5),
        ("global_mean", 0), ("global_mean", 10**400), ("rating_scale", [1, np.nan]),
        ("rating_scale", [-np.inf, 5]), ("rating_scale", [5, 1]), ("rating_scale", [3, 3]),
        ("rating_scale", [True, 5]), ("rating_scale", [1, 10**400]), ("rating_scale", [1]),
    ],
)  # fmt: skip
def test_a_scale_or_mean_that_is_invalid_is_refused(folder: Path, name: str, value: object) -> None:
    edit_manifest(folder, lambda manifest: manifest["model"].update({name: value}))
    json.loads((folder / "manifest.json").read_text())  # which Python reads, NaN and all
    for load in (load_collaborative, load_models):
        with pytest.raises(DamagedReleaseError, match=f"not what a build writes: look at .*{name}"):
            load(folder)


@pytest.mark.parametrize("rmse", [np.nan, np.inf, -1, 10**400, True])
def test_an_invalid_error_is_refused(folder: Path, rmse: object) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(metrics=[{"rmse": rmse}]))
    with pytest.raises(DamagedReleaseError, match="look at 'metrics'"):
        load_collaborative(folder)


@pytest.mark.parametrize(
    "rows",
    [np.zeros(3), np.zeros((1, 3)), np.zeros(3, dtype=[("pair", "<u8")]),
     np.array([(1, np.nan)], dtype=[("pair", "<u8"), ("prediction", "<f8")]),
     np.zeros(3, dtype=[("pair", "<f8"), ("prediction", "<f8")])],
)  # fmt: skip
def test_invalid_held_out_predictions_are_refused(folder: Path, rows: Array) -> None:
    assert len(read_held_out(folder)["held_out"]) == 3
    file = io.BytesIO()
    np.save(file, rows)
    put(folder, "held_out.npy", file.getvalue())
    with pytest.raises(DamagedReleaseError, match=r"held_out\.npy does not say what was held out"):
        read_held_out(folder)


@pytest.mark.parametrize("name", ["svd_model.pkl", "cf_trainset.pkl"])
def test_a_pickle_of_something_else_is_refused(folder: Path, name: str) -> None:
    file = io.BytesIO()
    joblib.dump({"a": 1}, file)
    put(folder, name, file.getvalue())
    with pytest.raises(DamagedReleaseError, match=f"{name} holds a dict, expected a surprise"):
        load_models(folder)


def test_what_could_not_be_loaded_is_not_published(tmp_path: Path) -> None:
    svd, trainset = train_svd_model(sample_ratings().head(300), epochs=1, factors=2)
    svd.qi[0, 0] = np.nan
    with pytest.raises(InputError, match="cannot be published: its array qi has numbers that are"):
        save_models(svd, trainset, str(tmp_path))
    assert ReleaseStore(tmp_path).live_id() is None

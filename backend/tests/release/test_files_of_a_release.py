"""A release is verified before it is read: not a byte is unpickled that was not published."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from helpers import BACKEND
from published import names_in
from small_builds import BUILD, SMALL, Run, edit_manifest
from surprise import SVD, Trainset

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.parts import Parts, attach
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import (
    DamagedReleaseError,
    InputError,
    MissingReleaseError,
    NewerReleaseError,
    OtherVersionsError,
    ReleaseError,
)
from ml.collaborative.release import (
    NAMES,
    ReleaseStore,
    load_arrays,
    load_models,
    read_held_out,
    read_manifest,
    verify_release,
)
from ml.collaborative.release.arrays import RANKING
from ml.collaborative.release.manifest import HELD_OUT
from ml.collaborative.texts import decode_texts
from ml.collaborative.trainset import make_items_trainset

PICKLES = ("svd_model.pkl", "cf_trainset.pkl")
ADVICE = "build again, or choose another release with python -m ml.collaborative rollback ID"


@pytest.fixture
def trained() -> tuple[SVD, Trainset]:
    """A small model and its trainset."""
    return train_svd_model(sample_ratings().head(500), epochs=1, factors=3)


@pytest.fixture
def models(tmp_path: Path, trained: tuple[SVD, Trainset]) -> Path:
    """A models folder with a small release."""
    save_models(*trained, str(tmp_path / "models"))
    return tmp_path / "models"


class Harm:
    """Makes a file when it is unpickled, as harmful code would."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def name_in_manifest(folder: Path, name: str) -> None:
    """Let the manifest say of a file what it is now."""
    content = (folder / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()

    def edit(manifest: dict[str, Any]) -> None:
        (entry,) = (entry for entry in manifest["files"] if entry["name"] == name)
        entry.update(bytes=len(content), sha256=digest)

    edit_manifest(folder, edit)


# Verified before it is unpickled


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_was_not_published_is_never_unpickled(
    models: Path, tmp_path: Path, name: str, same_size: bool
) -> None:
    path, marker = models / name, tmp_path / "marker"
    published = path.stat().st_size
    harm = pickle.dumps(Harm(marker))
    path.write_bytes(harm.ljust(published, b"\0") if same_size else harm)
    assert (path.stat().st_size == published) is same_size
    with pytest.raises(DamagedReleaseError) as refused:
        load_models(models)
    assert not marker.exists()
    found = "another SHA-256" if same_size else f"has {len(harm)} bytes, published were"
    assert found in str(refused.value)
    joblib.load(path)
    assert marker.exists()  # so it would have been


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put_a_foreign_file(path: Path) -> None:
    joblib.dump({"a": "model of another program"}, path)


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[Callable[[Path], object], str] = {
    Path.unlink: "is missing",
    put_a_folder: "is missing",
    cut: r"has [\d,]+ bytes, published were [\d,]+",
    put_a_foreign_file: r"has [\d,]+ bytes, published were [\d,]+",
    flip_a_bit: r"is not the file that was published \(another SHA-256\)",
}


@pytest.mark.parametrize("name", [*PICKLES, "arrays/pu.npy"])
@pytest.mark.parametrize(("damage", "found"), DAMAGES.items())
def test_a_damaged_file_is_named_with_what_was_found_and_what_to_do(
    models: Path, name: str, damage: Callable[[Path], object], found: str
) -> None:
    folder = ReleaseStore(models).live_folder()
    damage(folder / name)
    said = f"^{re.escape(str(folder / name))} {found}: {re.escape(ADVICE)}$"
    readers: list[Callable[[], object]] = [lambda: verify_release(folder)]
    if name in PICKLES:
        readers.append(lambda: load_models(models))
        load_arrays(folder)
    else:
        readers += [lambda: load_arrays(folder), lambda: load_arrays(folder, mmap=True)]
        load_models(models)
    for read in readers:
        with pytest.raises(DamagedReleaseError, match=said):
            read()


def test_without_its_manifest_nothing_is_loaded(models: Path) -> None:
    (ReleaseStore(models).live_folder() / "manifest.json").unlink()
    with pytest.raises(DamagedReleaseError, match=r"manifest\.json is missing"):
        load_models(models)


@pytest.mark.parametrize("name", PICKLES)
def test_a_file_that_the_manifest_does_not_name_is_not_read(models: Path, name: str) -> None:
    folder = ReleaseStore(models).live_folder()

    def leave_out(manifest: dict[str, Any]) -> None:
        manifest["files"] = [entry for entry in manifest["files"] if entry["name"] != name]

    edit_manifest(folder, leave_out)
    for read in (load_models, verify_release):
        with pytest.raises(DamagedReleaseError, match=f"manifest.json does not name {name}: build"):
            read(folder)


@pytest.mark.parametrize("exists", [True, False])
def test_no_release_at_all_says_how_to_make_one(tmp_path: Path, exists: bool) -> None:
    models = tmp_path if exists else tmp_path / "models"
    said = f"no release in {models}: make one with python -m ml.build_collaborative, or name"
    with pytest.raises(MissingReleaseError, match=re.escape(said)):
        load_models(models)
    assert list(tmp_path.iterdir()) == []


def test_a_live_release_that_somebody_removed_is_damage(models: Path) -> None:
    """Unless the files at the fixed paths are those that its manifest there names."""
    shutil.rmtree(ReleaseStore(models).live_folder())
    (models / "manifest.json").unlink()
    with pytest.raises(DamagedReleaseError, match=r"manifest\.json is missing"):
        load_models(models)


def test_a_newer_schema_is_refused_before_anything_else_of_it_is_read(models: Path) -> None:
    edit_manifest(
        ReleaseStore(models).live_folder(),
        lambda manifest: manifest.update(schema_version=99, files=0),
    )
    with pytest.raises(NewerReleaseError, match=r"has schema version 99, .* reads up to 1: update"):
        load_models(models)


def _other(library: str, place: int, number: int) -> str:
    """The version installed, but for one of its numbers."""
    parts = version(library).split(".")
    parts[place] = str(number)
    return ".".join(parts)


@pytest.mark.parametrize(
    ("library", "place", "refused"),
    [
        ("scikit-surprise", 0, True), ("scikit-surprise", 1, True), ("scikit-surprise", 2, True),
        ("numpy", 0, True), ("numpy", 1, False), ("numpy", 2, False),
        ("pandas", 0, False), ("numba", 0, False), ("joblib", 1, False),
    ],
)  # fmt: skip
def test_pickles_of_other_versions_are_refused_where_they_may_not_load(
    models: Path, library: str, place: int, refused: bool
) -> None:
    folder, then, here = (
        ReleaseStore(models).live_folder(),
        _other(library, place, 99),
        version(library),
    )
    edit_manifest(folder, lambda manifest: manifest["versions"].update({library: then}))
    load_arrays(folder)  # which any NumPy reads
    if not refused:
        load_models(models)
        return
    with pytest.raises(OtherVersionsError) as error:
        load_models(models)
    assert str(error.value) == (
        f"{folder} was pickled with {library} {then}, and {here} is installed: install "
        f"{library}=={then}, build again, or use its plain arrays, which any NumPy reads"
    )


def test_every_refusal_is_an_input_error_of_the_same_kind() -> None:
    kinds = DamagedReleaseError, MissingReleaseError, NewerReleaseError, OtherVersionsError
    assert {kind.exit_code for kind in kinds} == {3}
    assert all(issubclass(kind, ReleaseError) for kind in kinds)


def test_a_reader_goes_on_to_the_next_release_where_the_one_it_reads_is_deleted(
    models: Path, trained: tuple[SVD, Trainset]
) -> None:
    seen: list[str] = []

    def read(folder: Path) -> dict[str, Any]:
        seen.append(folder.name)
        if len(seen) == 1:
            ReleaseStore(models).publish(*trained, keep=1)
            assert not folder.exists()
        return verify_release(folder)

    assert (
        ReleaseStore(models).read_live(read)["build_id"]
        == seen[1]
        == ReleaseStore(models).live_folder().name
        != seen[0]
    )


# Plain arrays


@pytest.mark.parametrize("mmap", [False, True])
def test_the_arrays_are_exactly_those_of_the_model(
    models: Path, trained: tuple[SVD, Trainset], mmap: bool
) -> None:
    svd, trainset = trained
    arrays = load_arrays(ReleaseStore(models).live_folder(), mmap=mmap)
    assert set(arrays) == set(NAMES) - {"implicit"}
    assert {isinstance(array, np.memmap) for array in arrays.values()} == {mmap}
    for name in ("bu", "bi", "pu", "qi"):
        assert arrays[name].dtype == np.float64
        np.testing.assert_array_equal(arrays[name], getattr(svd, name))
    users = decode_texts(arrays["user_ids"], arrays["user_id_ends"])
    assert users == [trainset.to_raw_uid(user) for user in trainset.all_users()]
    films = arrays["movie_ids"].tolist()
    assert films == [trainset.to_raw_iid(film) for film in trainset.all_items()]
    starts = arrays["rated_starts"].tolist()
    for user, (start, stop) in enumerate(pairwise(starts)):
        rated = arrays["rated_movies"][start:stop], arrays["rated_stars"][start:stop]
        assert list(zip(*map(np.ndarray.tolist, rated), strict=True)) == trainset.ur[user]
    assert starts[-1] == trainset.n_ratings


def test_a_bayesian_model_keeps_what_a_film_adds_to_its_users_too(tmp_path: Path) -> None:
    table = sample_ratings().head(500)
    svd, trainset = train_svd_model(table, algorithm="bayesian", factors=3)
    save_models(svd, trainset, str(tmp_path))
    arrays = load_arrays(ReleaseStore(tmp_path).live_folder())
    assert set(arrays) == set(NAMES)
    np.testing.assert_array_equal(arrays["implicit"], svd.parts.implicit)
    np.testing.assert_array_equal(arrays["pu"], svd.pu)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", ["arrays/pu.npy", "held_out.npy"])
def test_an_array_of_objects_is_refused_and_never_unpickled(
    models: Path, tmp_path: Path, trained: tuple[SVD, Trainset], name: str, mmap: bool
) -> None:
    folder = ReleaseStore(models).publish(
        *trained, held_out={"held_out": np.zeros(3, dtype=[("pair", "<u8"), ("prediction", "<f8")])}
    )
    marker = tmp_path / "marker"
    np.save(folder / name, np.array([Harm(marker)], dtype=object), allow_pickle=True)

    def read() -> object:
        return load_arrays(folder, mmap=mmap) if "arrays" in name else read_held_out(folder)

    with pytest.raises(DamagedReleaseError, match="published"):
        read()
    name_in_manifest(folder, name)
    with pytest.raises(DamagedReleaseError, match=f"{re.escape(name)} is not an array of numbers"):
        read()
    assert not marker.exists()
    np.load(folder / name, allow_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_no_array_at_all_is_refused(models: Path, mmap: bool) -> None:
    folder = ReleaseStore(models).live_folder()
    (folder / "arrays" / "bu.npy").write_bytes(b"not an array")
    name_in_manifest(folder, "arrays/bu.npy")
    with pytest.raises(DamagedReleaseError, match=r"bu\.npy is not an array of numbers"):
        load_arrays(folder, mmap=mmap)


def test_arrays_load_without_surprise_and_with_no_other_library_than_numpy(models: Path) -> None:
    code = (
        "import json, sys; sys.modules['surprise'] = None; "
        "from pathlib import Path; from ml.collaborative.release import load_arrays; "
        "arrays = load_arrays(Path(sys.argv[1]), mmap=True); "
        "del sys.modules['surprise']; "
        "print(json.dumps([arrays['pu'].sum().item(), sorted(sys.modules)]))"
    )
    folder = ReleaseStore(models).live_folder()
    done = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=BACKEND, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    total, modules = json.loads(done.stdout)
    assert total == load_arrays(folder)["pu"].sum()
    heavy = {"pandas", "joblib", "surprise", "numba", "scipy", "matplotlib", "supabase", "pydantic"}
    assert "numpy" in modules
    assert heavy & set(modules) == set()


# From where it is loaded


def test_it_loads_from_the_models_folder_from_a_release_and_from_a_copy_of_one(
    models: Path, tmp_path: Path, trained: tuple[SVD, Trainset]
) -> None:
    expected = trained[0].predict("ml_sample_1", 862)
    shutil.copytree(models, tmp_path / "copy")
    shutil.copytree(ReleaseStore(models).live_folder(), tmp_path / "alone")
    for folder in (
        models, ReleaseStore(models).live_folder(),  tmp_path / "copy",
        tmp_path / "alone",
    ):  # fmt: skip
        svd, trainset = load_models(folder)
        assert svd.predict("ml_sample_1", 862) == expected
        assert svd.build_id == trainset.build_id == ReleaseStore(models).live_folder().name
    assert load_models(str(models))[0].predict("ml_sample_1", 862) == expected


def test_a_plain_service_loads_both_files_at_the_fixed_paths_from_wherever_it_runs(
    models: Path, tmp_path: Path, trained: tuple[SVD, Trainset]
) -> None:
    code = (
        "import joblib, json, sys; svd, trainset = map(joblib.load, sys.argv[1:]); "
        "from surprise import SVD, Trainset; "
        "assert type(svd) is SVD and isinstance(trainset, Trainset); "
        "print(json.dumps([trainset.n_ratings, *(svd.predict(user, film).est "
        "for user in ('ml_sample_1', 'nobody') for film in (862, -1))]))"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *(models / name for name in PICKLES)],
        cwd=elsewhere, env={"PYTHONPATH": str(BACKEND)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    svd, trainset = trained
    pairs = [(user, film) for user in ("ml_sample_1", "nobody") for film in (862, -1)]
    predicted = [svd.predict(*pair).est for pair in pairs]
    assert json.loads(done.stdout) == [trainset.n_ratings, *predicted]


# The same again


@pytest.mark.parametrize("algorithm", ["svd", "bayesian"])
def test_two_builds_of_the_same_give_the_same_arrays_byte_for_byte_and_another_seed_others(
    run: Run, tmp_path: Path, algorithm: str
) -> None:
    args = SMALL if algorithm == "svd" else ("--algorithm", algorithm, "--factors", "5")
    hashes = {}
    for name, seed, hash_seed in (("one", "0", "1"), ("again", "0", "2"), ("other", "7", "1")):
        done = run(BUILD, "--dataset", "sample", *args, "--seed", seed, "--models-dir",
                   tmp_path / name, PYTHONHASHSEED=hash_seed)  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = read_manifest(ReleaseStore(tmp_path / name).live_folder())["files"]
        hashes[name] = {
            entry["name"]: entry["sha256"] for entry in files if entry["name"].endswith(".npy")
        }
    assert hashes["one"] == hashes["again"]
    arrays = len(NAMES) - (algorithm == "svd")  # which has no `implicit`
    assert len(hashes["one"]) == arrays + len(HELD_OUT)
    same = {name for name, digest in hashes["one"].items() if hashes["other"][name] == digest}
    of_the_data = (
        "user_ids", "user_id_ends", "movie_ids", "rated_starts", "rated_movies", "rated_stars",
        *RANKING,  # whose seed is 0 in every build
    )  # fmt: skip
    assert same == {f"arrays/{name}.npy" for name in of_the_data}


# What the pickles hold


@pytest.mark.parametrize("algorithm", ["svd", "bayesian"])
def test_pickles_name_no_class_of_ours_but_the_trainsets(tmp_path: Path, algorithm: str) -> None:
    table = sample_ratings().head(500)
    save_models(*train_svd_model(table, algorithm=algorithm, factors=3), str(tmp_path))
    for name in PICKLES:
        content = (tmp_path / name).read_bytes()
        ours = {n for n in names_in(tmp_path / name) if n.startswith("ml.")}
        assert ours
        assert all(n.startswith("ml.collaborative.trainset.") for n in ours), ours
        assert set(re.findall(rb"ml\.[a-z_.]+", content)) == {b"ml.collaborative.trainset"}
        assert not hasattr(joblib.load(tmp_path / name), "parts")


@pytest.mark.parametrize("algorithm", ["svd", "bayesian", "item-only"])
def test_saving_what_was_loaded_loses_nothing(tmp_path: Path, algorithm: str) -> None:
    table = sample_ratings().head(500)
    if algorithm == "item-only":
        svd, trainset = train_svd_model(table, epochs=1, factors=3)
        root = load_arrays(ReleaseStore(tmp_path / "usual").publish(svd, trainset))["fold_in_root"]
        films = make_items_trainset(
            [trainset.to_raw_iid(item) for item in trainset.all_items()], (1.0, 5.0), 3.5
        )
        svd.bu, svd.pu, svd.trainset = np.zeros(0), np.zeros((0, 3)), films
        model = attach(svd, Parts(fold_in_root=root)), films
    else:
        model = train_svd_model(table, algorithm=algorithm, factors=3)
    first = ReleaseStore(tmp_path / "one").publish(*model)
    loaded = load_models(tmp_path / "one")
    assert type(loaded[0]) is SVD
    second = ReleaseStore(tmp_path / "two").publish(*loaded)
    one, two = load_arrays(first), load_arrays(second)
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])
    manifests = read_manifest(first), read_manifest(second)
    assert [m["model"].get("shape") for m in manifests] == (
        ["item-only" if algorithm == "item-only" else None] * 2
    )
    assert manifests[0]["data"] == manifests[1]["data"]


@pytest.mark.parametrize(
    "name", ["svd_model.pkl", "cf_trainset.pkl", "manifest.json", "arrays/qi.npy", "held_out.npy"]
)
def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(
    tmp_path: Path, trained: tuple[SVD, Trainset], name: str
) -> None:
    folder = ReleaseStore(tmp_path).publish(
        *trained, held_out={"held_out": np.zeros(3, dtype=[("pair", "<u8"), ("prediction", "<f8")])}
    )
    path = folder / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2149\n")
    said = f"^{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`$"
    with pytest.raises(DamagedReleaseError, match=said):
        verify_release(folder)


@pytest.mark.parametrize("name", ["live", "history.jsonl"])
def test_a_pointer_in_place_of_what_says_which_release_is_live_says_so(
    models: Path, name: str
) -> None:
    (models / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(InputError, match=f"^{models / name} is a Git LFS pointer"):
        ReleaseStore(models).roll_back()

"""The manifest: as its schema says, true, no secret in it, and a clear error if it is invalid."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
from helpers import BACKEND, copy_backend
from jsonschema import Draft202012Validator
from postgrest_server import SupabaseServer
from pydantic import ValidationError
from small_builds import BUILD, SAMPLE, SMALL, Run, edit_manifest, write_set

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import __version__
from ml.collaborative.algorithms.training import PLAN, find_algorithm, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import DamagedReleaseError, InputError, MlError, NewerReleaseError
from ml.collaborative.evaluation import hold_out
from ml.collaborative.evaluation.splits import fixed_fifth
from ml.collaborative.ratings import Counts, combine, empty_ratings, table_hash
from ml.collaborative.release import (
    ReleaseStore,
    counts_of,
    draft_manifest,
    read_manifest,
    verify_release,
)
from ml.collaborative.release.manifest import PARTS
from ml.collaborative.release.schema import Manifest, json_schema
from ml.collaborative.release.writing import _manifest_bytes
from ml.collaborative.report import page as report
from ml.collaborative.report import summary

SCHEMA = json.loads((BACKEND / "docs/manifest.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
ONE_FILM = "a catalog of one film"


def read(folder: Path) -> dict[str, Any]:
    """The manifest as any program reads it: strict JSON."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    text = (folder / "manifest.json").read_text(encoding="utf-8")
    return dict(json.loads(text, parse_constant=refuse))


def refusals(manifest: dict[str, Any]) -> list[str]:
    """What the schema, or the declaration that it is generated from, says against it."""
    refused = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(manifest)]
    try:
        Manifest.model_validate(manifest, strict=True)
    except ValidationError as error:
        return [*refused, str(error)]
    return refused


def parts_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a JSON document, of lists no more than two entries."""
    if path:
        yield path
    keys: Any = value if isinstance(value, dict) else ()
    if isinstance(value, list):
        keys = range(min(2, len(value)))
    for key in keys:
        yield from parts_of(value[key], (*path, key))


@pytest.fixture(scope="module")
def published(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a release whose manifest has all there can be but a catalog."""
    models = tmp_path_factory.mktemp("models")
    done = run(BUILD, "--dataset", "sample", "--models-dir", models, "--factors", "5",
               "--report")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return models


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release's folder that may be changed."""
    save_models(*train_svd_model(sample_ratings().head(500), epochs=1, factors=2), str(tmp_path))
    return ReleaseStore(tmp_path).live_folder()


# As its schema says


def test_the_schema_in_the_docs_is_the_one_generated_from_the_declaration() -> None:
    """After a change: `make schema`."""
    assert json_schema() == SCHEMA
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    assert (BACKEND / "docs/manifest.schema.json").read_text(encoding="utf-8") == text


def test_what_readers_rely_on_is_declared() -> None:
    for name in PARTS:
        schema: Any = SCHEMA
        for key in name.split("."):
            if "$ref" in schema:
                schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
            assert key in schema["required"], name
            schema = schema["properties"][key]


def test_what_is_not_as_declared_is_never_written(release: Path) -> None:
    good = read(release)
    assert json.loads(_manifest_bytes(good)) == good
    with pytest.raises(InputError, match="not as declared"):
        _manifest_bytes(good | {"password": "secret"})


def test_the_schema_is_one_and_describes_every_property_in_words() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    properties = [
        (path, part)
        for path, part in _walk(SCHEMA)
        if path[-2:-1] == ("properties",) and not {"allOf", "contains"} & set(path)
    ]
    assert len(properties) > 60
    assert [path for path, part in properties if len(part.get("description", "")) < 10] == []
    closed = [path for path, part in _walk(SCHEMA) if part.get("required") and "properties" in part]
    closed_as_well = [
        path for path, part in _walk(SCHEMA) if part.get("additionalProperties") is False
    ]
    assert closed == closed_as_well
    assert [path for path, part in _walk(SCHEMA) if "default" in part] == []


def _walk(schema: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every object in a schema, with its path."""
    if isinstance(schema, dict):
        yield path, schema
    items: Any = schema.items() if isinstance(schema, dict) else ()
    if isinstance(schema, list):
        items = enumerate(schema)
    for key, value in items:
        yield from _walk(value, (*path, key))


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (SMALL, 0),
        (("--algorithm", "bayesian", "--factors", "5"), 0),
        (("--report", "--seed", "4294967295", *SMALL), 0),
        (("--catalog", "ids.pkl", *SMALL), 0),
        (("--catalog", "one.pkl", *SMALL), 0),
        (("--lr", "1e-300"), 5),
        (("--lr", "1e-300", "--force-publish"), 0),
    ],
    ids=["plain", "bayesian", "report", "catalog", ONE_FILM, "refused", "forced"],
)
def test_each_kind_of_build_writes_a_valid_manifest(
    run: Run, tmp_path: Path, args: tuple[str, ...], code: int
) -> None:
    joblib.dump([862, 603, 11, 999_999_999], tmp_path / "ids.pkl")
    joblib.dump([862], tmp_path / "one.pkl")
    paths = [str(tmp_path / arg) if arg.endswith(".pkl") else arg for arg in args]
    models = tmp_path / "models"
    done = run(BUILD, "--dataset", "sample", "--models-dir", models, *paths)
    assert done.returncode == code, done.stderr
    folder = next((models / "refused").iterdir()) if code else ReleaseStore(models).live_folder()
    manifest = read(folder)
    assert refusals(manifest) == []
    assert manifest["build_id"] == folder.name
    digits = re.sub(r"\D", "", manifest["created"])
    assert folder.name.startswith(f"{digits[:8]}-{digits[8:]}-")


def test_a_manifest_with_all_there_can_be_is_valid(published: Path) -> None:
    manifest = read(published)
    assert refusals(manifest) == []
    assert {score["held_out"] for score in manifest["metrics"]} == {
        "a fifth by hash of user and film"
    }


def test_a_model_saved_alone_has_a_valid_manifest_that_says_null_for_what_it_does_not_know(
    release: Path,
) -> None:
    manifest = read(release)
    assert refusals(manifest) == []
    unknown = {"asked", "algorithm", "parameters", "seed", "catalog", "gate"}
    assert {name for name, part in manifest.items() if part is None} == unknown
    assert (manifest["metrics"], manifest["data"]["sources"]) == ([], [])
    assert manifest["data"]["table_sha256"] is None
    assert manifest["data"]["ratings"] == 500


def test_the_schema_refuses_what_no_build_writes(published: Path) -> None:
    good = read(published)

    def refused(edit: Callable[[dict[str, Any]], object]) -> bool:
        manifest = copy.deepcopy(good)
        edit(manifest)
        return bool(refusals(manifest))

    for path in parts_of(good):
        *above, last = path

        def part(manifest: dict[str, Any], keys: list[Any] = above) -> Any:
            for key in keys:
                manifest = manifest[key]
            return manifest

        if (
            isinstance(last, str)
            and "dropped" not in path
            and last != "lists"
            and "ndcg" not in part(good)
        ):
            assert refused(lambda m, p=part, n=last: p(m).pop(n)), path
            assert refused(lambda m, p=part: p(m).update(more=1)), path
        assert refused(lambda m, p=part, n=last: p(m).__setitem__(n, object)), path
    for name in ("/etc/passwd", "../svd_model.pkl", "arrays/../x.npy", "arrays\\bu.npy", ""):
        assert refused(lambda m, n=name: m["files"][0].update(name=n)), name
    assert refused(lambda m: m.update(algorithm="svd"))
    assert refused(lambda m: m.update(created="2026-01-01 00:00:00"))
    assert refused(lambda m: m["files"].pop())


# True


def test_its_facts_are_those_of_the_real_data(
    run: Run, tmp_path: Path, movielens_archives: Path, real_ratings: pd.DataFrame
) -> None:
    done = run(
        BUILD, "--catalog", "all", *SMALL, "--data-dir",
        tmp_path / "data", "--models-dir", tmp_path, MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = read(tmp_path)
    assert refusals(manifest) == []
    table = combine(real_ratings, empty_ratings())
    assert counts_of(manifest) == Counts(99_645, 943, 1645, 0, 0, is_sample=False)
    assert manifest["data"]["table_sha256"] == table_hash(table)
    assert manifest["data"]["sources"] == [
        {
            "name": "ml-100k",
            "rows": 100_000,
            "dropped": {"the film has no TMDB id": 46, "the same user rated the film again": 309},
            "kept": 99_645,
            "users": 943,
            "films": 1645,
        },
    ]
    assert manifest["model"] == {
        "factors": 5,
        "global_mean": pytest.approx(table["rating"].mean()),
        "rating_scale": [1.0, 5.0],
        "lists": "ranking",
    }
    assert manifest["parameters"] == {"factors": 5, "epochs": 2, "lr": PLAN.lr, "reg": PLAN.reg}
    assert (manifest["algorithm"], manifest["seed"], manifest["catalog"]) == ("svd", 0, None)

    ways = {score["held_out"] for score in manifest["metrics"]}
    assert ways == {"a fifth by hash of user and film"}
    first = manifest["metrics"][0]
    assert (first["model"], first["users"]) == ("SVD as asked for", "all users")
    assert first["ratings"] == len(fixed_fifth(table)[0].test)
    training = make_training(find_algorithm("svd"), 0, factors=5, epochs=2)
    again = hold_out(table, [training], with_plan=False)
    assert first["rmse"] == again.scores[0].measures.rmse
    gate = manifest["gate"]
    assert gate["passed"] is all(check["passed"] for check in gate["checks"])
    assert gate["forced"] is not gate["passed"]


def test_its_files_are_all_there_are_with_their_sizes_and_hashes(published: Path) -> None:
    folder = ReleaseStore(published).live_folder()
    found = [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": len(path.read_bytes()),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    ]
    assert read(published)["files"] == sorted(found, key=lambda entry: entry["name"])
    assert {"report.html", "held_out.npy"} <= {entry["name"] for entry in found}
    assert verify_release(folder) == read(published)


def test_its_versions_are_those_installed(published: Path) -> None:
    libraries = ("numpy", "scikit-surprise", "pandas", "numba", "joblib")
    assert read(published)["versions"] == {
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "ml": __version__,
    }


def test_a_catalog_is_told_by_its_films_and_their_hash(run: Run, tmp_path: Path) -> None:
    films = [9_999_999, 862, 603, 862]
    joblib.dump(films, tmp_path / "ids.pkl")
    args = "--catalog", tmp_path / "ids.pkl", "--models-dir", tmp_path / "models"
    assert run(BUILD, *SAMPLE, *args).returncode == 0
    manifest = read(tmp_path / "models")
    lines = b"603\n862\n9999999\n"
    assert manifest["catalog"] == {
        "films": 3, "sha256": hashlib.sha256(lines).hexdigest(), "covered": 2,
        "published": 2,
    }  # fmt: skip
    table = sample_ratings()
    source = manifest["data"]["sources"][0]  # trained on, whatever the catalog
    assert (source["rows"], source["kept"], source["films"]) == (len(table), len(table), 124)
    assert joblib.load(tmp_path / "models" / "cf_trainset.pkl").n_items == 2


def _head() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or None


def test_its_commit_is_the_checkouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = train_svd_model(sample_ratings().head(100), epochs=1, factors=2)
    before, commit = _head(), draft_manifest(*model)["git_commit"]
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(tmp_path))  # as git sets it for a hook of any repository
        in_a_hook = draft_manifest(*model)["git_commit"]
    assert {commit, in_a_hook} <= {before, _head()}
    monkeypatch.setenv("PATH", "")
    assert draft_manifest(*model)["git_commit"] is None  # there is no git


@pytest.mark.slow
def test_code_outside_any_repository_has_no_commit(
    script_env: dict[str, str], tmp_path: Path
) -> None:
    copy_backend(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", BUILD, *SAMPLE], cwd=tmp_path, env=script_env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = read(tmp_path / "ml" / "models")
    assert manifest["git_commit"] is None
    assert refusals(manifest) == []


def test_build_ids_are_in_order_of_time_also_within_a_second() -> None:
    model = train_svd_model(sample_ratings().head(100), epochs=1, factors=2)
    ids = [draft_manifest(*model)["build_id"] for _ in range(20)]
    assert ids == sorted(set(ids))


# Nothing secret in it


def test_no_key_and_no_app_user_is_in_it_or_the_log_and_their_rows_are_counted(
    run: Run, tmp_path: Path, supabase_server: SupabaseServer
) -> None:
    write_set(tmp_path)
    people = [f"person-{n}@example.org" for n in range(12)]
    people.append("5f0c1d2e-0000-4000-8000-00000000cafe")
    supabase_server.create_table("user_id text, movie_id numeric, rating double precision")
    supabase_server.insert([(p, film, 3.5) for p in people for film in range(101, 111)])
    supabase_server.insert(
        [
            (people[0], 101, 5), (people[1], None, 3), (None, 101, 3), (people[2], 111, 9),
            (people[2], 112, "NaN"), (people[3], 4.5, 3), ("ml_7", 101, 3), (people[4], 113, 0.5),
        ]
    )  # fmt: skip
    done = run(
        BUILD, "--dataset", "ml-latest", "--catalog", "all", *SMALL, "--data-dir", tmp_path,
        "--models-dir", tmp_path / "models", "--verbose",
        SUPABASE_URL=supabase_server.url, SUPABASE_SERVICE_ROLE_KEY=supabase_server.service_key,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    models = tmp_path / "models"
    manifest = read(models)
    assert refusals(manifest) == []
    written = [(models / name).read_text() for name in ("manifest.json", "history.jsonl")]
    for text in (*written, done.stdout, done.stderr):
        assert supabase_server.service_key not in text
        assert "example.org" not in text
        assert people[-1] not in text
    for text in written:
        assert supabase_server.url not in text
        assert str(tmp_path) not in text
        assert platform.node() not in text
    assert counts_of(manifest) == Counts(600 + 131, 30 + 13, 20, 131, 13, is_sample=False)
    (source,) = (entry for entry in manifest["data"]["sources"] if entry["name"] == "app")
    assert source == {
        "name": "app",
        "rows": 138,
        "dropped": {
            "second rating of a film": 1,
            "user or film is null": 2,
            "user id begins with the reserved 'ml_'": 1,
            "film is not a positive integer": 1,
            "rating is not a number": 1,
            "rating outside 0.5 to 5": 1,
        },
        "kept": 131,
        "users": 13,
        "films": 11,
    }
    assert source["rows"] == source["kept"] + sum(source["dropped"].values())


# A clear error if it is invalid


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema_version": 1, "build', "is not JSON: cut, or from another program"),
        ("", "is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ('["schema_version", 1]', "is not a manifest: it has no schema_version"),
        ("null", "is not a manifest"),
        ('{"schema_version": "1"}', "is not a manifest"),
    ],
)
def test_what_is_no_manifest_is_refused_and_says_so(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedReleaseError, match=re.escape(f"{tmp_path / 'manifest.json'} {why}")):
        read_manifest(tmp_path)


def test_one_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes('{"schema_version": 1}'.encode("utf-16"))
    with pytest.raises(DamagedReleaseError, match="is not JSON"):
        read_manifest(tmp_path)


def test_one_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DamagedReleaseError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path)


def test_one_of_a_newer_schema_says_to_update_or_to_go_back(release: Path) -> None:
    edit_manifest(release, lambda manifest: manifest.update(schema_version=2, files="elsewhere"))
    said = r"has schema version 2, this code reads up to 1: update the code, or choose an older"
    with pytest.raises(NewerReleaseError, match=said):
        read_manifest(release)


@pytest.mark.parametrize("part", [name for name in SCHEMA["required"] if name != "schema_version"])
def test_one_without_a_part_names_it(release: Path, part: str) -> None:
    edit_manifest(release, lambda manifest: manifest.pop(part))
    with pytest.raises(DamagedReleaseError, match=f"is not what a build writes: look at '{part}'"):
        read_manifest(release)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("build_id", "../../elsewhere", "build_id"),
        ("build_id", 7, "build_id"),
        ("data", [], "data"),
        ("data.ratings", "many", "data.ratings"),
        ("data.app_users", None, "data.app_users"),
        ("data.sources", [{"name": "app"}], "data.sources"),
        ("model.rating_scale", [1], "model.rating_scale"),
        ("model.global_mean", "3.5", "model.global_mean"),
        ("metrics", {}, "metrics"),
        ("metrics", [{"rmse": "low"}], "metrics"),
        ("gate", "passed", "gate"),
        ("files", 3, "files"),
        ("files", ["svd_model.pkl"], "files"),
        ("files", [{"name": "svd_model.pkl", "bytes": "10", "sha256": ""}], "files"),
        ("versions.numpy", None, "versions.numpy"),
    ],
)
def test_one_with_a_part_of_another_type_names_it(
    release: Path, path: str, value: object, named: str
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        *above, last = path.split(".")
        for name in above:
            manifest = manifest[name]
        manifest[last] = value

    edit_manifest(release, edit)
    with pytest.raises(DamagedReleaseError, match=re.escape(f"look at '{named}'")):
        read_manifest(release)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../svd_model.pkl", "arrays/../../x", "..", "C:/x", "C:x", "\\\\host\\x",
        "arrays\\bu.npy", "svd_model.pkl\x00", "", "arrays//bu.npy", "./svd_model.pkl",
    ],
)  # fmt: skip
def test_a_file_that_could_be_outside_the_release_is_refused(release: Path, name: str) -> None:
    edit_manifest(release, lambda manifest: manifest["files"][0].update(name=name))
    with pytest.raises(DamagedReleaseError, match="look at 'files'"):
        read_manifest(release)


def test_no_part_that_is_missing_or_of_another_type_brings_a_reader_down(
    published: Path, tmp_path: Path
) -> None:
    """Every reader takes it or raises an error for people, whatever the part is."""
    models = tmp_path / "models"
    shutil.copytree(published, models, symlinks=True)
    folder = ReleaseStore(models).live_folder()
    good = read(folder)
    inputs = {"algorithm": "svd", "table_sha256": good["data"]["table_sha256"]}
    readers: list[Callable[[], object]] = [
        lambda: summary.describe_releases(models, ReleaseStore(models).releases()),
        lambda: ReleaseStore(models).find_same(inputs),
        lambda: report.describe_facts(read_manifest(folder)),
        lambda: counts_of(read_manifest(folder)).ratings + 1,
    ]
    missing = object()
    tried = refused = 0
    for path in parts_of(good):
        for value in (missing, None, "x", -1, [], {}, ["x"], {"x": 1}):
            manifest = copy.deepcopy(good)
            part: Any = manifest
            for key in path[:-1]:
                part = part[key]
            if value is missing:
                del part[path[-1]]
            else:
                part[path[-1]] = value
            (folder / "manifest.json").write_text(json.dumps(manifest))
            for reader in readers:
                tried += 1
                try:
                    reader()
                except MlError:
                    refused += 1
    assert tried > refused > 500

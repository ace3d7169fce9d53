"""What was live when: the list, the way back, what is deleted, and builds only where need be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from helpers import BACKEND, contents
from postgrest_server import SupabaseServer
from published import Model, age, ids_at_fixed_paths, ids_loaded, new_id, tell
from small_builds import BUILD, SAMPLE, SMALL, Run, build, edit_manifest, write_set

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import DamagedReleaseError, MissingReleaseError
from ml.collaborative.ratings import make_ratings
from ml.collaborative.release import ReleaseStore, load_models, read_manifest
from ml.collaborative.release.history import History
from ml.collaborative.serving import load_collaborative

TOOL, NAME = "ml.collaborative", "python -m ml.collaborative"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder, empty as yet."""
    return tmp_path / "models"


@pytest.fixture
def ask(run: Run, models: Path) -> Run:
    """Run a build, or the tool where that is asked for, on the models folder."""

    def ask(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        module = TOOL if args[0] in ("releases", "rollback") else BUILD
        return run(module, *args, "--models-dir", models, **env)

    return ask


@pytest.fixture
def releases(models: Path) -> Callable[..., list[str]]:
    """Publish so many small releases, without a process of their own; their build ids."""

    def releases(number: int, **how: Any) -> list[str]:
        model = train_svd_model(sample_ratings().head(500), epochs=1, factors=2)
        return [ReleaseStore(models).publish(*model, **how).name for _ in range(number)]

    return releases


def go_back(ask: Run, *asked: str) -> str:
    """Roll back; the build id of what is live again."""
    done = ask("rollback", *asked)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()[1]


def assert_live(models: Path, build_id: str, action: str) -> None:
    """At the fixed paths, in the log and by what a reader finds, this release is live."""
    assert ReleaseStore(models).live_folder().name == build_id
    for name in ("svd_model.pkl", "cf_trainset.pkl", "manifest.json"):
        assert (models / name).read_bytes() == (
            ReleaseStore(models).live_folder() / name
        ).read_bytes()
    svd, trainset = load_models(models)
    assert svd.build_id == trainset.build_id == build_id
    last = json.loads((models / "history.jsonl").read_text().splitlines()[-1])
    assert (last["build_id"], last["action"]) == (build_id, action)
    assert last.keys() == {"time", "build_id", "action"}


def state_of(models: Path) -> dict[str, tuple[int, bytes]]:
    """Each file's time of change and content, and each link's end; the lock is left out."""
    state = {}
    for folder, _, names in os.walk(models):
        for path in (Path(folder, name) for name in names if name != ".lock"):
            content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            state[str(path.relative_to(models))] = path.lstat().st_mtime_ns, content
    return state


# releases


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_has_no_releases_to_list(ask: Run, models: Path, exists: bool) -> None:
    if exists:
        models.mkdir()
    done = ask("releases")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"no releases in {models}\n", "")
    assert models.exists() is exists


def test_the_list_shows_each_release_and_marks_what_is_particular(ask: Run, models: Path) -> None:
    good = build(models, "--dataset", "sample", "--algorithm", "svd", "--factors", "5")
    forced = build(models, *SAMPLE, "--lr", "1e-300")
    bayesian = build(models, "--dataset", "sample", "--algorithm", "bayesian",
                     "--factors", "5")  # fmt: skip
    save_models(*train_svd_model(sample_ratings().head(500), epochs=1, factors=2), str(models))
    alone = ReleaseStore(models).live_folder().name
    go_back(ask, good)
    (models / "releases" / bayesian / "manifest.json").write_text('{"schema_version"')
    done = ask("releases")
    assert (done.returncode, done.stderr) == (0, "")
    title, *rows, legend = done.stdout.splitlines()
    assert title.split() == (
        ["release", "built", "(UTC)", "ratings", "of", "app", "users", "films", "RMSE", "algorithm"]
    )
    assert legend == (
        "* live. Films: published. RMSE: on the fifth held out of that build; not to be compared "
        "between catalogs"
    )
    assert [row[2:24] for row in rows] == [alone, bayesian, forced, good]
    assert [row[0] for row in rows] == [" ", " ", " ", "*"]
    rmse = read_manifest(ReleaseStore(models).live_folder())["metrics"][0]["rmse"]
    created = read_manifest(ReleaseStore(models).live_folder())["created"]
    assert rows[3].split() == [
        "*", good, created[:10], created[11:16], "26,765", "0", "600", "124", f"{rmse:.4f}",
        "svd,", "sample",
    ]  # fmt: skip
    assert rows[2].endswith("  svd, sample, forced")
    assert rows[1].endswith("manifest.json is not JSON: cut, or from another program")
    assert rows[0].split()[3:] == (
        ["500", "0", "12", "120", "-", "unknown,", "sample,", "rolled", "back"]
    )
    end = title.index("RMSE") + len("RMSE")
    assert [row[:end].split()[-1] for row in (rows[0], rows[3])] == ["-", f"{rmse:.4f}"]


# rollback


def test_rolling_back_skips_what_was_rolled_back_before(ask: Run, models: Path) -> None:
    first, second = build(models), build(models)
    done = ask("rollback")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"release {first} is live again, in place of {second}\n"
    assert_live(models, first, "rollback")
    third = build(models)
    assert_live(models, third, "publish")
    assert go_back(ask) == first  # not the second, which was no good
    assert_live(models, first, "rollback")
    assert History(models).rolled_back() == {second, third}
    log = History(models).lines()
    assert [line["build_id"] for line in log] == [first, second, first, third, first]


def test_one_can_go_back_to_any_release_and_forward_again(
    ask: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second, third = releases(3)
    assert go_back(ask, first) == first
    assert_live(models, first, "rollback")
    assert go_back(ask, second) == second
    assert History(models).rolled_back() == {third}
    assert go_back(ask, third) == third
    assert_live(models, third, "rollback")
    assert History(models).rolled_back() == set()
    before = state_of(models)
    done = ask("rollback", third)
    assert (done.returncode, done.stdout) == (
        0, f"release {third} is live already: nothing done\n"
    )  # fmt: skip
    assert state_of(models) == before


@pytest.mark.parametrize("asked", ["20200101-000000-abcdef", "..", "live"])
def test_a_release_that_is_not_there_is_wrong_usage(
    ask: Run, models: Path, releases: Callable[..., list[str]], asked: str
) -> None:
    releases(2)
    before = state_of(models)
    done = ask("rollback", asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: no release {asked!r} in {models}: {NAME} releases shows those kept\n"
    )
    assert state_of(models) == before


@pytest.mark.parametrize("number", [0, 1])
def test_with_nothing_older_there_is_no_way_back(
    ask: Run, models: Path, releases: Callable[..., list[str]], number: int
) -> None:
    releases(number)
    done = ask("rollback")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {models} has no release to roll back to that is older than the live one: "
        f"{NAME} releases shows those kept\n"
        if number
        else f"error: {models} is not a folder: there is nothing to roll back to\n"
    )
    assert models.is_dir() == bool(number)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("damaged", ["svd_model.pkl", "arrays/qi.npy", "manifest.json"])
def test_a_damaged_release_does_not_become_live_again(
    ask: Run, models: Path, releases: Callable[..., list[str]], damaged: str, asked: bool
) -> None:
    first, second = releases(2)
    path = models / "releases" / first / damaged
    path.write_bytes(path.read_bytes()[:-9])
    before = state_of(models)
    done = ask("rollback", *([first] if asked else []))
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path} ")
    assert state_of(models) == before
    assert_live(models, second, "publish")


def test_one_goes_back_from_a_live_release_that_is_damaged(
    ask: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second = releases(2)
    (models / "releases" / second / "manifest.json").unlink()
    done = ask("rollback")
    assert (done.returncode, done.stdout) == (
        0, f"release {first} is live again, in place of {second}\n",
    )  # fmt: skip
    assert (
        f"{second} is live, but not complete: choose another with {NAME} rollback ID" in done.stderr
    )
    assert_live(models, first, "rollback")


# The log


def test_the_log_only_grows_and_its_last_line_names_what_is_live(ask: Run, models: Path) -> None:
    log, written = models / "history.jsonl", b""

    def grew(action: str) -> None:
        nonlocal written
        now = log.read_bytes()
        assert now.startswith(written)
        assert now[len(written) :].count(b"\n") == 1
        assert now.endswith(b"\n")
        written = now
        assert_live(models, ReleaseStore(models).live_folder().name, action)

    first = build(models, "--dataset", "sample")
    grew("publish")
    second = build(models, "--dataset", "sample", "--lr", "1e-300", "--force-publish")
    grew("force-publish")
    go_back(ask)
    grew("rollback")
    build(models, "--keep", "1", *SAMPLE)
    grew("force-publish")
    assert ask("rollback", second).returncode == 2
    assert ask("--dataset", "sample", "--lr", "1e-300").returncode == 5
    assert log.read_bytes() == written
    assert [line["build_id"] for line in History(models).lines()][:3] == [first, second, first]


@pytest.mark.parametrize(
    "rest", [b'{"time": "2026-01', b'["no", "entry"]', b'{"time": 1, "build_id']
)
def test_a_last_line_that_a_crash_cut_is_survived(
    ask: Run, models: Path, releases: Callable[..., list[str]], rest: bytes
) -> None:
    first, second = releases(2)
    log = models / "history.jsonl"
    before = log.read_bytes() + rest
    log.write_bytes(before)
    assert len(History(models).lines()) == 2
    assert ask("releases").returncode == 0
    assert go_back(ask) == first
    assert log.read_bytes().startswith(before + b"\n")
    assert [line["build_id"] for line in History(models).lines()] == [first, second, first]
    assert_live(models, first, "rollback")


def test_lines_of_another_kind_are_no_entries(
    ask: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second = releases(2)
    log = models / "history.jsonl"
    strange = '{"time": 1, "build_id": 2, "action": "rollback"}\nnull\n\n\u2028[]\n'
    log.write_bytes(strange.encode() + b"\xff\xfe\n" + log.read_bytes())
    assert [line["build_id"] for line in History(models).lines()] == [first, second]
    assert ask("releases").returncode == 0
    assert go_back(ask) == first


def test_a_line_that_a_crash_kept_from_the_log_is_written_by_the_next(
    ask: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second = releases(2)
    log = models / "history.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:1]))
    assert go_back(ask) == first
    actions = [(line["build_id"], line["action"]) for line in History(models).lines()]
    assert actions == [(first, "publish"), (second, "publish"), (first, "rollback")]


def test_a_log_that_cannot_be_written_is_a_warning_and_the_release_is_live(
    models: Path, releases: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    (models / "history.jsonl").mkdir(parents=True)
    (first,) = releases(1)
    assert f"{first} is live; history.jsonl could not be written: " in caplog.text
    assert load_models(models)[0].build_id == first


# --keep


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (2, 2), (9, 4)])
def test_so_many_of_the_newest_releases_are_kept(
    models: Path, releases: Callable[..., list[str]], keep: int, kept: int
) -> None:
    before = releases(3)
    new = build(models, *SAMPLE, "--keep", str(keep))
    assert ReleaseStore(models).build_ids() == [*before, new][-kept:]
    assert {path.name for path in (models / "releases").iterdir()} == set(
        ReleaseStore(models).build_ids()
    )
    assert_live(models, new, "publish")


def test_five_are_kept_unless_said_otherwise(
    releases: Callable[..., list[str]], models: Path
) -> None:
    published = releases(7)
    assert ReleaseStore(models).build_ids() == published[-5:]


def test_the_live_release_is_never_deleted_and_what_was_live_before_may_be(
    ask: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second, third = releases(3)
    assert go_back(ask, first) == first
    assert ReleaseStore(models).build_ids() == [first, second, third]  # a rollback lets nothing go
    assert ask("--dataset", "sample", "--lr", "1e-300", "--keep", "1").returncode == 5
    assert ReleaseStore(models).build_ids() == [first, second, third]  # nor does a refused build
    new = build(models, *SAMPLE, "--keep", "1")
    assert ReleaseStore(models).build_ids() == [new]
    assert_live(models, new, "publish")
    assert ask("rollback").returncode == 2


def test_what_a_crash_left_of_a_release_goes_with_the_next_but_not_what_is_being_written(
    models: Path, releases: Callable[..., list[str]]
) -> None:
    left, young = (models / "releases" / f".20260101-000000-{n}.tmp" for n in ("aaaaaa", "bbbbbb"))
    for folder in (left, young):
        (folder / "arrays").mkdir(parents=True)
    os.utime(left, (0, 0))
    (first,) = releases(1)
    assert {path.name for path in (models / "releases").iterdir()} == {young.name, first}
    assert ReleaseStore(models).build_ids() == [first]


# --if-changed


def test_the_same_inputs_build_nothing_and_touch_nothing(ask: Run, models: Path) -> None:
    built = build(models)
    before = state_of(models)
    for quiet in ((), ("--quiet",)):
        done = ask(*SAMPLE, "--if-changed", *quiet)
        assert done.returncode == 0, done.stderr
        said = "" if quiet else f"Nothing changed since release {built}: nothing built\n"
        assert done.stdout == said
        assert "training on" not in done.stderr
        assert state_of(models) == before
    assert done.stderr == ""
    without = build(models)  # not asked for, so it builds
    assert without != built


@pytest.mark.parametrize(
    "changed",
    [
        ("--seed", "1"), ("--factors", "6"), ("--lr", "0.01"),
        ("--catalog", "ids.pkl"), ("--algorithm", "bayesian"),
    ],
    ids=lambda changed: changed[0],
)  # fmt: skip
def test_another_input_is_built(
    ask: Run, models: Path, tmp_path: Path, changed: tuple[str, str]
) -> None:
    joblib.dump(sample_ratings()["movie_id"].unique()[1:].tolist(), tmp_path / "ids.pkl")
    built = build(models)
    flag, value = changed
    plain = [*SAMPLE, "--if-changed"]
    if flag == "--algorithm":
        plain = ["--dataset", "sample", "--factors", "5", "--if-changed"]
    args = [*plain, flag, str(tmp_path / value) if value.endswith(".pkl") else value]
    new = build(models, *args)
    assert new > built
    done = ask(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Nothing changed since release {new}: nothing built\n"
    assert ReleaseStore(models).build_ids() == [built, new]


def test_other_versions_are_built_again(ask: Run, models: Path) -> None:
    built = build(models)
    edit_manifest(
        ReleaseStore(models).live_folder(),
        lambda manifest: manifest["versions"].update(numba="0.1"),
    )
    assert ask(*SAMPLE, "--if-changed").returncode == 0
    assert ReleaseStore(models).live_folder().name > built


def test_a_rating_changed_in_the_app_is_built(
    ask: Run, models: Path, tmp_path: Path, supabase_server: SupabaseServer
) -> None:
    write_set(tmp_path)
    supabase_server.insert([("anna", 101, 5), ("ben", 102, 3)])

    def nightly() -> str:
        done = ask(
            "--dataset", "ml-latest", "--catalog", "all", "--data-dir", tmp_path, *SMALL,
            "--if-changed", SUPABASE_URL=supabase_server.url,
            SUPABASE_SERVICE_ROLE_KEY=supabase_server.service_key,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    nightly()
    built = ReleaseStore(models).live_folder().name
    assert nightly() == f"Nothing changed since release {built}: nothing built\n"
    supabase_server.database.execute("update ratings set rating = 4 where user_id = 'ben'")
    nightly()
    new = ReleaseStore(models).live_folder().name
    assert new > built
    assert nightly() == f"Nothing changed since release {new}: nothing built\n"


def test_older_releases_are_deleted_too_where_nothing_is_built(ask: Run, models: Path) -> None:
    build(models)
    second = build(models, *SAMPLE, "--seed", "1")
    done = ask(*SAMPLE, "--seed", "1", "--if-changed", "--keep", "1")
    assert done.stdout == f"Nothing changed since release {second}: nothing built\n"
    assert [path.name for path in (models / "releases").iterdir()] == [second]


@pytest.mark.parametrize("damaged", ["svd_model.pkl", "arrays/bu.npy"])
def test_a_damaged_live_release_is_built_again(ask: Run, models: Path, damaged: str) -> None:
    built = build(models)
    path = ReleaseStore(models).live_folder() / damaged
    path.write_bytes(path.read_bytes()[:-1])
    done = ask(*SAMPLE, "--if-changed")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING: ")]
    assert any(str(path) in warning for warning in warnings)
    assert_live(models, ReleaseStore(models).live_folder().name, "publish")
    assert ReleaseStore(models).live_folder().name > built


def test_what_was_rolled_back_is_not_built_again(ask: Run, models: Path) -> None:
    first = build(models)
    second = build(models, *SAMPLE, "--seed", "1")
    go_back(ask)
    before = state_of(models)
    left = f"{second}, which was rolled back"
    for args, same in ((("--seed", "1"), left), ((), first)):
        done = ask(*SAMPLE, "--if-changed", *args)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"Nothing changed since release {same}: nothing built\n"
        assert state_of(models) == before
    assert ask(*SAMPLE, "--if-changed", "--seed", "2").returncode == 0
    assert ReleaseStore(models).live_folder().name > second


def test_a_release_that_was_rolled_back_and_deleted_is_no_cause_for_a_warning(
    ask: Run, models: Path
) -> None:
    build(models)
    second = build(models, *SAMPLE, "--seed", "1")
    go_back(ask)
    third = build(models, *SAMPLE, "--seed", "2", "--keep", "1")
    assert ReleaseStore(models).build_ids() == [third]
    assert second in History(models).rolled_back()
    done = ask(*SAMPLE, "--seed", "2", "--if-changed", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pointer_that_leads_nowhere_is_shown_and_repaired(ask: Run, models: Path) -> None:
    first, second = build(models), build(models)
    shutil.rmtree(models / "releases" / second)
    done = ask("releases")
    assert done.returncode == 0
    line = f"* {second} is missing, but for the files at the fixed paths: build again, or choose"
    assert done.stdout.splitlines()[1] == f"{line} another"
    (models / "manifest.json").unlink()
    done = ask("releases")
    assert done.stdout.splitlines()[1] == f"* {second} is missing: choose another"
    assert ask("rollback", first).returncode == 0
    assert load_models(models)[0].build_id == first
    for text in (b"/elsewhere/" + first.encode(), b"\xff\xfe2\0", b""):
        (models / "live").write_bytes(text)
        done = ask("releases")
        assert (done.returncode, done.stderr) == (0, "")
        assert "live does not name a release but '" in done.stdout.splitlines()[1]
        assert ask(*SAMPLE).returncode == 3
    (models / "live").unlink()  # as it says; then manifest.json tells
    assert ask("rollback", first).returncode == 0


def test_rolling_back_stays_with_real_ratings(ask: Run, models: Path) -> None:
    """A model of the sample is never what a real one is replaced by, unless it is asked for."""
    sample = build(models)
    table = make_ratings(["ml_1", "ml_1", "ml_2"], [11, 12, 11], [4, 3, 5])
    save_models(*train_svd_model(table, epochs=1, factors=2), str(models))
    done = ask("rollback")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no release to roll back to that is older" in done.stderr
    real = ReleaseStore(models).live_id()
    forced = build(models)
    assert go_back(ask) == real
    assert ReleaseStore(models).build_ids() == [sample, real, forced]
    assert ask("rollback", sample).returncode == 0


def test_the_files_at_the_fixed_paths_outlive_a_release_that_is_gone(
    ask: Run, models: Path
) -> None:
    """The files at the fixed paths are the last that is left."""
    build(models)
    shutil.rmtree(models / "releases")
    before = contents(models)
    done = ask("rollback")
    assert done.returncode == 2
    assert "is live, but missing: its pickles and manifest in" in done.stderr
    assert contents(models) == before


def test_a_copy_without_its_pointer_is_live_by_its_manifest_and_a_release_is_no_models_folder(
    ask: Run, run: Run, models: Path, releases: Callable[..., list[str]]
) -> None:
    first, second = releases(2)
    copied = models.with_name("copied")
    shutil.copytree(models, copied)
    (copied / "live").unlink()
    assert load_models(copied)[0].build_id == second
    assert ReleaseStore(copied).roll_back() == (first, second)
    assert_live(copied, first, "rollback")
    release = ReleaseStore(models).live_folder()
    before = contents(release)
    done = run(BUILD, *SAMPLE, "--models-dir", release)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1] == (
        f"error: {release} is not a models folder but a release: "
        "name the folder that has it in releases/, or an empty one"
    )
    assert contents(release) == before


# Order is the log's


def test_a_release_from_a_clock_that_was_ahead_is_deleted_and_rolled_back_by_its_place(
    tmp_path: Path, model: Model
) -> None:
    future, now, later = "20310101-000000-000000", new_id(), new_id()
    for build_id in (future, now, later):
        model.publish(tmp_path, build_id)
    store = ReleaseStore(tmp_path)
    assert [listed.build_id for listed in store.releases()] == [later, now, future]
    assert store.roll_back() == (now, later)
    assert store.roll_back() == (future, now)
    assert store.history.rolled_back() == {now, later}
    for _ in range(2):
        model.publish(tmp_path, last := new_id(), keep=1)
    assert store.build_ids() == [last]


def test_after_the_clock_went_back_rollback_goes_to_the_release_before(
    tmp_path: Path, model: Model
) -> None:
    ids = "20260101-000000-000000", "20260101-000100-000000", "20260101-000030-000000"
    for build_id in ids:
        model.publish(tmp_path, build_id)
    assert ReleaseStore(tmp_path).roll_back() == (ids[1], ids[2])
    model.publish(tmp_path, last := "20260101-000029-000000", keep=2)
    assert ReleaseStore(tmp_path).build_ids() == [ids[2], last]


def test_a_log_that_was_lost_is_written_again_and_no_release_is_deleted_for_it(
    tmp_path: Path, model: Model
) -> None:
    ids = sorted(new_id() for _ in range(3))
    for build_id in ids:
        model.publish(tmp_path, build_id)
    age({tmp_path / "releases" / build_id for build_id in ids})
    (tmp_path / "history.jsonl").unlink()
    model.publish(tmp_path, last := new_id())
    assert ReleaseStore(tmp_path).build_ids() == [*ids, last]
    assert ReleaseStore(tmp_path).roll_back() == (ids[-1], last)


@pytest.mark.parametrize("when", [4e9, 1e15], ids=["ahead", "in no year there is"])
def test_what_a_clock_ahead_left_unfinished_is_deleted_once_the_clock_is_right(
    tmp_path: Path, model: Model, when: float
) -> None:
    """It can hold the id of a user who has left the app since."""
    model.publish(tmp_path, first := new_id())
    left = tmp_path / "releases" / f".{new_id()}.tmp"
    left.mkdir()
    (tmp_path / "history.jsonl").unlink()
    try:
        os.utime(left, (when, when))
        os.utime(tmp_path / "live", (when, when))
    except (OSError, OverflowError):
        pytest.skip("the file system has no such times")
    model.publish(tmp_path, second := new_id())
    assert not left.exists()
    assert ReleaseStore(tmp_path).roll_back() == (first, second)


def test_models_are_loaded_where_there_is_no_home(tmp_path: Path, model: Model) -> None:
    """In a process of its own, which has not imported Surprise yet."""
    model.publish(tmp_path, new_id())
    code = "import sys; from ml.collaborative import load_models as load; print(load(sys.argv[1]))"
    env = {name: value for name, value in os.environ.items() if name != "SURPRISE_DATA_FOLDER"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=env | {"HOME": "/proc/nohome"}, cwd=BACKEND,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# What is deleted


def test_nothing_is_deleted_but_folders_named_as_releases_and_never_through_a_link(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    models, outside, build_id = tmp_path / "models", tmp_path / "outside", new_id()
    theirs = [
        outside / "photos" / "one.jpg", outside / build_id / "notes.txt",
        models / "refused" / "my-notes" / "a.txt", models / "releases" / "mine" / "a.txt",
        models / ".mybackup.tmp" / "a.txt", models / ".svd_model.pkl.notes.tmp",
        models / "releases" / ".old.tmp" / "a.txt", models / f"{build_id}" / "a.txt",
    ]  # fmt: skip
    ours = [
        models / "refused" / build_id / "a.txt", models / ".live.0123abcd.tmp",
        models / "releases" / f".{build_id}.tmp" / "a.txt",
    ]  # fmt: skip
    for path in theirs + ours:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    links = [models / "releases" / new_id(), models / "refused" / new_id()]
    for link in links:
        link.symlink_to(outside / build_id)
    age({*models.glob("*"), *models.glob("releases/.*"), *models.glob("refused/*"), *links})
    for _ in range(2):
        model.publish(models, new_id(), keep=1)
    assert [path for path in theirs + links if not path.exists()] == []
    assert [path for path in ours if path.exists()] == []
    for name in ("refused", "releases"):
        moved = tmp_path / name
        (models / name).rename(moved)
        (models / name).symlink_to(moved)
        (moved / build_id).mkdir()
    caplog.clear()
    model.publish(models, new_id(), keep=1)
    told = "is a link: nothing is deleted there; link the models folder instead"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{models / name} {told}" for name in ("releases", "refused")
    ]
    assert (tmp_path / "refused" / build_id).is_dir()
    assert (tmp_path / "releases" / build_id).is_dir()


# Where else a models folder goes


def test_old_pickles_are_kept_beside_and_nothing_kept_is_overwritten(
    tmp_path: Path, plain: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ml.collaborative")
    old = {name: (plain / name).read_bytes() for name in ("svd_model.pkl", "cf_trainset.pkl")}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "svd_model.pkl.before").write_text("theirs")
    (tmp_path / "report.html").write_text("theirs, too")
    assert ReleaseStore(tmp_path).live_manifest() is None
    model.publish(tmp_path, first := new_id())
    model.publish(tmp_path, new_id())
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.before*")}
    assert kept == {
        "svd_model.pkl.before": b"theirs", "svd_model.pkl.before.1": old["svd_model.pkl"],
        "cf_trainset.pkl.before": old["cf_trainset.pkl"], "report.html.before": b"theirs, too",
    }  # fmt: skip
    (line,) = (text for text in caplog.messages if "kept the files" in text)
    assert line.endswith("svd_model.pkl.before.1, cf_trainset.pkl.before, report.html.before")
    assert ReleaseStore(tmp_path).roll_back()[0] == first


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    """Run git in `app`, a repository."""
    config = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    app = tmp_path / "app"
    app.mkdir()

    def git(*args: str | Path) -> None:
        assert tell("git", *config, "-C", app, *args) == ""

    git("init", "-q")
    return git


def test_a_models_folder_committed_with_git_gives_a_clone_that_works(
    tmp_path: Path, plain: Path, model: Model, git: Callable[..., None]
) -> None:
    """Also by `git commit -a` over old pickles, where git knows only these."""
    models = tmp_path / "app" / "models"
    shutil.copytree(plain, models)
    git("add", "-A")
    git("commit", "-qm", "old pickles")
    model.publish(models, first := new_id())
    git("commit", "-qam", "a build")
    git("clone", "-q", ".", tmp_path / "first")
    assert ids_at_fixed_paths(tmp_path / "first" / "models") == (first, first)
    git("add", "-A")
    git("commit", "-qm", "the releases, too")
    model.publish(models, second := new_id())
    git("add", "-A")
    git("commit", "-qam", "another build")
    git("clone", "-q", ".", tmp_path / "second")
    cloned = tmp_path / "second" / "models"
    assert not [path for path in cloned.rglob("*") if path.is_symlink()]
    assert ids_at_fixed_paths(cloned) == (second, second)
    assert ids_loaded(cloned) == {second}
    assert load_collaborative(cloned).manifest["build_id"] == second
    assert ReleaseStore(cloned).roll_back() == (first, second)


@pytest.mark.parametrize("algorithm", ["svd", "bayesian"])
def test_a_clone_without_the_folder_of_the_live_release_loads_serves_and_builds(
    run: Run, tmp_path: Path, git: Callable[..., None], caplog: pytest.LogCaptureFixture,
    algorithm: str,
) -> None:  # fmt: skip
    """`git commit -a` adds no new file: the pickles are the new ones, the arrays those before."""
    models, cloned = tmp_path / "app" / "models", tmp_path / "clone" / "models"
    args = ("--dataset", "sample", "--algorithm", algorithm, "--factors", "2", "--force-publish")
    first = build(models, *args)
    git("add", "-A")
    git("commit", "-qm", "a build")
    second = build(models, *args, "--seed", "1")
    git("commit", "-qam", "another build")
    git("clone", "-q", ".", cloned.parent)
    assert not (cloned / "releases" / second).exists()
    svd, trainset = load_models(cloned)
    assert svd.build_id == trainset.build_id == second
    assert svd.predict("ml_sample_1", 862) == load_models(models)[0].predict("ml_sample_1", 862)
    served = load_collaborative(cloned)
    assert served.manifest["build_id"] == first
    assert not served.reload_if_changed()
    (line,) = (text for text in caplog.messages if "but missing here" in text)
    assert f"{second} is live, but missing here: {first} is served; run git add ml/models" in line
    done = run(TOOL, "releases", "--models-dir", cloned)
    assert f"* {second} is missing, but for the files at the fixed paths" in done.stdout

    done = run(BUILD, *SAMPLE, "--models-dir", cloned)
    assert done.returncode == 0, done.stderr
    third = ReleaseStore(cloned).live_folder().name
    assert third not in (first, second)
    assert_live(cloned, third, "publish")
    assert not list(cloned.glob("*.before*"))
    assert served.reload_if_changed()
    assert served.manifest["build_id"] == third
    assert ReleaseStore(cloned).roll_back() == (first, third)


def test_in_a_clone_with_pickles_alone_a_build_compares_with_them_and_serving_says_what_to_commit(
    run: Run, tmp_path: Path, model: Model, git: Callable[..., None]
) -> None:
    """The release that git knows was deleted since, as too old."""
    models, cloned = tmp_path / "app" / "models", tmp_path / "clone" / "models"
    model.publish(models, new_id())
    git("add", "-A")
    git("commit", "-qm", "a build")
    table = make_ratings(["ml_1", "ml_1", "ml_2"], [11, 12, 11], [4, 3, 5])
    save_models(*train_svd_model(table, epochs=1, factors=2), str(models), keep=1)
    live = ReleaseStore(models).live_id()
    git("commit", "-qam", "another build")
    git("clone", "-q", ".", cloned.parent)
    assert ids_loaded(cloned) == {live}
    said = f"{live} is live, but missing here, and no older release is complete: run git add ml/mod"
    with pytest.raises(MissingReleaseError, match=said):
        load_collaborative(cloned)
    done = run(BUILD, *SAMPLE[:-1], "--models-dir", cloned)
    assert done.returncode == 2, "a sample replaced real ratings"
    (cloned / "live").unlink()
    assert ids_loaded(cloned) == {live}
    assert run(BUILD, *SAMPLE[:-1], "--models-dir", cloned).returncode == 2
    with (cloned / "svd_model.pkl").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedReleaseError, match=r"svd_model\.pkl has"):
        load_models(cloned)

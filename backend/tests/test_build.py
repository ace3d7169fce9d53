"""Train and save: the functions of the plan, and the build as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from helpers import BACKEND, PUBLISHED, contents, copy_backend
from surprise.prediction_algorithms import matrix_factorization

from ml.build_collaborative import main, save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.ratings import Counts, empty_ratings, make_ratings
from ml.collaborative.release import ReleaseStore, counts_of, load_models, read_manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
BUILD = "ml.build_collaborative"


def build_sample(run: Run, models: Path, *args: str, **env: str) -> None:
    done = run(BUILD, "--dataset", "sample", "--models-dir", models, *args, **env)
    assert done.returncode == 0, done.stderr


# The functions


def test_half_stars_widen_the_scale() -> None:
    table = make_ratings(["ml_1", "u", "u"], [11, 11, 12], [4, 0.5, 3])
    _, trainset = train_svd_model(table, epochs=1, factors=2)
    assert trainset.rating_scale == (0.5, 5.0)


def test_another_seed_gives_another_model() -> None:
    table = sample_ratings().head(500)
    first, again, other = (train_svd_model(table, epochs=1, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.pu, again.pu)
    assert not np.array_equal(first.pu, other.pu)


def test_nothing_to_train_on_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no ratings to train on"):
        train_svd_model(empty_ratings())


def test_saved_models_load_with_plain_joblib_and_predict(tmp_path: Path) -> None:
    table = sample_ratings().head(2000)
    model, trainset = train_svd_model(table, epochs=2)
    save_models(model, trainset, str(tmp_path / "new" / "models"))
    loaded = joblib.load(tmp_path / "new" / "models" / "svd_model.pkl")
    assert type(loaded) is matrix_factorization.SVD
    assert joblib.load(tmp_path / "new" / "models" / "cf_trainset.pkl").n_ratings == 2000
    for user, film, _ in table.head(50).itertuples(index=False):
        assert loaded.predict(user, film).est == model.predict(user, film).est
        assert not loaded.predict(user, film).details["was_impossible"]


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trainset = train_svd_model(sample_ratings().head(500), epochs=1)
    save_models(model, trainset, str(tmp_path))
    before = contents(tmp_path)
    trainset.unpicklable = lambda: None
    with pytest.raises(Exception, match="pickle"):
        save_models(model, trainset, str(tmp_path))
    assert contents(tmp_path) == before


# The script


def test_the_demo_needs_no_network_and_ends_with_films_for_two_users(
    run: Run, tmp_path: Path
) -> None:
    """The commands of the Makefile's recipe."""
    recipe = (BACKEND / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2]
    commands = re.findall(r"^\t@\$\(BIN\)/python -m (.+)$", recipe.partition("\n\n")[0], re.M)
    assert len(commands) == 3
    lists = []
    for command in commands:
        module, *args = command.replace("$(ARGS)", "").split()
        done = run(module, *args, "--models-dir", tmp_path)
        assert done.returncode == 0, done.stderr
        lists.append(done.stdout.splitlines())
    for user, (name, liked, *films) in zip(("155", "187"), lists[1:], strict=True):
        assert name == f"ml_sample_{user}"
        assert liked.startswith("  liked  ")
        assert len([film for film in films if re.search(r"\(\d{4}\)", film)]) == 5


def test_the_demo_s_build_needs_no_network_and_says_what_it_is(run: Run, tmp_path: Path) -> None:
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "Ratings   26,765 from a generated sample, not real ratings; 0 from the app"
    assert set(contents(tmp_path)) == PUBLISHED


def test_the_main_job_trains_on_the_real_ratings(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    done = run(
        BUILD, "--catalog", "all", "--data-dir", tmp_path / "data",
        "--models-dir", tmp_path / "models", MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Ratings   99,645 from MovieLens (ml-100k); 0 from the app" in done.stdout
    assert "Users     943" in done.stdout
    assert "Films     1,645" in done.stdout
    assert "scale 1 to 5" in done.stderr
    assert done.stderr.count("no commercial use without permission") == 1
    model = joblib.load(tmp_path / "models" / "svd_model.pkl")
    trainset = joblib.load(tmp_path / "models" / "cf_trainset.pkl")
    assert (trainset.n_ratings, trainset.n_users, trainset.n_items) == (99_645, 943, 1645)
    # Star Wars (11) is liked best of these; in the naive join its ratings are another film's.
    best = max((11, 862, 9344, 710), key=lambda film: model.predict("ml_1", film).est)
    assert best == 11


def test_the_summary_tells_how_much_of_the_catalog_is_covered(run: Run, tmp_path: Path) -> None:
    joblib.dump([862, 603, 999_999_999], tmp_path / "ids.pkl")
    done = run(BUILD, "--dataset", "sample", "--catalog", tmp_path / "ids.pkl", "--models-dir",
               tmp_path / "models", "--force-publish")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Films     124 trained on; 2 published" in lines
    assert "Catalog   2 of the catalog's 3 films have ratings (66.7%)" in lines


def test_the_summary_is_on_stdout_and_the_log_on_stderr_without_bars(
    run: Run, tmp_path: Path
) -> None:
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path)
    assert "INFO" not in done.stdout
    assert "\r" not in done.stderr
    assert "INFO: training on 26,765 ratings, scale 1 to 5" in done.stderr
    quiet = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_parameters_reach_the_model(run: Run, tmp_path: Path) -> None:
    build_sample(run, tmp_path, "--factors", "7", "--epochs", "3", "--lr", "0.01", "--reg", "0.1",
                 "--seed", "42", "--force-publish")  # fmt: skip
    model = joblib.load(tmp_path / "svd_model.pkl")
    assert (model.n_factors, model.n_epochs, model.random_state) == (7, 3, 42)
    assert (model.lr_pu, model.reg_qi) == (0.01, 0.1)
    assert model.pu.shape == (600, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--dataset", "ml-1m"], ["--keep", "0"], ["--factors", "0"], ["--epochs", "x"],
        ["--lr", "0"], ["--reg", "nan"], ["--seed", "-1"], ["--seed", "4294967296"],
        ["--quiet", "--verbose"], ["--force"], ["--lr", "x"], ["--models-dir", ""],
        ["--data-dir", __file__],
    ],
)  # fmt: skip
def test_wrong_usage_exits_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    said, see = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert see == "see python -m ml.build_collaborative --help"


def test_an_env_file_that_is_not_utf_8_exits_3(script_env: dict[str, str], tmp_path: Path) -> None:
    copy_backend(tmp_path)
    (tmp_path / ".env").write_text("SUPABASE_URL=https://x.supabase.co\n", encoding="utf-16")
    done = subprocess.run(
        [sys.executable, "-m", BUILD, "--dataset", "sample"],
        cwd=tmp_path, env=script_env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line == f"error: {tmp_path / '.env'}, line 1: not UTF-8; save the file as UTF-8"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_stdout_does_not_fail_a_build_that_is_published(
    script_env: dict[str, str], tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", BUILD, "--dataset", "sample", "--models-dir", tmp_path],
            cwd=BACKEND, env=script_env, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("WARNING: done, but the summary")
    assert set(contents(tmp_path)) == PUBLISHED


def test_a_folder_in_a_files_place_exits_1_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cf_trainset.pkl").mkdir()
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: a folder is in the place of a file, move it away: {tmp_path / 'cf_trainset.pkl'}\n"
    )
    assert contents(tmp_path) == {}


def test_a_models_folder_that_cannot_be_made_exits_1_before_anything_is_loaded(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    models = tmp_path / "file" / "models"
    done = run(BUILD, "--dataset", "sample", "--models-dir", models)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {models} cannot be written (Not a directory): "
        "make it a writable folder, or name another with --models-dir\n"
    )


def test_a_read_only_models_folder_exits_1_before_anything_is_loaded(
    run: Run, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir(mode=0o555)
    if os.access(models, os.W_OK):
        models = Path("/proc/self/task")  # where even root cannot write
        if not models.is_dir():
            pytest.skip("run as root, and no folder here is read-only for root")
    done = run(BUILD, "--dataset", "sample", "--models-dir", models)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {models} cannot be written (")


def test_no_catalog_exits_3_and_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    done = run(BUILD, "--catalog", tmp_path / "ids.pkl", "--models-dir", tmp_path / "models")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no catalog at ")
    assert "--catalog all" in line


def test_a_catalog_without_rated_films_exits_3_and_keeps_the_model(
    run: Run, tmp_path: Path
) -> None:
    build_sample(run, tmp_path)
    before = contents(tmp_path)
    joblib.dump([999_999_999], tmp_path / "ids.pkl")
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path, "--catalog",
               tmp_path / "ids.pkl")  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "error: none of the catalog's 1 films has ratings in sample: "
    )
    (tmp_path / "ids.pkl").unlink()
    assert contents(tmp_path) == before


def test_no_network_exits_4_and_says_what_to_do(run: Run, tmp_path: Path) -> None:
    done = run(BUILD, "--catalog", "all", "--data-dir", tmp_path / "data", "--models-dir", tmp_path)
    assert done.returncode == 4
    assert "MOVIELENS_BASE_URL" in done.stderr.splitlines()[-1]
    assert contents(tmp_path / "data") == {}


def test_training_that_diverges_exits_5_and_keeps_the_model(run: Run, tmp_path: Path) -> None:
    build_sample(run, tmp_path)
    before = contents(tmp_path)
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path, "--lr", "10")
    assert done.returncode == 5
    assert "lower --lr" in done.stderr.splitlines()[-1]
    assert contents(tmp_path) == before


def test_a_sample_never_replaces_a_real_model_unless_told(run: Run, tmp_path: Path) -> None:
    real = make_ratings(["ml_1", "ml_2"], [11, 12], [4, 5])
    save_models(*train_svd_model(real, epochs=1), str(tmp_path))
    before = contents(tmp_path)
    done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path)
    assert done.returncode == 2
    assert "--force-publish" in done.stderr.splitlines()[-1]
    assert contents(tmp_path) == before
    build_sample(run, tmp_path, "--force-publish")
    build_sample(run, tmp_path)  # a sample may replace a sample
    assert counts_of(read_manifest(ReleaseStore(tmp_path).live_folder())) == Counts(
        26_765, 600, 124, 0, 0, True
    )


def test_a_crash_between_the_two_files_does_not_block_the_next_build(
    run: Run, tmp_path: Path
) -> None:
    build_sample(run, tmp_path)
    (tmp_path / "cf_trainset.pkl").unlink()
    build_sample(run, tmp_path)
    assert set(contents(tmp_path)) == PUBLISHED


def test_a_published_model_that_cannot_be_read_is_not_replaced_by_a_sample(
    run: Run, tmp_path: Path
) -> None:
    build_sample(run, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:1000])
    args = BUILD, "--dataset", "sample", "--models-dir", tmp_path
    done = run(*args)
    assert done.returncode == 3
    assert (
        "What is published is unknown: roll back to another release with"
        in done.stderr.splitlines()[-1]
    )
    assert run(*args, "--force-publish").returncode == 0


def test_a_damaged_model_is_replaced_by_the_next_good_one(run: Run, tmp_path: Path) -> None:
    build_sample(run, tmp_path)
    for name in ("svd_model.pkl", "held_out.npy"):
        damaged = ReleaseStore(tmp_path).live_folder() / name
        damaged.write_bytes(damaged.read_bytes()[:1000])
        done = run(BUILD, "--dataset", "sample", "--models-dir", tmp_path)
        assert done.returncode == 0, done.stderr
        assert load_models(tmp_path)[1].n_ratings == 26_765
    assert "errors are not compared with the published model's" in done.stderr


@pytest.mark.parametrize("module", ["ml.build_collaborative", "ml.download_movielens"])
def test_importing_is_light_and_changes_nothing(module: str, script_env: dict[str, str]) -> None:
    code = (
        f"import logging, sys; import {module}; "
        "heavy = {'pandas', 'numpy', 'surprise', 'supabase', 'joblib', 'tqdm', 'pydantic'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert not logging.getLogger().handlers; "
        "assert not logging.getLogger('ml.collaborative').handlers"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BACKEND, env=script_env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("flag", [("--epochs", "3"), ("--lr", "0.1")])
def test_flags_of_the_svd_are_refused_with_another_algorithm(
    run: Run, tmp_path: Path, flag: tuple[str, str]
) -> None:
    done = run(
        BUILD, "--dataset", "sample", "--models-dir", tmp_path, "--algorithm", "bayesian", *flag
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: {flag[0]} has no meaning for Bayesian, which takes --factors: leave it out"
    )
    assert not (tmp_path / "svd_model.pkl").exists()

"""The gate: a model that is not fit to be is never published, and says by its numbers why."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from helpers import contents
from small_builds import write_set

from ml.build_collaborative import train_svd_model
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation import held_out as hold_out_module
from ml.collaborative.evaluation.gate import Published, check_model
from ml.collaborative.evaluation.held_out import hold_out
from ml.collaborative.evaluation.splits import fixed_fifth
from ml.collaborative.ratings import Counts, combine, empty_ratings, make_ratings
from ml.collaborative.release import ReleaseStore, count, read_manifest

Run = Callable[..., subprocess.CompletedProcess[str]]
BUILD = "ml.build_collaborative"


@pytest.fixture
def build(run: Run, tmp_path: Path) -> Run:
    """A build of the sample into `tmp_path / "models"`."""

    def build(*args: str | Path) -> subprocess.CompletedProcess[str]:
        return run(BUILD, "--dataset", "sample", "--models-dir", tmp_path / "models", *args)

    return build


def assert_refused(done: subprocess.CompletedProcess[str], why: str) -> None:
    assert done.returncode == 5, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: refused to publish: ")
    assert why in last
    assert "--force-publish" in last
    assert done.stdout == ""


def test_a_model_that_learned_nothing_is_refused_kept_for_a_look_and_published_by_force(
    build: Run, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    assert build().returncode == 0
    before = contents(models)
    nothing = ("--lr", "1e-300", "--report")
    refused = build(*nothing)
    assert_refused(refused, "of one rating for all")
    assert contents(models) == before
    (kept,) = (models / "refused").iterdir()
    assert {"svd_model.pkl", "cf_trainset.pkl", "manifest.json", "report.html"} <= set(
        contents(kept)
    )
    assert f"the refused build is in {kept}" in refused.stderr
    assert not joblib.load(kept / "svd_model.pkl").bu.round(9).any()
    assert read_manifest(kept)["gate"]["passed"] is False
    forced = build(*nothing, "--force-publish")
    assert forced.returncode == 0
    assert forced.stdout.count("published by force") == 3
    assert contents(models)["svd_model.pkl"] != before["svd_model.pkl"]
    gate = read_manifest(ReleaseStore(models).live_folder())["gate"]
    assert (gate["passed"], gate["forced"]) == (False, True)
    failed = [check["text"] for check in gate["checks"] if not check["passed"]]
    assert "of one rating for all" in failed[0]
    assert "ratings held out then and now" in failed[1]
    assert failed[2].startswith("lists' NDCG@10 ")


def test_a_build_that_lost_many_ratings_is_refused_and_a_changed_catalog_is_no_loss(
    run: Run, tmp_path: Path
) -> None:
    write_set(tmp_path)
    films = [film + 100 for film in range(1, 21)]

    def build(*args: str, catalog: list[int] = films) -> subprocess.CompletedProcess[str]:
        joblib.dump(catalog, tmp_path / "catalog.pkl")
        return run(
            BUILD, "--dataset", "ml-latest", "--data-dir", tmp_path, "--models-dir",
            tmp_path / "models", "--catalog", tmp_path / "catalog.pkl", *args,
        )  # fmt: skip

    assert build("--force-publish").returncode == 0
    for catalog in (films, films[:10], [*films, 603]):
        done = build(catalog=catalog)
        assert " ratings, wanted 90% of the published " not in done.stderr
    ratings = tmp_path / "ml-latest" / "ratings.csv"
    lines = ratings.read_text(encoding="utf-8").splitlines()
    ratings.write_text("\n".join(lines[: len(lines) // 2]) + "\n", encoding="utf-8")
    assert_refused(build(), " ratings, wanted 90% of the published ")


def test_too_few_ratings_to_judge_by_are_refused(run: Run, tmp_path: Path) -> None:
    write_set(tmp_path)
    ratings = tmp_path / "ml-latest" / "ratings.csv"
    lines = ratings.read_text(encoding="utf-8").splitlines()
    ratings.write_text("\n".join(lines[:81]) + "\n", encoding="utf-8")

    def build(*args: str) -> subprocess.CompletedProcess[str]:
        return run(
            BUILD, "--dataset", "ml-latest", "--data-dir", tmp_path, "--catalog", "all",
            "--models-dir", tmp_path / "models", *args,
        )  # fmt: skip

    assert_refused(build(), "80 ratings, wanted 100 at least to judge a model")
    asked = build("--report")
    assert asked.returncode == 2
    assert "--report needs more: " in asked.stderr
    assert build("--force-publish").returncode == 0


def test_a_catalog_with_few_ratings_is_judged_by_all_films() -> None:
    table = sample_ratings()
    film = int(table["movie_id"].iloc[0])
    of_film = table.index[table["movie_id"] == film]
    few = table.drop(of_film[20:]).reset_index(drop=True)
    training = [make_training(ALGORITHMS["svd"], epochs=2)]
    found = hold_out(few, training, frozenset([film]), with_plan=False)
    assert not found.is_of_catalog
    assert len(found.ratings) > 1000
    found = hold_out(table, training, frozenset([film]), with_plan=False)
    assert found.is_of_catalog
    assert 0.1 < len(found.ratings) / len(of_film) < 0.3


def test_a_first_model_no_better_than_biases_is_published_with_a_warning(
    run: Run, tmp_path: Path
) -> None:
    """Each rating is drawn at random: nothing can be learned."""
    draw = random.Random(0)
    write_set(tmp_path)
    ratings = tmp_path / "ml-latest" / "ratings.csv"
    header, *lines = ratings.read_text(encoding="utf-8").splitlines()
    pairs = [[*line.split(",")[:2], str(draw.choice([2, 3, 3, 4])), "1"] for line in lines]
    ratings.write_text("\n".join([header, *map(",".join, pairs)]) + "\n", encoding="utf-8")
    done = run(
        BUILD, "--dataset", "ml-latest", "--data-dir", tmp_path, "--catalog", "all", "--quiet",
        "--models-dir", tmp_path / "models", "--algorithm", "svd",
    )  # fmt: skip
    if done.returncode == 0:
        assert "WARNING: the model predicts no better than film and user averages" in done.stderr
    else:
        assert_refused(done, "of one rating for all")


def test_a_large_table_is_judged_by_whole_users_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = combine(sample_ratings(), empty_ratings())
    assert hold_out_module.sample_users(table) is table
    monkeypatch.setattr(hold_out_module, "MAX_RATINGS", 5000)
    part = hold_out_module.sample_users(table)
    assert 4900 < len(part) <= 5000
    assert part["user_id"].cat.categories.isin(part["user_id"].unique()).all()
    whole = table[table["user_id"].isin(part["user_id"].unique())]
    assert part.astype({"user_id": "str"}).to_numpy().tolist() == (
        whole.astype({"user_id": "str"}).to_numpy().tolist()
    )
    few = hold_out(table, [make_training(ALGORITHMS["svd"])], with_plan=False)
    assert 0.15 < len(few.ratings) / len(part) < 0.25
    monkeypatch.setattr(hold_out_module, "MAX_RATINGS", 1)
    assert hold_out_module.sample_users(table)["user_id"].nunique() == 1


def test_each_side_of_a_model_is_looked_at() -> None:
    table = sample_ratings()
    svd, trainset = train_svd_model(table)
    held_out = hold_out(table, [make_training(ALGORITHMS["svd"])], with_plan=False)
    counts = count(trainset)
    same = counts._replace(app_ratings=50)

    def failed(app_ratings: int = 50, then: Counts | None = same, **rows: np.ndarray) -> list[str]:
        published = then and Published(then, rows, "svd")
        now = counts._replace(app_ratings=app_ratings)
        checks = check_model(svd, held_out, now, published)
        return [check.text for check in checks if not check.passed]

    rows, lists = held_out.rows().values()
    assert failed() == failed(45) == failed(0, None) == failed(**held_out.rows()) == []
    assert failed(44) == ["44 app ratings, wanted 90% of the published 50 at least"]
    assert failed(0, counts._replace(users=670)) == [
        "600 users, wanted 90% of the published 670 at least"
    ]
    rows["prediction"] = 0.5 * (rows["prediction"] + held_out.ratings)  # a better model
    (worse,) = failed(held_out=rows)
    assert re.fullmatch(
        rf"RMSE 0\.\d{{4}} on {len(rows):,} ratings held out then and now, "
        r"published model 0\.\d{4} \(svd\), difference \+0\.\d{4} ± 0\.\d{4}, "
        r"wanted at most 0\.03 beyond chance",
        worse,
    )
    assert failed(held_out=rows[:999]) == []  # too few in common to compare
    few = {"held_out": rows[:999], "held_out_lists": lists[:99]}
    *_, errors, said = check_model(svd, held_out, counts, Published(same, few, "svd"))
    assert said.text == (
        "lists not compared with the published model's: 99 users like the same held-out films then "
        "and now, 100 would be enough"
    )
    assert errors.text == (
        "errors not compared with the published model's: 999 ratings were held out then and now, "
        "1,000 would be enough"
    )
    lists["above"] += 0.02  # a better list, by less than counts
    assert failed(held_out_lists=lists) == []
    lists["above"] += 0.02
    (worse,) = failed(held_out_lists=lists)
    assert re.fullmatch(
        r"lists' NDCG@10 \+0\.\d{4} above the most liked films for \d{3} users as before, "
        r"published model \+0\.\d{4} \(svd\), difference -0\.0400 ± 0\.0000, "
        r"wanted at most 0\.03 lower beyond chance",
        worse,
    )
    lists["above"] = np.where(np.arange(len(lists)) % 10, lists["above"] - 0.5, 5)  # by chance
    assert failed(held_out_lists=lists) == []
    svd.qi[3, 2] = np.inf
    assert failed() == ["factors not finite"]
    held_out.predictions[:] = 3.5
    assert failed()[-1] == "predictions spread over 0 stars, wanted 0.01 at least"


def test_a_rating_is_held_out_of_every_build_or_of_none() -> None:
    table = combine(sample_ratings(), empty_ratings())
    split, pairs = fixed_fifth(table)
    assert sorted([*split.train, *split.test]) == list(range(len(table)))
    assert 0.18 < len(split.test) / len(table) < 0.22
    assert len(set(pairs.tolist())) == len(table)
    other = table.sample(frac=0.5, random_state=1).reset_index(drop=True)
    other["user_id"] = other["user_id"].cat.remove_unused_categories()
    keys = [
        set(zip(rows["user_id"], rows["movie_id"], strict=True))
        for rows in (table.iloc[split.test], other.iloc[fixed_fifth(other)[0].test], other)
    ]
    assert keys[1] == keys[0] & keys[2]
    known = make_ratings(["ml_1", "anna"], [862, 11], [5, 5])
    assert fixed_fifth(known)[1].tolist() == [
        3034856999744532887,
        2085389790206700774,
    ]  # as on every machine


def test_without_app_ratings_on_purpose_all_else_is_still_compared(
    build: Run, tmp_path: Path
) -> None:
    assert build("--algorithm", "bayesian").returncode == 0
    worse = build("--allow-missing-app-ratings", "--epochs", "1")
    assert worse.returncode == 5
    assert "published model" in worse.stderr
    assert "(bayesian)" in worse.stderr
    counts = Counts(100, 20, 9, 40, 5, is_sample=False)
    assert counts.without_app() == Counts(60, 15, 9, 0, 0, is_sample=False)


def test_a_build_by_force_over_what_cannot_be_read_says_so(build: Run, tmp_path: Path) -> None:
    assert build().returncode == 0
    manifest = tmp_path / "models" / "manifest.json"
    manifest.write_text("[" * 100_000)
    stopped = build()
    assert stopped.returncode == 3
    assert "is not JSON" in stopped.stderr.splitlines()[-1]
    assert build("--force-publish").returncode == 0
    gate = read_manifest(ReleaseStore(tmp_path / "models").live_folder())["gate"]
    assert (gate["passed"], gate["forced"]) == (False, True)
    assert (
        gate["checks"][-1]["text"]
        == "the published release cannot be read, so nothing is compared with it"
    )

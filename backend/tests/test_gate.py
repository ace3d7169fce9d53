"""The gate: a model that is not fit to be is never published, and says by its numbers why."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from helpers import contents

from ml import hold_out as hold_out_module
from ml.build_collaborative import train_svd_model
from ml.gate import check_model
from ml.hold_out import hold_out
from ml.ratings import combine, empty_ratings
from ml.release import Published
from ml.sample import film_titles, sample_ratings
from ml.training import PLAN

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
    assert_refused(refused, "wanted below ")
    assert contents(models) == before
    assert set(contents(models / "refused")) == {*before, "report.html"}
    assert not joblib.load(models / "refused" / "svd_model.pkl").bu.round(9).any()
    forced = build(*nothing, "--force-publish")
    assert forced.returncode == 0
    assert forced.stdout.count("published by force") == 1
    assert contents(models)["svd_model.pkl"] != before["svd_model.pkl"]


def test_a_build_that_lost_many_ratings_is_refused(build: Run, tmp_path: Path) -> None:
    assert build().returncode == 0
    films = sorted(film_titles())
    for kept, passes in ((len(films) - 1, True), (len(films) // 2, False)):
        joblib.dump(films[:kept], tmp_path / "catalog.pkl")
        done = build("--catalog", tmp_path / "catalog.pkl")
        if passes:
            assert done.returncode == 0, done.stderr
        else:
            assert_refused(done, " ratings, wanted 90% of the published ")


def test_too_few_ratings_to_judge_by_are_refused(build: Run, tmp_path: Path) -> None:
    counts = sample_ratings()["movie_id"].value_counts()
    joblib.dump([int(counts.index[-1])], tmp_path / "catalog.pkl")
    few = build("--catalog", tmp_path / "catalog.pkl")
    assert_refused(few, f"{counts.iloc[-1]} ratings, wanted 100 at least to judge a model")
    asked = build("--catalog", tmp_path / "catalog.pkl", "--report")
    assert asked.returncode == 2
    assert "--report needs more: " in asked.stderr
    assert build("--catalog", tmp_path / "catalog.pkl", "--force-publish").returncode == 0


def test_a_large_table_is_judged_by_whole_users_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = combine(sample_ratings(), empty_ratings())
    assert hold_out_module.sample_users(table, 0) is table
    monkeypatch.setattr(hold_out_module, "MOST", 5000)
    part = hold_out_module.sample_users(table, 0)
    assert 4900 < len(part) <= 5000
    assert part["user_id"].cat.categories.isin(part["user_id"].unique()).all()
    whole = table[table["user_id"].isin(part["user_id"].unique())]
    assert part.astype({"user_id": "str"}).to_numpy().tolist() == (
        whole.astype({"user_id": "str"}).to_numpy().tolist()
    )
    assert len(hold_out(table, "svd", PLAN, 0, ranking=False).ratings) == -(-len(part) // 5)
    monkeypatch.setattr(hold_out_module, "MOST", 1)
    assert hold_out_module.sample_users(table, 0)["user_id"].nunique() == 1


def test_each_side_of_a_model_is_looked_at() -> None:
    table = sample_ratings()
    svd, _ = train_svd_model(table)
    held_out = hold_out(table, "svd", PLAN, 0, ranking=False)
    same = Published(ratings=len(table), users=600, app_users=50, is_sample=True)

    def failed(app_users: int = 50, published: Published | None = same) -> list[str]:
        checks = check_model(svd, held_out, app_users, published)
        return [check.text for check in checks if not check.passed]

    assert failed() == failed(45) == failed(0, None) == []
    assert failed(44) == ["44 app users, wanted 90% of the published 50 at least"]
    more = Published(ratings=len(table), users=670, app_users=0, is_sample=True)
    assert failed(0, more) == ["600 users, wanted 90% of the published 670 at least"]
    svd.qi[3, 2] = np.inf
    assert failed() == ["factors not finite"]
    held_out.predictions[:] = 3.5
    assert failed()[1:] == ["predictions spread over 0 stars, wanted 0.01 at least"]

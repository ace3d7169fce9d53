"""Where the ids of the app's users are, and where they are not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from app_source import direct_url
from postgrest_server import SupabaseServer

from ml.collaborative.release import ReleaseStore

Run = Callable[..., subprocess.CompletedProcess[str]]
USERS = [f"user-{n:03}@example.org" for n in range(40)]
GONE = USERS[7]
FOR_PEOPLE = {"manifest.json", "report.html", "history.jsonl"}


@pytest.fixture(params=["rest", "postgres"])
def build(
    request: pytest.FixtureRequest, run: Run, supabase_server: SupabaseServer,
    tmp_path: Path, movielens_archives: Path,
) -> Run:  # fmt: skip
    """A small build on ML-100K with the app's ratings, read in each of the two ways."""
    server = supabase_server
    server.create_table("user_id text, movie_id int, rating real")
    films = (11, 862, 603, 550, 13)
    server.insert([(user, film, 4.5 - n % 3) for n, user in enumerate(USERS) for film in films])
    server.insert([(GONE, -5, 3), (GONE, 11, 99), (GONE, 862, 1), ("ml_" + GONE, 11, 3)])
    where = (
        {"SUPABASE_URL": server.url, "SUPABASE_SERVICE_ROLE_KEY": server.service_key}
        if request.param == "rest"
        else {"SUPABASE_DB_URL": direct_url(server.database)}
    )

    def build(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(
            "ml.build_collaborative", "--catalog", "all", "--data-dir", tmp_path / "data",
            "--models-dir", tmp_path / "models", "--epochs", "2", "--factors", "5",
            "--force-publish", "--verbose", *args,
            MOVIELENS_BASE_URL=str(movielens_archives), **where | env,
        )  # fmt: skip

    return build


def files_with(text: str, folder: Path) -> set[str]:
    """The names of the files in `folder` that hold a text."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.name for path in found if text.encode() in path.read_bytes()}


def test_ids_are_in_the_models_alone_and_gone_with_their_user(
    build: Run, supabase_server: SupabaseServer, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    done = build("--report")
    assert done.returncode == 0, done.stderr
    assert "196 from the app" not in done.stdout
    assert "200 from the app" in done.stdout
    assert "left out 1 app ratings: film is not a positive integer" in done.stderr
    for user in USERS:
        assert user not in done.stdout + done.stderr
        assert not files_with(user, models) & FOR_PEOPLE
    assert files_with(GONE, models) == {"svd_model.pkl", "cf_trainset.pkl", "user_ids.npy"}
    assert {path.name for path in models.rglob("*")} >= FOR_PEOPLE

    supabase_server.database.execute("delete from ratings where user_id = %s", (GONE,))
    done = build()
    assert done.returncode == 0, done.stderr
    assert "195 from the app" in done.stdout
    live = ReleaseStore(models).live_folder()
    assert files_with(GONE, live) == set()
    assert files_with(USERS[8], live) != set()
    assert files_with(GONE, models / "releases") != set()  # until the older release is deleted
    done = build("--keep", "1")
    assert done.returncode == 0, done.stderr
    assert files_with(GONE, models) == set()


def test_a_refused_build_is_deleted_by_the_next(
    build: Run, supabase_server: SupabaseServer, tmp_path: Path, run: Run, movielens_archives: Path
) -> None:
    models = tmp_path / "models"
    refused = run(
        "ml.build_collaborative", "--catalog", "all", "--data-dir", tmp_path / "data",
        "--models-dir", models, "--epochs", "1", "--lr", "1e-300",
        SUPABASE_DB_URL=direct_url(supabase_server.database),
        MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    assert refused.returncode == 5
    assert GONE not in refused.stdout + refused.stderr
    assert files_with(GONE, models / "refused") != set()
    supabase_server.database.execute("delete from ratings where user_id = %s", (GONE,))
    assert build().returncode == 0
    assert files_with(GONE, models) == set()


def test_the_app_s_share_is_compared_as_long_as_its_ratings_come(
    build: Run, supabase_server: SupabaseServer, tmp_path: Path
) -> None:
    assert build().returncode == 0
    supabase_server.database.execute("delete from ratings where user_id < %s", (USERS[20],))
    for expected in (True, False):
        assert build("--allow-missing-app-ratings").returncode == 0
        manifest = json.loads((tmp_path / "models" / "manifest.json").read_text(encoding="utf-8"))
        failed = [one["text"] for one in manifest["gate"]["checks"] if not one["passed"]]
        assert ("100 app ratings, wanted 90%" in " ".join(failed)) == expected
        supabase_server.database.execute("delete from ratings")

"""The lowest versions that requirements.txt allows build, read the app's ratings and serve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from app_source import direct_url
from helpers import BACKEND
from postgrest_server import SupabaseServer

from benchmarks.service_load import serve

PYTHON = BACKEND / ".venv-lowest" / "bin" / "python"
SERVED = """
import json, sys
import joblib, surprise
from ml.collaborative.serving.model import load_collaborative
model = load_collaborative(sys.argv[1])
svd, trainset = (joblib.load(f"{sys.argv[1]}/{name}.pkl") for name in ("svd_model", "cf_trainset"))
assert type(svd) is surprise.SVD and isinstance(trainset, surprise.Trainset)
best = model.recommend("user-1", 5)
print(json.dumps({
    "films": [one.movie_id for one in best],
    "differences": [abs(one.stars - svd.predict("user-1", one.movie_id).est) for one in best],
    "rated": [int(trainset.to_raw_iid(i)) for i, _ in trainset.ur[trainset.to_inner_uid("user-1")]],
}))
"""


def pins(name: str, sign: str = "==") -> dict[str, str]:
    """Versions by distribution in a file of requirements or constraints."""
    text = (BACKEND / name).read_text("utf-8")
    found = re.findall(rf"^([\w.-]+)(?:\[\w+\])?(?:{sign}(\S+))?", text, re.MULTILINE)
    return {re.sub("[-_.]+", "-", package).lower(): version for package, version in found}


def test_each_lower_bound_is_a_version_that_is_tested() -> None:
    lowest = pins("constraints-lowest.txt")
    for package, bound in pins("requirements.txt", ">=").items():
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", lowest[package]), package


def test_every_requirement_has_an_exact_version() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-spark.txt"):
        wanted = {package for package in pins(name, ">=") if package[0] != "-"}
        assert wanted <= pins("constraints.txt").keys(), name


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment of lowest versions."""
    if not PYTHON.exists():
        pytest.skip("no environment of the lowest versions: make lowest")
    return PYTHON


@pytest.mark.lowest
def test_the_environment_has_the_lowest_versions(python: Path) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    there = {
        re.sub("[-_.]+", "-", one["name"]).lower(): one["version"]
        for one in json.loads(done.stdout)
    }
    assert pins("constraints-lowest.txt").items() <= there.items()
    assert (
        subprocess.run([python, "-V"], capture_output=True, text=True).stdout[:11] == "Python 3.11"
    )


@pytest.mark.lowest
@pytest.mark.parametrize(("way", "algorithm"), [("rest", "svd"), ("postgres", "bayesian")])
def test_they_build_on_real_ratings_with_the_apps_and_serve(
    python: Path,
    way: str,
    algorithm: str,
    supabase_server: SupabaseServer,
    movielens_archives: Path,
    script_env: dict[str, str],
    tmp_path: Path,
) -> None:
    films = [11, 13, 62, 78, 85, 105, 111, 115, 238, 240]
    supabase_server.insert(
        [(f"user-{n}", film, 1 + (n + film) % 9 / 2) for n in range(1, 31) for film in films]
    )
    supabase_server.max_rows = 100
    env = script_env | {"MOVIELENS_BASE_URL": str(movielens_archives)}
    if way == "rest":
        env |= {
            "SUPABASE_URL": supabase_server.url,
            "SUPABASE_SERVICE_ROLE_KEY": supabase_server.service_key,
        }
    else:
        env |= {"SUPABASE_DB_URL": direct_url(supabase_server.database)}
    models, data = tmp_path / "models", tmp_path / "data"
    command = [python, "-W", "error::DeprecationWarning:ml", "-m", "ml.build_collaborative"]
    where = ["--catalog", "all", "--models-dir", models, "--data-dir", data, "--report"]
    done = subprocess.run(
        [*command, *where, "--algorithm", algorithm],
        cwd=BACKEND, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "300 from the app" in done.stdout

    done = subprocess.run(
        [python, "-c", SERVED, models], cwd=BACKEND, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    assert sorted(served["rated"]) == films
    assert len(served["films"]) == 5
    assert not set(served["films"]) & set(films)
    assert max(served["differences"]) < 1e-6

    build_id = json.loads((models / "manifest.json").read_text("utf-8"))["build_id"]
    with serve(models, tmp_path / "log", python) as service:
        service.wait_for(build_id)
        assert service.rate("user-1", films[0], 4.5) == 200


@pytest.mark.lowest
def test_a_file_of_settings_from_windows_is_read(python: Path, tmp_path: Path) -> None:
    """With the bytes that Notepad begins it with: older versions of python-dotenv lose them."""
    (tmp_path / ".env").write_text("SUPABASE_URL=https://x.supabase.co\n", encoding="utf-8-sig")
    code = (
        "import sys; from ml.collaborative.settings import Settings; "
        "print(Settings(_env_file=sys.argv[1]).supabase_url)"
    )
    for interpreter in (python, sys.executable):
        done = subprocess.run(
            [interpreter, "-c", code, tmp_path / ".env"],
            cwd=BACKEND, env={}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == "https://x.supabase.co\n", done.stderr

"""What docs/into-your-app.md says works, in an app with its own config, models and training."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import joblib
import pandas as pd
import pytest
from helpers import BACKEND
from packaging.requirements import Requirement
from postgrest_server import SupabaseServer
from surprise import SVD, Dataset, Reader

from ml.collaborative.datasets.sample import film_titles

THEIRS = Path(__file__).parent / "app"
PAGE = (BACKEND / "docs" / "into-your-app.md").read_text("utf-8")
LOWEST = BACKEND / ".venv-lowest" / "bin" / "python"
POPULAR = [
    11, 13, 62, 85, 87, 105, 106, 111, 115, 116, 218, 238, 240, 244, 268, 329, 348, 377, 389, 424,
    429, 500, 510, 524, 539, 562, 568, 578, 593, 601, 602, 603, 620, 629, 632, 660, 667, 680, 681,
    694, 703, 705, 745, 762, 769, 804, 813, 821, 832, 857, 862, 872, 891, 914, 935, 947, 949, 950,
    963, 975, 996, 1091, 1366, 1578, 1891, 1892, 1893, 1894, 1895, 4922, 19995, 24428, 27205,
    157336,
]  # fmt: skip
"""TMDB ids: films that many apps have, some newer than ML-100K."""
OLD = ("ml/models/svd_model.pkl", "ml/models/cf_trainset.pkl")
USERS, RATED = 20, 10
OURS = (
    "ml/collaborative/", "ml/build_collaborative.py", "ml/download_movielens.py",
    "requirements-build.txt", "constraints-build.txt", "ml/models/",
)  # fmt: skip
"""What the page has one copy, and where the build writes."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class App:
    """An app of the kind that the project was planned for."""

    backend: Path
    """The folder that holds its `ml`."""
    package: str
    """What its `ml` is called in imports."""
    python: str
    env: dict[str, str]
    catalog: list[int]
    rated: list[int]
    """Films that each of its users has rated."""

    @property
    def cwd(self) -> Path:
        """Where its commands run: the folder of its outermost package."""
        return self.backend if self.package == "ml" else self.backend.parent

    @property
    def models(self) -> Path:
        return self.backend / "ml" / "models"

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *args], cwd=self.cwd, env=self.env, capture_output=True, text=True
        )

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each of its files but compiled code, by path."""
        return {
            path.relative_to(self.backend).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in self.backend.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }

    def copy(self) -> None:
        """Do what the page says under "Copy", with nobody there to answer `cp -i`."""
        here = blocks("bash")[0].replace("~/movie-collaborative-filtering", f"'{BACKEND.parent}'")
        assert str(BACKEND.parent) in here
        subprocess.run(
            ["bash", "-euc", here], cwd=self.backend, stdin=subprocess.DEVNULL, check=True
        )

    def build(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run the page's command for a build."""
        commands = [line for block in blocks("bash") for line in block.splitlines()]
        (command,) = (
            line for line in commands if line.endswith(f" {self.package}.build_collaborative")
        )
        return self.run(*command.split()[1:], *flags)

    def add_service(self) -> None:
        """Add the page's five lines to the app's main.py."""
        lines = blocks("python")[0]
        assert len([line for line in lines.splitlines() if line]) == 5
        (import_ml,) = re.findall("^from ml.*", lines, re.MULTILINE)
        if self.package != "ml":
            said = blocks("python")[1].strip()
            assert said.startswith(f"from {self.package}.")
            lines = lines.replace(import_ml, said)
        with (self.backend / "main.py").open("a", encoding="utf-8") as file:
            file.write(lines)

    @contextmanager
    def serve(self) -> Iterator[httpx.Client]:
        """Its service, until the block ends."""
        name = f"{self.package.removesuffix('ml')}main:app"
        code = f"import sys, uvicorn; uvicorn.run({name!r}, fd=int(sys.argv[1]))"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = subprocess.Popen(
                [self.python, "-c", code, str(listener.fileno())], cwd=self.cwd, env=self.env,
                pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                port = listener.getsockname()[1]
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                    yield client
            finally:
                server.terminate()
                server.communicate(timeout=30)


ML, APP_ML = [pytest.param((name, None), id=name) for name in ("ml", "app.ml")]
WITH_LOWEST = pytest.param(("app.ml", LOWEST), id="lowest", marks=pytest.mark.lowest)


@pytest.fixture
def app(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    supabase_server: SupabaseServer,
    script_env: dict[str, str],
) -> App:
    """The app before anything is copied, with a database and a model that it made with Surprise."""
    package, python = request.param
    if python and not python.exists():
        pytest.skip("no environment of the lowest versions: make lowest")
    backend = tmp_path / ("backend" if package == "ml" else "app")
    shutil.copytree(THEIRS, backend, ignore=shutil.ignore_patterns("__pycache__"))
    if package != "ml":  # what such an app's imports look like
        (backend / "__init__.py").touch()
        main = backend / "main.py"
        text = re.sub(r"^from (config|ml)\b", r"from app.\1", main.read_text(), flags=re.MULTILINE)
        main.write_text(text)
    (backend / ".gitignore").write_text("__pycache__/\n.env\n")
    (backend / ".env").write_text(
        "TMDB_API_KEY=abcd1234\nENVIRONMENT=test\n"
        f"SUPABASE_URL={supabase_server.url}\n"
        f"SUPABASE_SERVICE_ROLE_KEY={supabase_server.service_key}\n"
    )
    films = list(film_titles())
    catalog = sorted({*films, *POPULAR})
    models = backend / "ml" / "models"
    models.mkdir()
    joblib.dump(catalog, models / "movie_ids.pkl")
    rows = [
        (f"user-{n}", film, 1 + (n + film) % 9 / 2) for n in range(USERS) for film in films[:RATED]
    ]
    supabase_server.insert(rows)
    table = pd.DataFrame(rows, columns=["user_id", "movie_id", "rating"])
    trainset = Dataset.load_from_df(table, Reader(rating_scale=(0.5, 5))).build_full_trainset()
    joblib.dump(
        SVD(n_factors=2, n_epochs=1, random_state=0).fit(trainset), models / "svd_model.pkl"
    )
    joblib.dump(trainset, models / "cf_trainset.pkl")
    env = {name: value for name, value in script_env.items() if name[:8] != "SUPABASE"}
    return App(backend, package, str(python or sys.executable), env, catalog, films[:RATED])


def check_service(app: App, user: str) -> list[int]:
    """The service answers as before, and the new route recommends from the app's catalog."""
    app.add_service()
    with app.serve() as client:
        health = client.get("/health").json()
        similar = client.get("/films/862/similar").json()
        films = client.get(f"/users/{user}/collaborative", params={"n": 7}).json()
        unknown = client.get("/users/nobody/collaborative").json()
    assert health == {
        "environment": "test", "tmdb": "abcd", "key": "str", "films": len(app.catalog)
    }  # fmt: skip
    assert len(similar) == 5
    assert (len(set(films)), len(set(unknown))) == (7, 10)
    assert set(films) <= set(app.catalog)
    return films


@pytest.mark.parametrize("app", [ML, APP_ML], indirect=True)
def test_what_the_page_says_works_and_replaces_no_file_of_the_app(app: App) -> None:
    before = app.hashes()
    app.copy()
    assert before.items() <= app.hashes().items()
    done = app.build("--dataset", "sample", "--catalog", str(app.models / "movie_ids.pkl"))
    assert done.returncode == 0, done.stderr
    after = app.hashes()
    assert {path: after[f"{path}.before" if path in OLD else path] for path in before} == before
    assert {path for path in after.keys() - before.keys() if not path.startswith(OURS)} == set()
    check_service(app, "ml_sample_155")

    with (app.backend / ".gitignore").open("a") as file:
        file.write(blocks("gitignore")[0])
    for command in ("init --quiet", "add --all"):
        subprocess.run(["git", *command.split()], cwd=app.backend, check=True)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=app.backend, capture_output=True, text=True, check=True
    )
    added = {path for path in listed.stdout.split() if path.startswith(("ml/models", ".env"))}
    assert added == {"ml/models/movie_ids.pkl"}

    edited = app.backend / "ml" / "build_collaborative.py"
    edited.write_text("# theirs\n")
    app.copy()
    assert edited.read_text() == "# theirs\n"


@pytest.mark.parametrize("app", [ML, WITH_LOWEST], indirect=True)
def test_the_apps_catalog_builds_on_real_ratings(app: App, movielens_archives: Path) -> None:
    app.copy()
    app.env["MOVIELENS_BASE_URL"] = str(movielens_archives)
    unset = {"SUPABASE_URL": "", "SUPABASE_SERVICE_ROLE_KEY": ""}
    app.env.update(unset)
    without = app.build("--algorithm", "bayesian")
    assert without.returncode == 0, without.stderr
    assert "svd_model.pkl.before" in without.stderr
    for name in unset:  # from here on as .env has them
        del app.env[name]
    done = app.build("--algorithm", "bayesian")
    assert done.returncode == 0, done.stderr
    assert f"{USERS * RATED} from the app" in done.stdout
    assert ".before" not in done.stderr
    assert not set(check_service(app, "user-3")) & set(app.rated)


def test_the_apps_exact_pins_are_within_the_ranges() -> None:
    ranges = {
        one.name.lower(): one.specifier
        for line in (BACKEND / "requirements.txt").read_text("utf-8").splitlines()
        if line[0] != "#" and (one := Requirement(line.partition("#")[0]))
    }
    for line in (THEIRS / "requirements.txt").read_text("utf-8").split():
        name, _, version = line.partition("==")
        assert name not in ranges or version in ranges[name], line

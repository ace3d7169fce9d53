"""`python -m ml.collaborative`: what a person asks for beside builds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BACKEND, interrupt

Run = Callable[..., subprocess.CompletedProcess[str]]
TOOL = "ml.collaborative"


@pytest.fixture(scope="module")
def models(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a build of the sample."""
    folder = tmp_path_factory.mktemp("models")
    done = run("ml.build_collaborative", "--dataset", "sample", "--models-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def ask(run: Run, *args: str | Path) -> list[str]:
    done = run(TOOL, *args)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_users_list_has_titles_and_what_the_user_liked(run: Run, models: Path) -> None:
    name, liked, titles, *films = ask(
        run, "recommend", "ml_sample_155", "-n", "5", "--models-dir", models
    )
    assert name == "ml_sample_155"
    assert liked.startswith("  liked  The Wizard of Oz (1939), It's a Wonderful Life (1946), ")
    assert len(films) == 5
    assert titles.split() == ["score", "stars"]
    assert re.fullmatch(r"  1 +.+ \(\d{4}\) +1\.00 +\d\.\d", films[0])


def test_a_new_users_list_is_of_the_stars_that_are_named(run: Run, models: Path) -> None:
    stars = "--stars", "862=5", "12=4.5", "603=0.5"
    name, liked, _, *films = ask(run, "recommend", *stars, "-n", "3", "--models-dir", models)
    assert name == "a new user"
    assert liked == "  liked  Toy Story (1995), Finding Nemo (2003)"
    assert len(films) == 3
    assert not any("Toy Story (1995)" in film for film in films)
    done = run(TOOL, "recommend", *stars, "5=4", "7=4", "-n", "3", "--models-dir", models)
    assert done.stderr == (
        "WARNING: the release does not know film 5, 7: such ratings say nothing\n"
    )
    assert done.stdout.splitlines()[3:] == films
    done = run(TOOL, "recommend", "--stars", "5=4", "--models-dir", models)
    assert done.stderr.endswith(
        "such ratings say nothing; this is the list of someone of whom nothing is known\n"
    )


def test_an_unknown_user_gets_anyones_list_and_a_warning(run: Run, models: Path) -> None:
    done = run(TOOL, "recommend", "nobody", "-n", "2", "--models-dir", models)
    assert done.returncode == 0
    assert done.stderr == (
        "WARNING: the release does not know this user (MovieLens's are ml_1, ml_2, …): this is the "
        "list of someone of whom nothing is known\n"
    )
    assert len(done.stdout.splitlines()) == 4


def test_similar_films_have_titles(run: Run, models: Path) -> None:
    films = ask(run, "similar", "862", "-n", "3", "--models-dir", models)
    assert len(films) == 3
    assert all(re.fullmatch(r"\d +.+ \(\d{4}\) +-?[01]\.\d\d", film) for film in films)
    assert len({*map(len, films)}) == 1  # aligned
    done = run(TOOL, "similar", "999999", "--models-dir", models)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: the release does not know film 999999: it has no ratings of it\n"
    )


def test_evaluate_has_a_table_for_each_way_to_hold_out(run: Run) -> None:
    done = run(TOOL, "evaluate", "--dataset", "sample", "--epochs", "3", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    *tables, note = done.stdout.strip().split("\n\n")
    assert note.startswith("Lists are by score")
    assert [table.split("  ")[0] for table in tables] == [
        "5 random folds", "new users", "new users, 10 ratings known",
    ]  # fmt: skip
    titles = [table.splitlines()[0] for table in tables]
    assert len({(title.index("RMSE"), title.index("popularity")) for title in titles}) == 1
    for table in tables:
        rows = [re.split(r"  +", line)[0] for line in table.splitlines()[1:]]
        assert rows == [
            "SVD as asked for", "SVD", "user and item biases", "global mean",
            "SVD as asked for, by stars", "SVD as asked for, cold list", "SVD, by stars",
            "SVD, cold list", "most rated", "most liked",
        ]  # fmt: skip
    svd, biases, mean = (
        float(re.search(rf"^{name} +(\d\.\d+)", tables[0], re.MULTILINE)[1])  # type: ignore[index]
        for name in ("SVD", "user and item biases", "global mean")
    )
    assert svd < 0.9 < 1.05 < biases < mean  # of a real taste


def test_tune_prints_the_best_sets_as_flags(run: Run) -> None:
    args = "--dataset", "sample", "--factors", "7", "--epochs", "1", "--quiet"
    done = run(TOOL, "tune", "--sets", "3", *args)
    assert (done.returncode, done.stderr) == (0, "")
    first, *tried = done.stdout.splitlines()
    assert first == "Best of 3 sets, by mean RMSE over 3 folds; lists are not looked at"
    assert tried[-1].endswith("--factors 7 --epochs 1 --lr 0.005 --reg 0.02  (as asked for)")
    short = run(TOOL, "tune", "--sets", "5000", "--minutes", "0.001", *args)
    assert re.match(r"Best of \d+ of 5,000 sets \(stopped after 0\.001 minutes\), by", short.stdout)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["recommend"], "name a user, or a new user's ratings by --stars"),
        (["recommend", "ml_1", "--stars", "1=2"], "not both"),
        (["recommend", "--stars", "1:2"], "'1:2' is not FILM=STARS, such as 862=4.5"),
        (["recommend", "--stars", "862=7"], "film 862 has 7.0 stars, expected 0.5 to 5"),
        (["tune", "--algorithm", "bayesian"], "tune is for --algorithm svd"),
        (["rollback", "x"], "no release 'x'"),
        (["no-such-command"], "invalid choice"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_2(
    run: Run, models: Path, args: list[str], said: str
) -> None:
    where = ["--models-dir", str(models)] if args[:1] in (["recommend"], ["rollback"]) else []
    done = run(TOOL, *args, *where)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_evaluating_is_one_line(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(TOOL, "evaluate", "--dataset", "sample", "--epochs", "2000", "--verbose")
    assert process.stderr is not None
    process.stderr.readline()  # the work has begun
    _, said = interrupt(process)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted; nothing is half-written"


@pytest.mark.slow
def test_without_the_set_s_files_films_go_by_their_ids(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    done = run(
        "ml.build_collaborative", "--catalog", "all", "--models-dir", tmp_path / "models",
        "--data-dir", tmp_path / "data", MOVIELENS_BASE_URL=str(movielens_archives),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run(
        TOOL, "similar", "862", "--models-dir", tmp_path / "models", "--data-dir",
        tmp_path / "elsewhere", "-n", "2",
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.startswith("WARNING: no titles of ml-100k (")
    assert all(re.fullmatch(r"\d +TMDB \d+ +\d\.\d\d", film) for film in done.stdout.splitlines())


def test_releases_and_lists_are_shown_where_only_numpy_is_installed(models: Path) -> None:
    """As in the environment of a service."""
    code = (
        "import sys\n"
        "for name in ('surprise', 'pandas', 'joblib', 'numba', 'scipy', 'pydantic', 'filelock',"
        " 'threadpoolctl', 'jinja2'): sys.modules[name] = None\n"
        "from ml.collaborative.__main__ import main\n"
        "for command in ('releases', 'recommend ml_sample_1 -n 2', 'recommend --stars 862=5 -n 2',"
        " 'similar 862 -n 2'):\n"
        "    assert main([*command.split(), '--models-dir', sys.argv[1]]) == 0, command"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, models], cwd=BACKEND, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "WARNING: no titles: the package pandas is not installed\n" * 3
    assert len(re.findall("TMDB \\d+", done.stdout)) >= 6

"""What the two scripts share at the terminal: usage errors, help, how they are run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
from helpers import BACKEND

from ml import build_collaborative, download_movielens
from ml.collaborative import __main__ as tool

Run = Callable[..., subprocess.CompletedProcess[str]]
DOWNLOAD, BUILD = "ml.download_movielens", "ml.build_collaborative"


@pytest.mark.parametrize("script", [DOWNLOAD, BUILD])
def test_wrong_usage_is_one_line_and_where_help_is(run: Run, script: str) -> None:
    done = run(script, "--dataset", "ml-1m")
    assert (done.returncode, done.stdout) == (2, "")
    said, see = done.stderr.splitlines()
    assert said.startswith("error: argument --dataset: there is no data set 'ml-1m': expected ")
    assert see == f"see python -m {script} --help"


@pytest.mark.parametrize(("script", "codes"), [(DOWNLOAD, "01234"), (BUILD, "012345")])
def test_help_lists_the_exit_codes_that_the_script_can_give(
    run: Run, script: str, codes: str
) -> None:
    shown = run(script, "--help").stdout
    assert "".join(re.findall(r"^  (\d)  ", shown, flags=re.MULTILINE)) == codes
    assert ("published" in shown) == (script == BUILD)


@pytest.mark.parametrize(
    ("script", "path"),
    [
        (DOWNLOAD, "download_movielens.py"),
        (BUILD, "build_collaborative.py"),
        ("ml.collaborative", "collaborative/__main__.py"),
        ("ml.collaborative", "collaborative"),
    ],
)
def test_a_script_run_by_its_path_says_how_to_run_it(script: str, path: str) -> None:
    command = [sys.executable, BACKEND / "ml" / path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: run it as a module: python -m {script}\n"


def test_a_run_leaves_the_level_of_the_log_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ml.collaborative")
    caplog.set_level("ERROR", logger.name)
    for noise in ("--quiet", "--verbose"):
        assert download_movielens.main(["--dataset", "sample", noise]) == 0
        assert logger.level == logging.ERROR


PATHS = {
    "--models-dir": build_collaborative.main,
    "--data-dir": download_movielens.main,
    "--catalog": download_movielens.main,
    "export": tool.main,
}
"""Each option that is a path, with a command."""


@pytest.mark.parametrize("option", PATHS)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("~nobody-has-this-name/x", "has no home"),
        (" ", "is not a path"),
    ],
)
def test_a_path_that_cannot_be_is_wrong_usage(
    option: str, path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        PATHS[option]([option, path])
    shown = capsys.readouterr()
    assert (raised.value.code, shown.out) == (2, "")
    assert said in shown.err.splitlines()[0]
    assert len(shown.err) < 500


def test_a_tilde_is_the_home_in_every_path(
    run: Run, tmp_path: Path, movielens_archives: Path
) -> None:
    (tmp_path / "archives").symlink_to(movielens_archives)
    joblib.dump([862, 105], tmp_path / "ids.pkl")
    home = {"HOME": str(tmp_path), "MOVIELENS_BASE_URL": "~/archives"}
    before = {path.name for path in BACKEND.iterdir()}
    small = "--epochs", "2", "--factors", "5", "--force-publish", "--quiet"
    done = run(BUILD, "--models-dir=~/m", "--data-dir=~/d", "--catalog=~/ids.pkl", *small, **home)
    assert done.returncode == 0, done.stderr
    done = run("ml.collaborative", "export", "~/lists.parquet", "--models-dir", "~/m", **home)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"m", "d", "lists.parquet"}
    assert {path.name for path in BACKEND.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path: Path) -> None:
    """Root may enter any: the commands run in a fork that is another user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "models").mkdir()
    ids = tmp_path / "ids.pkl"
    joblib.dump([862], ids)
    commands = [
        (build_collaborative.main, "--dataset", "sample", "--models-dir", closed / "models"),
        (build_collaborative.main, "--dataset", "sample", "--models-dir", closed),
        (download_movielens.main, "--catalog", "all", "--data-dir", closed / "data"),
        (download_movielens.main, "--dataset", "sample", "--catalog", closed / "ids.pkl"),
        (tool.main, "releases", "--models-dir", closed / "models"),
        (tool.main, "rollback", "--models-dir", closed / "models"),
        (tool.main, "recommend", "ml_1", "--models-dir", closed / "models"),
        (tool.main, "export", closed / "lists.parquet", "--models-dir", closed / "models"),
    ]
    for main, *args in commands:
        code, said = in_a_fork(main, [*map(str, args)])
        assert code == 1, (args, said)
        assert said.splitlines()[-1].startswith("error: ")
        assert "ermission denied" in said
        assert "Traceback" not in said


def in_a_fork(main: Callable[[list[str]], int], args: list[str]) -> tuple[int, str]:
    """The exit code and stderr of a command, as a user who owns nothing."""
    with tempfile.TemporaryFile("w+") as err:
        if not (child := os.fork()):
            code = 99
            try:
                os.dup2(err.fileno(), 2)
                sys.stderr = os.fdopen(2, "w")
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(12345)
                    os.setuid(12345)
                code = main(args)
            except SystemExit as leaving:
                code = int(str(leaving.code))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        err.seek(0)
        return code, err.read()

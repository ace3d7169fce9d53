"""What the two scripts share at the terminal: usage errors, help, how they are run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from helpers import BACKEND

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


@pytest.mark.parametrize("script", [DOWNLOAD, BUILD])
def test_a_script_run_by_its_path_says_how_to_run_it(script: str) -> None:
    path = BACKEND / (script.replace(".", "/") + ".py")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: run it as a module: python -m {script}\n"

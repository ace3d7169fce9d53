"""A Python that is too old gets one line, not a traceback."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from helpers import BACKEND

MODULES = ("ml.build_collaborative", "ml.download_movielens", "ml.collaborative")
OLD = """
import runpy, sys
sys.version_info = (3, 10, 13, "final", 0)
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("module", MODULES)
def test_an_older_python_is_told_what_is_needed(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLD, module], cwd=BACKEND, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: Python 3.11 or newer is needed, this is 3.10\n"


@pytest.mark.parametrize(
    "path", ["build_collaborative.py", "download_movielens.py", "collaborative/__init__.py"]
)
def test_what_an_older_python_reads_until_then_it_can_parse(path: str) -> None:
    ast.parse((BACKEND / "ml" / path).read_text("utf-8"), feature_version=(3, 8))

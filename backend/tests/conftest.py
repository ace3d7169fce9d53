"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ("postgrest_server",)

BACKEND = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def movielens_archives() -> Path:
    """A folder with the real `ml-100k.zip` and `ml-latest-small.zip`; skips where there is none."""
    beside = BACKEND.parent.parent / "shared" / "movielens"
    folder = Path(os.environ.get("MOVIELENS_BASE_URL", "").removeprefix("file://") or beside)
    if not (folder / "ml-100k.zip").is_file():
        pytest.skip("no real MovieLens archives: set MOVIELENS_BASE_URL to a folder that has them")
    return folder

"""The default paths: beside this package, in the app's folder `ml`."""

from __future__ import annotations

import os
from pathlib import Path

ML_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = ML_DIR / "data"
"""MovieLens files."""
MODELS_DIR = ML_DIR / "models"
"""Releases, and the catalog of the content-based model."""
CATALOG = MODELS_DIR / "movie_ids.pkl"
ENV_FILE = ML_DIR.parent / ".env"


def expand(path: str | Path) -> Path:
    """Return the path that a person writes, `~` being a home; an unknown user's stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises


def from_here(path: Path) -> Path:
    """Return `path` as one would type it in the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

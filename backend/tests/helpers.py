"""Small things that several test files need."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[1]
PUBLISHED = {"svd_model.pkl", "cf_trainset.pkl", "manifest.json", "history.jsonl", "live"}
"""Files in a models folder that has a release, without a report."""


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C; return the rest of stdout and stderr once the process has ended."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=60)


def copy_backend(folder: Path) -> None:
    """The code that the scripts run, without data, models and caches."""
    keep_out = shutil.ignore_patterns("data", "models", "__pycache__")
    shutil.copytree(BACKEND / "ml", folder / "ml", ignore=keep_out)


def let_others_enter(folder: Path) -> None:
    """Let other users pass to a temporary folder of pytest, whose parents are closed to them."""
    for path in (folder, *folder.parents):
        if Path(tempfile.gettempdir()) in path.parents:
            path.chmod(0o711)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder but its lock, by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != ".lock"
    }


def popular_films() -> list[int]:
    """The catalog of an app: TMDB ids of today's popular films."""
    lines = (BACKEND / "tests/into_app/popular_films.txt").read_text(encoding="utf-8").splitlines()
    return [int(film) for line in lines if not line.startswith("#") for film in line.split()]

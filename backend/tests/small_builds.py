"""Builds that take a second each, and somebody's own small set, for the tests of releases."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.build_collaborative import main
from ml.collaborative.release import ReleaseStore

Run = Callable[..., subprocess.CompletedProcess[str]]
BUILD = "ml.build_collaborative"
SMALL = ("--epochs", "2", "--factors", "5", "--force-publish")
SAMPLE = ("--dataset", "sample", *SMALL)


def build(models: Path, *args: str | Path) -> str:
    """Publish a small build of the sample, or of what `args` say, in this process; its build id."""
    assert main(["--models-dir", str(models), "--quiet", *map(str, args or SAMPLE)]) == 0
    return ReleaseStore(models).live_folder().name


def write_set(folder: Path) -> None:
    """Thirty users' ratings of twenty films, in the layout of ml-latest."""
    ratings = [
        f"{user},{film},{(user * film + user) % 10 / 2 + 0.5},{film}"
        for user in range(1, 31)
        for film in range(1, 21)
    ]
    (folder / "ml-latest").mkdir(parents=True)
    for name, lines in {
        "ratings.csv": ["userId,movieId,rating,timestamp", *ratings],
        "links.csv": ["movieId,imdbId,tmdbId", *(f"{n},{n},{n + 100}" for n in range(1, 21))],
        "movies.csv": ["movieId,title,genres", *(f"{n},Film {n},Drama" for n in range(1, 21))],
    }.items():
        (folder / "ml-latest" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest in a release's folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    edit(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")

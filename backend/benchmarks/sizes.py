"""Build from archives of generated ratings of growing size: seconds, memory, errors and lists.

Run it in `backend/`: python -m benchmarks.sizes FOLDER [--sizes 100000 …] [--algorithms svd auto]
[--trainings svd bayesian ranking], each of which is timed alone, too
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.steps import peak_mib
from ml.collaborative.process import give_back_memory

SIZES = {
    100_000: (625, 2_000),
    1_000_000: (6_250, 2_702),
    10_000_000: (62_500, 27_027),
    32_000_204: (200_948, 87_585),
}
"""Users and films by number of ratings; the last is ml-32m's shape."""
RANKING = "ranking"
"""The name of its training, beside those of the algorithms."""


def make_archive(folder: Path, ratings: int) -> Path:
    """Return a folder with an archive of so many ratings, made if it is not there yet."""
    users, films = SIZES[ratings]
    path = folder / str(ratings) / "ml-32m.zip"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part") / path.name  # its name is the set's
        part.parent.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.make_archive", part, "--ratings", str(ratings),
             "--users", str(users), "--films", str(films)], check=True,
        )  # fmt: skip
        part.replace(path)
        part.parent.rmdir()
    return path.parent


def build(data: Path, algorithm: str) -> dict[str, Any]:
    """Build in a process of its own, as a user would; return what it took and what is said of it.

    Returns:
        wall and cpu seconds, memory at the highest in MiB, the algorithm that was published, and
        the first of the manifest's metrics.
    """
    with tempfile.TemporaryDirectory() as models:
        command = [
            sys.executable, "-m", "ml.build_collaborative", "--dataset", "ml-32m", "--catalog",
            "all", "--allow-missing-app-ratings", "--data-dir", str(data), "--models-dir", models,
            "--algorithm", algorithm, "--force-publish",
        ]  # fmt: skip
        started = perf_counter()
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                raise SystemExit(said.read().decode()[-2000:])
        manifest = json.loads(Path(models, "manifest.json").read_text(encoding="utf-8"))
    return {
        "wall": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
        "published": manifest["algorithm"],
        **next((scores for scores in manifest["metrics"] if "rmse" in scores), {}),
    }


def train(data: Path, name: str) -> None:
    """Train on all ratings; print seconds, and MiB at the highest over what the ratings take."""
    from ml.collaborative.algorithms.ranking import fit_ranking
    from ml.collaborative.algorithms.training import ALGORITHMS, make_training
    from ml.collaborative.datasets import movielens
    from ml.collaborative.trainset import ArrayTrainset, make_trainset

    def fit(trainset: ArrayTrainset) -> object:
        if name == RANKING:
            return fit_ranking(trainset, seed=0)
        return make_training(ALGORITHMS[name]).fit(trainset)

    table = movielens.load("ml-32m", data, None).ratings
    fit(make_trainset(table.head(100)))  # the loops are compiled
    trainset = make_trainset(table)
    del table
    give_back_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = peak_mib()
    started = perf_counter()
    fit(trainset)
    print(perf_counter() - started, peak_mib() - before)


def train_apart(data: Path, name: str) -> list[float]:
    """Return what `train` prints, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sizes", data, "--train", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Print Markdown tables, a row as it is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the archives, which are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--algorithms", nargs="*", default=["svd", "auto"])
    parser.add_argument("--trainings", nargs="*", default=["svd", "bayesian", RANKING])
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.folder, args.train)
        return
    print("| ratings | algorithm | published | s | core s | GiB | RMSE | NDCG@10 |")
    print("|---:|---|---|---:|---:|---:|---:|---:|", flush=True)
    for ratings in args.sizes:
        data = make_archive(args.folder, ratings)
        for algorithm in args.algorithms:
            found = build(data, algorithm)
            measured = [found.get(name) for name in ("rmse", "ndcg")]
            rmse, ndcg = ("" if value is None else f"{value:.4f}" for value in measured)
            print(
                f"| {ratings:,} | `{algorithm}` | {found['published']} | {found['wall']:.1f} | "
                f"{found['cpu']:.0f} | {found['mib'] / 1024:.2f} | {rmse} | {ndcg} |",
                flush=True,
            )
    print(
        "\n| ratings | training alone | s | MiB over the ratings |\n|---:|---|---:|---:|",
        flush=True,
    )
    for ratings in args.sizes:
        data = make_archive(args.folder, ratings)
        for name in args.trainings:
            seconds, mib = train_apart(data, name)
            print(f"| {ratings:,} | {name} | {seconds:.1f} | {mib:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""The ranking's iALS loop beside ALS of the library `implicit`: seconds of a training.

Run it in `backend/`: python -m benchmarks.als_cost [--ratings N ...] [--turns N]

Both have the same generated ratings, factors and alternations, on all cores. Each is in its own
process and has trained once before; then they take turns. `implicit` trains in its two ways: by
conjugate gradients, which are its default and approximate, and by Cholesky, which is exact, as ours
is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np  # implicit's environment runs this file: the rest is imported where used

OURS, GRADIENTS, EXACT = "this project's iALS", "implicit, gradients", "implicit, Cholesky"
PACKAGE = "implicit==0.7.3"


def prepare(name: str, file: Path, factors: int, rounds: int) -> Callable[[], object]:
    """Return what trains one of the models on the ratings in a file."""
    with np.load(file) as kept:
        users, films, shape = kept["users"], kept["films"], tuple(kept["shape"].tolist())
    if name == OURS:
        return _prepare_ours(users, films)
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((np.ones(len(users), np.float32), (users, films)), shape)
    model = AlternatingLeastSquares(
        factors, iterations=rounds, use_cg=name == GRADIENTS, random_state=0
    )

    def train() -> None:
        model.user_factors = model.item_factors = None  # else it goes on from the last training
        model.fit(matrix, show_progress=False)

    return train


def _prepare_ours(users: np.ndarray, films: np.ndarray) -> Callable[[], object]:
    from concurrent.futures import ThreadPoolExecutor

    import joblib
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from ml.collaborative.algorithms import ranking
    from ml.collaborative.trainset import make_trainset

    stars = np.where(np.arange(len(users)) % 2, 4.0, 3.0)
    ids = pd.Series(users).astype("str")
    trainset = make_trainset(pd.DataFrame({"user_id": ids, "movie_id": films, "rating": stars}))
    weight = ranking.unseen_weight(trainset.n_ratings, trainset.n_users, trainset.n_items)
    pool = ThreadPoolExecutor(joblib.cpu_count())

    def train() -> object:
        with threadpool_limits(1):
            return ranking._fit_ials(trainset, weight, 0, pool, lambda done: done)

    return train


def answer(name: str, file: Path, factors: int, rounds: int) -> None:
    """Train once for each line that comes in; print the seconds."""
    train = prepare(name, file, factors, rounds)
    train()
    for _ in sys.stdin:
        started = perf_counter()
        train()
        print(perf_counter() - started, flush=True)


def compare(file: Path, envs: Path, turns: int) -> dict[str, list[float]]:
    """Return the seconds of each model's turns."""
    from benchmarks.peers import python_with
    from ml.collaborative.algorithms.ranking import ALTERNATIONS, FACTORS
    from ml.collaborative.paths import ML_DIR

    seconds: dict[str, list[float]] = {name: [] for name in (OURS, GRADIENTS, EXACT)}
    children = {}
    try:
        for name in seconds:
            python = python_with("" if name == OURS else PACKAGE, envs)
            command = [python, "-m", "benchmarks.als_cost", "--answer", name, file]
            command += ["--factors", str(FACTORS), "--alternations", str(ALTERNATIONS)]
            children[name] = subprocess.Popen(
                list(map(str, command)), cwd=ML_DIR.parent, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # as implicit asks for
            )  # fmt: skip
        for _ in range(turns):
            for name, child in children.items():
                if child.stdin is None or child.stdout is None:
                    raise RuntimeError("no pipes")
                print(file=child.stdin, flush=True)
                seconds[name].append(float(child.stdout.readline()))
    finally:
        for child in children.values():
            child.communicate()
    return seconds


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--ratings", type=int, nargs="*", default=[100_000, 1_000_000])
    add("--turns", type=int, default=5)
    add("--envs", type=Path, default=Path(".venv-peers"), help="environments of libraries")
    add("--answer", nargs=2, help=argparse.SUPPRESS)
    add("--factors", type=int, help=argparse.SUPPRESS)
    add("--alternations", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        answer(args.answer[0], Path(args.answer[1]), args.factors, args.alternations)
        return
    from tqdm import tqdm

    from benchmarks.make_archive import draw_ratings

    print("| ratings | | s, median | times ours |\n|---:|---|---:|---:|")
    for count in tqdm(args.ratings, "sizes"):
        table = draw_ratings(count, max(count // 160, 100), max(count // 370, 2000))
        users, films = (table[name].factorize()[0] for name in ("userId", "movieId"))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "ratings.npz"
            np.savez(file, users=users, films=films, shape=(users.max() + 1, films.max() + 1))
            seconds = compare(file, args.envs.resolve(), args.turns)
        for name, each in seconds.items():
            ratio = median(a / b for a, b in zip(each, seconds[OURS], strict=True))
            print(f"| {count:,} | {name} | {median(each):.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

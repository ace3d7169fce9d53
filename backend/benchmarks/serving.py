"""Compare serving with a loop over `svd.predict`; measure loading at two sizes.

Run it in `backend/`: python -m benchmarks.serving [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import joblib
import numpy as np
from surprise import SVD, AlgoBase

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.parts import Parts, attach
from ml.collaborative.algorithms.ranking import HEAD_FILMS
from ml.collaborative.algorithms.ranking_scores import Ranking
from ml.collaborative.datasets import movielens
from ml.collaborative.paths import DATA_DIR
from ml.collaborative.ratings import make_ratings
from ml.collaborative.serving.export import recommend_all, write_parquet
from ml.collaborative.serving.model import load_collaborative
from ml.collaborative.trainset import ArrayTrainset, make_trainset

LARGE = 200_948, 87_585, 32_000_204
"""Users, films and ratings of ml-32m."""


def time_calls(*calls: Callable[[], object], runs: int) -> list[float]:
    """Return the median milliseconds of each call, made in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, found in zip(calls, times, strict=True):
            started = perf_counter()
            call()
            found.append(1e3 * (perf_counter() - started))
    return [median(found) for found in times]


def draw_large() -> tuple[SVD, ArrayTrainset]:
    """Return an untrained model of ml-32m's shape."""
    users, films, ratings = LARGE
    rng = np.random.default_rng(0)
    codes = rng.integers(0, users, ratings)
    codes[:users] = np.arange(users)
    movies = rng.integers(0, films, ratings)
    movies[:films] = np.arange(films)
    names = np.array([f"ml_{user}" for user in range(users)])
    import pandas as pd

    table = make_ratings(
        pd.Categorical.from_codes(np.sort(codes).astype(np.int32), names),
        movies * 17 + 2,
        rng.integers(1, 6, ratings),
    )
    trainset = make_trainset(table)
    svd = AlgoBase.fit(SVD(n_factors=100), trainset)
    svd.bu, svd.bi = rng.normal(size=trainset.n_users), rng.normal(size=trainset.n_items)
    svd.pu, svd.qi = (rng.normal(0, 0.1, (n, 100)) for n in (trainset.n_users, trainset.n_items))
    q = rng.normal(0, 0.1, (trainset.n_items, 64)).astype(np.float32)
    ranking = Ranking(
        q=q,
        gram=q.T.astype(np.float64) @ q,
        mean_vector=q[0],
        head=np.arange(HEAD_FILMS, dtype=np.int32),
        weights=rng.integers(-9, 9, (HEAD_FILMS, HEAD_FILMS)).astype(np.int16),
        weight_step=1e-4,
        cold=rng.uniform(0, 9, len(q)).astype(np.float32),
        unseen_weight=0.02,
        trained_films=len(q),
        threshold=3.5,
    )
    return attach(svd, Parts(ranking=ranking)), trainset


def time_start(models: Path, mmap: bool) -> tuple[float, float, float]:
    """Return medians of five fresh processes: seconds to import and to load, peak MiB."""
    code = (
        "import re; from time import perf_counter as now; a = now(); "
        "from ml.collaborative.serving.model import load_collaborative; b = now(); "
        f"model = load_collaborative({str(models)!r}, mmap={mmap}); c = now(); "
        "model.recommend('ml_1'); "
        r"kib = int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]); "
        "print(b - a, c - b, kib / 1024)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    columns = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    return tuple(map(median, columns))  # type: ignore[return-value]


def serve_small(models: Path) -> None:
    """Print times of single calls on ML-100K."""
    svd, model = joblib.load(models / "svd_model.pkl"), load_collaborative(models)
    rng = np.random.default_rng(0)
    films = rng.choice(model.movie_ids, 10_000)
    listed = films.tolist()
    ratings = {film: float(rng.integers(1, 6)) for film in model.movie_ids[:100].tolist()}
    calls: dict[str, Callable[[], object]] = {
        "loop over `svd.predict`, 10,000 candidates": lambda: [
            svd.predict("ml_1", film).est for film in listed
        ],
        "`predict`, the same, an array": lambda: model.predict("ml_1", films),
        "`recommend` among the same, an array": lambda: model.recommend("ml_1", 10, films),
        "`recommend` among the same, a list": lambda: model.recommend("ml_1", 10, listed),
        "`recommend` among all films": lambda: model.recommend("ml_1"),
        "`fold_in` of 100 ratings": lambda: model.fold_in(ratings),
        "`similar`": lambda: model.similar(11),
        "`recommend_all`, 943 users": lambda: list(recommend_all(model.snapshot)),
    }
    found = time_calls(*calls.values(), runs=51)
    print(
        "| ML-100K, 100 factors | ms, median of 51 | times as fast as the loop |\n|---|---:|---:|"
    )
    for name, milliseconds in zip(calls, found, strict=True):
        ratio = f"{found[0] / milliseconds:.0f}" if "the same" in name else ""
        print(f"| {name} | {milliseconds:.3f} | {ratio} |")


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        table = movielens.load("ml-100k", args.data_dir, None).ratings
        save_models(*train_svd_model(table), str(small))
        serve_small(small)
        save_models(*draw_large(), str(large))
        print("\n| start of a service | import, s | load, s | memory, MiB |\n|---|---:|---:|---:|")
        for name, models in (
            ("ML-100K", small),
            (f"ml-32m's shape, {LARGE[2]:,} ratings", large),
        ):
            for mmap in (False, True):
                label = f"{name}{', `mmap=True`' if mmap else ''}"
                print("| {} | {:.3f} | {:.3f} | {:,.0f} |".format(label, *time_start(models, mmap)))
        model = load_collaborative(large)
        (milliseconds,) = time_calls(lambda: model.recommend("ml_1000"), runs=51)
        print(f"\n`recommend` at ml-32m's shape: {milliseconds:.2f} ms, median of 51")
        started = perf_counter()
        write_parquet(model.snapshot, large / "lists.parquet", 10)
        rate = LARGE[0] / (perf_counter() - started)
        print(f"`export` at ml-32m's shape: {rate:,.0f} lists a second")


if __name__ == "__main__":
    main()

"""Compare this project's build with the plan's own steps in plain Surprise, run alternately.

Run it in `backend/`: python -m benchmarks.bench --data-dir DIR [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

from tqdm import tqdm

LIBRARIES = ("scikit-surprise", "numpy", "numba", "pandas", "joblib")


def time_command(command: list[str]) -> float:
    """Return the seconds from start to end of a process."""
    started = perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return perf_counter() - started


def compare_builds(data_dir: Path, algorithm: str, runs: int) -> dict[str, object]:
    """Time whole builds on cached ML-100K, from interpreter start to files written.

    Ours has the gate and the ranking, which the plan has not.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = [sys.executable, "-m"]
        ours = [*python, "ml.build_collaborative", "--catalog", "all", "--data-dir", str(data_dir),
                "--algorithm", algorithm, "--models-dir", f"{folder}/ours",
                "--quiet"]  # fmt: skip
        plain = [*python, "benchmarks.plain_surprise", str(data_dir), f"{folder}/plain"]
        pairs = []
        for run in tqdm(range(runs + 1), "builds"):
            pair = time_command(ours), time_command(plain)
            if run:  # the first warms the caches
                pairs.append(pair)
    return compared(
        f"whole build, ML-100K, --algorithm {algorithm}",
        [a for a, _ in pairs],
        [b for _, b in pairs],
    )


def compared(what: str, ours: list[float], plain: list[float]) -> dict[str, object]:
    """Return a row of the table: medians, and the median of the ratios pair by pair."""
    return {
        "what": what,
        "ours_s": median(ours),
        "plain_s": median(plain),
        "ratio": median(b / a for a, b in zip(ours, plain, strict=True)),
    }


@contextmanager
def dumped_table(ratings: int) -> Iterator[Path]:
    """Yield a file with a generated ratings table, drawn in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        command = [sys.executable, "-m", "benchmarks.steps", "draw", str(path), str(ratings)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        yield path


def run_steps(engine: str, path: Path) -> dict[str, float]:
    """Return what benchmarks.steps measures, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.steps", engine, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def compare_steps(ratings: int, runs: int) -> list[dict[str, object]]:
    """Measure fit, dump and load, and peak memory on generated ratings."""
    results: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    with dumped_table(ratings) as path:
        for _ in tqdm(range(runs), f"steps, {ratings:,} ratings"):
            for engine, kept in results.items():
                steps = run_steps(engine, path)
                kept.append(steps | {"dump + load": steps["dump"] + steps["load"]})
    return [
        compared(
            f"{step}, {ratings:,} generated ratings",
            *([run[step] for run in results[engine]] for engine in ("ours", "plain")),
        )
        for step in ("trainset", "fit", "dump + load", "peak_mib")
    ]


def compare_fit(data_dir: Path, runs: int) -> dict[str, object]:
    """Compare `fit_svd` with `SVD.fit` on ML-100K, each on its own trainset, loop compiled."""
    from surprise import SVD, Dataset, Reader

    from ml.collaborative.algorithms.svd import fit_svd
    from ml.collaborative.datasets import movielens
    from ml.collaborative.trainset import make_trainset

    table = movielens.load("ml-100k", data_dir, None).ratings
    plain = Dataset.load_from_df(table, Reader(rating_scale=(1, 5))).build_full_trainset()
    times = []
    for _ in tqdm(range(runs + 1), "fit, ML-100K"):
        arrays = make_trainset(table)
        started = perf_counter()
        fit_svd(arrays, factors=100, epochs=20, lr=0.005, reg=0.02, seed=0)
        between = perf_counter()
        SVD(random_state=0).fit(plain)
        times.append((between - started, perf_counter() - between))
    times = times[1:]
    return compared("fit, ML-100K", [a for a, _ in times], [b for _, b in times])


def compare_modes(ratings: int, runs: int) -> dict[str, object]:
    """Compare `fit_svd` on several threads and on one; RMSE of a tenth held out."""
    import joblib
    import numpy as np

    from ml.collaborative.algorithms.svd import fit_svd, predict_pairs
    from ml.collaborative.trainset import make_trainset

    with dumped_table(ratings) as path:
        table = joblib.load(path)
    held_out = np.random.default_rng(0).random(len(table)) < 0.1
    trainset, test = make_trainset(table[~held_out]), table[held_out]
    pairs = trainset.find(test)
    times: dict[bool, list[float]] = {True: [], False: []}
    rmse = {}
    for _ in tqdm(range(runs), f"threads, {ratings:,} ratings"):
        for parallel, kept in times.items():
            started = perf_counter()
            model = fit_svd(
                trainset, factors=100, epochs=20, lr=0.005, reg=0.02, seed=0, parallel=parallel
            )
            kept.append(perf_counter() - started)
            errors = predict_pairs(model, *pairs) - test["rating"].to_numpy()
            rmse[parallel] = float(np.sqrt(np.mean(errors**2)))
    what = f"fit, {ratings:,}: threads (RMSE {rmse[True]:.5f}) against one ({rmse[False]:.5f})"
    return compared(what, times[True], times[False])


def growth(sizes: list[int]) -> list[dict[str, object]]:
    """Measure this project's steps on growing numbers of generated ratings."""
    rows: list[dict[str, object]] = []
    for ratings in tqdm(sizes, "growth"):
        with dumped_table(ratings) as path:
            rows.append({"ratings": ratings, **run_steps("ours", path)})
    return rows


def main() -> None:
    """Print the tables; write the same as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("ml/data"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=int, default=32_000_000, help="ratings of the growth table")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
    machine += ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    rows = [compare_builds(args.data_dir, name, args.runs) for name in ("svd", "auto")]
    rows.append(compare_fit(args.data_dir, args.runs))
    rows += [compare_modes(ratings, 3) for ratings in (1_000_000, 4_000_000)]
    rows += compare_steps(100_000, args.runs) + compare_steps(1_000_000, min(args.runs, 3))
    sizes = [n for n in (100_000, 1_000_000, 10_000_000, 32_000_000) if n <= args.most]
    grown = growth(sizes)
    print(f"{machine}\n\n| what | ours | plain Surprise | ratio |\n|---|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['what']} | {row['ours_s']:.3f} | {row['plain_s']:.3f} | {row['ratio']:.1f} |"
        )
    print("\n| ratings | trainset s | fit s | dump s | load s | peak MiB |\n|" + "---:|" * 6)
    for row in grown:
        steps = " | ".join(f"{row[name]:.3f}" for name in ("trainset", "fit", "dump", "load"))
        print(f"| {row['ratings']:,} | {steps} | {row['peak_mib']:.0f} |")
    if args.json:
        text = json.dumps({"machine": machine, "rows": rows, "growth": grown}, indent=1)
        args.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

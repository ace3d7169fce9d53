"""Measure ALS on Spark at several sizes on this machine, and compare it with local training.

Run it in `backend/`: python -m benchmarks.spark [SIZE …]
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from surprise import SVD

from benchmarks.local_als import fit_local_als
from benchmarks.make_archive import draw_ratings
from ml.collaborative.algorithms.svd import predict_pairs
from ml.collaborative.algorithms.training import ALGORITHMS, PLAN, make_training
from ml.collaborative.evaluation.metrics import rmse
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.ratings import make_ratings
from ml.collaborative.spark import ALS
from ml.collaborative.spark.als import describe_als, fit_als
from ml.collaborative.spark.session import Cluster, open_cluster
from ml.collaborative.trainset import ArrayTrainset, make_trainset

FEW, MANY = 2, 12
"""Iterations of two trainings; their difference in time gives the time of an iteration."""
ROUNDS = 3
"""Runs of both trainings, of which medians count; above `ALIKE` ratings it is one."""
ALIKE = 1_000_000
"""Ratings at which rankings are compared."""


def draw(ratings: int) -> pd.DataFrame:
    """Draw a table in the shape of ml-32m: about 160 ratings for each user."""
    films = min(87_585, max(1_600, ratings // 100))
    table = draw_ratings(ratings, max(900, ratings // 160), films)
    return make_ratings(table["userId"].astype("str"), table["movieId"], table["rating"])


def seconds(work: object, *args: object, **kwargs: object) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    work(*args, **kwargs)  # type: ignore[operator]
    return time.perf_counter() - start


def java_peak(cluster: Cluster) -> float:
    """Return the peak memory of Spark's Java process in GiB; driver and executor are one here."""
    pid = cluster.session.sparkContext._jvm.java.lang.ProcessHandle.current().pid()
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20  # type: ignore[index]


def measure(ratings: int) -> None:
    """Print a line of the table."""
    trainset = make_trainset(draw(ratings))
    parameters = ALS.defaults
    few, many = (replace(parameters, epochs=epochs) for epochs in (FEW, MANY))
    with open_cluster("local[2]") as cluster:
        fit_als(trainset, parameters=few, seed=0, cluster=cluster)  # the JVM compiles
        taken = [
            [seconds(fit_als, trainset, parameters=p, seed=0, cluster=cluster) for p in (few, many)]
            for _ in range(ROUNDS if ratings <= ALIKE else 1)
        ]
        shorter, longer = map(median, zip(*taken, strict=True))
        peak = java_peak(cluster)
    iteration = (longer - shorter) / (MANY - FEW)
    fixed = shorter - FEW * iteration
    local = make_training(ALGORITHMS["svd"], 0).fit
    local(trainset)  # compiles
    epoch = seconds(local, trainset) / PLAN.epochs
    whole = fixed + parameters.epochs * iteration
    print(
        f"| {ratings:,} | {iteration:.2f} | {fixed:.1f} | {whole:.1f} | {peak:.1f} "
        f"| {epoch:.3f} | {PLAN.epochs * epoch:.1f} |",
        flush=True,
    )


def top_tens(model: SVD, users: np.ndarray, trainset: ArrayTrainset) -> list[set[int]]:
    """Return the ten best unrated films of each user."""
    rows = trainset.by_user
    tens = []
    for user in users:
        scores = model.bi + model.qi @ model.pu[user]
        scores[rows.others[rows.starts[user] : rows.starts[user + 1]]] = -np.inf
        tens.append(set(np.argsort(-scores)[:10].tolist()))
    return tens


def compare() -> None:
    """Compare errors and rankings of Spark's ALS and the same in NumPy."""
    table = draw(ALIKE)
    split = next(k_folds(len(table), 5, 0))
    trainset, test = make_trainset(table.iloc[split.train]), table.iloc[split.test]
    parameters = ALS.defaults
    with open_cluster("local[2]") as cluster:
        models = {
            f"Spark, seed {seed}": fit_als(
                trainset, parameters=parameters, seed=seed, cluster=cluster
            )
            for seed in (0, 1)
        }
    for seed in (0, 1):
        models[f"NumPy, seed {seed}"] = fit_local_als(
            trainset, seed=seed, **describe_als(parameters)
        )
    users = np.random.default_rng(0).choice(trainset.n_users, 1000, replace=False)
    pairs, stars = trainset.find(test), test["rating"].to_numpy()
    tens = {}
    for name, model in models.items():
        tens[name] = top_tens(model, users, trainset)
        print(f"{name}: RMSE {rmse(predict_pairs(model, *pairs) - stars):.4f}", flush=True)
    first = tens["Spark, seed 0"]
    for name, others in tens.items():
        overlap = np.mean([len(a & b) / 10 for a, b in zip(first, others, strict=True)])
        print(f"ten best films, Spark, seed 0 and {name}: {overlap:.1%} the same", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=float, default=[1e5, 1e6, 1e7])
    for size in parser.parse_args().sizes:
        measure(int(size))
        if size == ALIKE:
            compare()

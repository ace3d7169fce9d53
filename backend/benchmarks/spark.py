"""Measure whole item-only builds on Spark at several sizes on this machine.

Run it in `backend/`: python -m benchmarks.spark FOLDER [--sizes 100000 …] [--compare]

Ratings are generated in the shape of ml-32m and kept in FOLDER. A fifth of the ratings of `JUDGES`
users is held out of them: the release is asked for the rest as a service asks it, with users folded
in. `--compare` compares errors and lists of Spark's ALS with those of the same in NumPy.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pandas as pd
from surprise import SVD

from benchmarks.local_als import fit_local_als
from benchmarks.make_archive import draw_ratings
from benchmarks.sizes import SIZES
from ml.collaborative.algorithms.svd import predict_pairs
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.splits import k_folds
from ml.collaborative.ratings import make_ratings
from ml.collaborative.serving import load_collaborative
from ml.collaborative.spark import ALS
from ml.collaborative.spark.als import describe_als, fit_als
from ml.collaborative.spark.session import open_cluster
from ml.collaborative.trainset import ArrayTrainset, make_trainset

JUDGES = 2_000
ALIKE = 1_000_000
"""Ratings at which lists are compared."""
STAGES = {
    "reading": r"starting Spark",
    "gate": r"ratings by .* users of",
    "ALS": r"ALS: training on",
    "ranking": r"ranking: training",
    "rest": r"ranking: alternation 8 of 8",
}
"""The first line of each; the gate's own training begins with ALS too."""


def draw(ratings: int) -> pd.DataFrame:
    """Draw the table that `benchmarks.sizes` builds from."""
    return draw_ratings(ratings, *SIZES[ratings])


def prepare(folder: Path, ratings: int) -> tuple[Path, pd.DataFrame]:
    """Write the ratings to train on; return where, and all ratings of the judges."""
    path, judges = folder / f"{ratings}.parquet", folder / f"{ratings}-judges.parquet"
    if not judges.exists():
        table = draw(ratings)
        table = table.rename(columns={"userId": "user_id", "movieId": "movie_id"})
        table = table[["user_id", "movie_id", "rating"]]
        rng = np.random.default_rng(1)
        users = rng.choice(table["user_id"].max(), min(JUDGES, table["user_id"].max() // 4), False)
        own = table["user_id"].isin(users + 1).to_numpy()
        held_out = own & (rng.random(len(table)) < 0.2)
        table["user_id"] = "ml_" + table["user_id"].astype("str")
        table[~held_out].to_parquet(path, index=False)
        table.assign(held_out=held_out)[own].to_parquet(judges, index=False)
    return path, pd.read_parquet(judges)


class Watcher(Thread):
    """Follows the memory and the processor time of a process and of all below it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.done = pid, Event()
        self.gib = 0.0
        self.times, self.spent = [time.perf_counter()], [0.0]
        """Now and then, and the core seconds until then."""

    def run(self) -> None:
        """Look twice a second."""
        tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        each: dict[int, float] = {}
        while not self.done.wait(0.5):
            parents, private, cpu = {}, {}, {}
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    words = stat.read_text().rpartition(")")[2].split()
                    shared = int((stat.parent / "statm").read_text().split()[2])
                except OSError:  # it has ended
                    continue
                own = int(stat.parent.name)
                parents[own] = int(words[1])
                private[own] = (int(words[21]) - shared) * page
                cpu[own] = (int(words[11]) + int(words[12])) / tick
            below = [own for own in parents if is_below(own, self.pid, parents)]
            each |= {own: cpu[own] for own in below}
            self.gib = max(self.gib, sum(private[own] for own in below) / 2**30)
            self.times.append(time.perf_counter())
            self.spent.append(sum(each.values()))


def is_below(own: int, pid: int, parents: dict[int, int]) -> bool:
    """Return whether a process is `pid`, or was started by it or by what it started."""
    while own != pid and own in parents:
        own = parents[own]
    return own == pid


def build(path: Path, models: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """Run the build; return seconds and core seconds of each stage, and the highest memory."""
    command = [
        sys.executable, "-m", "ml.build_collaborative", "--spark", "local[2]", "--item-only",
        "--ratings", path, "--catalog", "all", "--models-dir", models, "--force-publish",
    ]  # fmt: skip
    begun = {"start": time.perf_counter()}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    watcher = Watcher(process.pid)
    watcher.start()
    for line in process.stderr:
        for stage, pattern in STAGES.items():
            if re.search(pattern, line):
                begun[stage] = time.perf_counter()  # of several trainings the last
    watcher.done.set()
    watcher.join()
    if process.wait():
        raise SystemExit(f"the build failed: {line}")
    begun["end"] = time.perf_counter()
    core = dict(zip(begun, np.interp([*begun.values()], watcher.times, watcher.spent), strict=True))
    stages = {a: (begun[b] - begun[a], core[b] - core[a]) for a, b in pairwise(begun)}
    return stages, watcher.gib


def judge(models: Path, judges: pd.DataFrame) -> tuple[float, float]:
    """Return RMSE and NDCG@10 of what the release says of ratings that it was not trained on."""
    model = load_collaborative(models)
    errors, gains = [], []
    for _, rows in judges.groupby("user_id"):
        known, test = rows[~rows["held_out"]], rows[rows["held_out"]]
        user = model.fold_in(dict(zip(known["movie_id"], known["rating"], strict=True)))
        films, stars = test["movie_id"].to_numpy(), test["rating"].to_numpy()
        errors.append(model.predict(user, films) - stars)
        liked = films[stars >= metrics.LIKED]
        if len(liked):
            listed = [film.movie_id for film in model.recommend(user, metrics.TOP)]
            gains.append(metrics.ndcg(np.isin(listed, liked)[None], np.array([len(liked)]))[0])
    return metrics.rmse(np.concatenate(errors)), float(np.mean(gains))


def measure(folder: Path, ratings: int) -> None:
    """Print a line of the table: seconds (core seconds) in all and by stage, GiB, RMSE, NDCG@10."""
    path, judges = prepare(folder, ratings)
    models = folder / f"{ratings}-models"
    stages, gib = build(path, models)
    rmse, ndcg = judge(models, judges)
    total = [sum(numbers) for numbers in zip(*stages.values(), strict=True)]
    columns = [f"{wall:.0f} ({core:.0f})" for wall, core in (total, *stages.values())]
    print(
        f"| {ratings:,} | {' | '.join(columns)} | {gib:.1f} | {rmse:.4f} | {ndcg:.4f} |", flush=True
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
    drawn = draw(ALIKE)
    table = make_ratings(drawn["userId"].astype("str"), drawn["movieId"], drawn["rating"])
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
        print(f"{name}: RMSE {metrics.rmse(predict_pairs(model, *pairs) - stars):.4f}", flush=True)
    first = tens["Spark, seed 0"]
    for name, others in tens.items():
        overlap = np.mean([len(a & b) / 10 for a, b in zip(first, others, strict=True)])
        print(f"ten best films, Spark, seed 0 and {name}: {overlap:.1%} the same", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        measure(args.folder, size)
    if args.compare:
        compare()

"""Measure errors for an app's users in half stars, with MovieLens's whole stars and without.

Run it in `backend/`: python -m benchmarks.mixed_scales [DATA_DIR]

ML-100K (whole stars) is MovieLens; the users of ml-latest-small (half stars) are the app's. Each of
five random parts of the app's ratings is held out once and never changed. The training has the rest
of them and all of ML-100K.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.fold_in import evaluate_by_stars
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets import movielens
from ml.collaborative.evaluation.protocol import APP
from ml.collaborative.evaluation.splits import FOLDS, Split, k_folds
from ml.collaborative.ratings import HIGHEST, LOWEST, combine, make_ratings

SEEDS = (0, 1, 2)
YOUNG = 60
"""Users of a young app."""
MEASURES = ["rmse", "mae", "ndcg"]
ALONE, AS_THEY_ARE = "the app's ratings alone", "the app's and MovieLens's, as they are"
RESCALED, ROUNDED = "both, MovieLens's at the app's mean and spread", "both, the app's rounded"


def load_app(data_dir: Path) -> pd.DataFrame:
    """Return the ratings of ml-latest-small, as if its users were the app's own."""
    table = movielens.load("ml-latest-small", data_dir, None).ratings
    users = table["user_id"].astype("str").str.replace("ml_", "app_")
    return make_ratings(users, table["movie_id"], table["rating"])


def choose_users(app: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the ratings of `YOUNG` random users."""
    users = np.sort(app["user_id"].unique().astype(str))
    chosen = np.random.default_rng(seed).permutation(users)[:YOUNG]
    return app[app["user_id"].isin(chosen)].reset_index(drop=True)


def trainings(ml: pd.DataFrame, app: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables to train on, of all MovieLens ratings and the app's not held out."""
    standard = (ml["rating"] - ml["rating"].mean()) / ml["rating"].std()
    rescaled = (app["rating"].mean() + app["rating"].std() * standard).clip(LOWEST, HIGHEST)
    rounded = app["rating"].round().clip(lower=1)  # halves to the even star
    return {
        ALONE: app,
        AS_THEY_ARE: combine(ml, app),
        RESCALED: combine(ml.assign(rating=rescaled), app),
        ROUNDED: combine(ml, app.assign(rating=rounded)),
    }


def measure(ml: pd.DataFrame, app: pd.DataFrame, seed: int, bar: tqdm[Any]) -> pd.DataFrame:
    """Return `MEASURES` on the app's users, means over the folds, by training and algorithm."""
    fits = {name: make_training(ALGORITHMS[name], seed).fit for name in ALGORITHMS}
    rows = []
    for train, test in k_folds(len(app), FOLDS, seed):
        for name, known in trainings(ml, app.iloc[train]).items():
            table = combine(known, app.iloc[test])
            split = Split(np.arange(len(known)), np.arange(len(known), len(table)))
            for score in evaluate_by_stars(table, split, fits, APP):
                values = {each: getattr(score.measures, each) for each in MEASURES}
                rows.append({"training": name, "model": score.model, **values})
            bar.update()
    return pd.DataFrame(rows).groupby(["training", "model"], sort=False).mean()


def describe(name: str, table: pd.DataFrame) -> str:
    """Return size, mean and spread of a ratings table as a row of Markdown."""
    stars, users = table["rating"], table["user_id"]
    means = stars.groupby(users, observed=True).transform("mean")
    halves = (stars % 1 != 0).mean()
    return (
        f"| {name} | {len(table):,} | {users.nunique():,} | {table['movie_id'].nunique():,} "
        f"| {halves:.0%} | {stars.mean():.2f} | {stars.std():.2f} | {(stars - means).std():.2f} |"
    )


def tabulate(setting: str, runs: pd.DataFrame) -> str:
    """Return Markdown of `MEASURES` by training and algorithm: means, and RMSE gaps by seed."""
    heads = " | ".join(f"`{name}` | RMSE against as they are" for name in ALGORITHMS)
    lines = [f"| {setting}: trained on | {heads} |", "|---" * (1 + 2 * len(ALGORITHMS)) + "|"]
    for training in runs.index.unique("training"):
        cells = [training]
        for model in ALGORITHMS:
            found = runs.xs((training, model), level=("training", "model"))
            base = runs.xs((AS_THEY_ARE, model), level=("training", "model"))
            cells.append(
                "{:.4f}, {:.4f}, {:.3f}".format(*(found[each].mean() for each in MEASURES))
            )
            cells.append(" ".join(f"{gap:+.4f}" for gap in found["rmse"] - base["rmse"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data_dir", type=Path, nargs="?", default=Path("ml/data"))
    data_dir = parser.parse_args().data_dir
    ml, app = movielens.load("ml-100k", data_dir, None).ratings, load_app(data_dir)
    print("| | ratings | users | films | half stars | mean | spread | within a user |")
    print("|---|" + "---:|" * 7)
    print(describe("MovieLens: ML-100K", ml))
    print(describe("the app: ml-latest-small", app))
    halves = app["user_id"].isin(app["user_id"][app["rating"] % 1 != 0].unique())
    using_halves = app[halves].reset_index(drop=True)
    settings = {
        "all app users": [app for _ in SEEDS],
        f"{YOUNG} app users": [choose_users(app, seed) for seed in SEEDS],
        f"{using_halves['user_id'].nunique()} who use half stars": [using_halves for _ in SEEDS],
    }
    with tqdm(total=len(settings) * len(SEEDS) * FOLDS * 4, desc="trainings") as bar:
        for setting, apps in settings.items():
            runs = [measure(ml, of, seed, bar) for of, seed in zip(apps, SEEDS, strict=True)]
            print("\n" + tabulate(setting, pd.concat(runs, keys=SEEDS, names=["seed"])), flush=True)


if __name__ == "__main__":
    main()

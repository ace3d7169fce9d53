"""Compare folding in with a retrain: users held out entirely, some of their ratings revealed.

Run it in `backend/`: python -m benchmarks.fold_in [--seeds N] [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
from surprise import SVD, AlgoBase
from tqdm import tqdm

from ml.build_collaborative import save_models
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.datasets import movielens
from ml.collaborative.evaluation.lists import BY_STARS
from ml.collaborative.evaluation.protocol import ALL, Score, evaluate
from ml.collaborative.evaluation.splits import Split, k_folds, new_users
from ml.collaborative.paths import DATA_DIR
from ml.collaborative.serving import CollaborativeModel, load_collaborative
from ml.collaborative.trainset import ArrayTrainset, make_trainset

REVEALED = (5, 10, 20, 50)
UNKNOWN, FOLDED, RETRAINED = "unknown user", "fold-in", "full retrain"
TRAINED = "trained vectors"

Fit = Callable[[ArrayTrainset], SVD]


class Service:
    """Models of the table `base`, each trained, published and loaded once, as a service does it."""

    def __init__(self, base: pd.DataFrame, fit: Fit) -> None:
        self.base, self.fit = base, fit
        self.models: dict[tuple[float, float], CollaborativeModel] = {}

    def model(self, scale: tuple[float, float]) -> CollaborativeModel:
        """Return the model whose predictions are on this rating scale."""
        if scale not in self.models:
            trainset = make_trainset(self.base, scale)
            with tempfile.TemporaryDirectory() as folder:
                save_models(self.fit(trainset), trainset, folder)
                self.models[scale] = load_collaborative(folder)
        return self.models[scale]


def serve(trainset: ArrayTrainset, *, service: Service, folded: Container[str]) -> SVD:
    """Return the service's model, with the trainset's users in `folded` folded in.

    It is put into the arrays of a model of the whole trainset. Users whom the service has not been
    trained on and who are not folded in are unknown there.
    """
    model = service.model(trainset.rating_scale)
    now = model.snapshot
    items = np.array(trainset.raw_items())
    rows = now.rows_of(items)
    svd = AlgoBase.fit(SVD(n_factors=now.qi.shape[1]), trainset)
    # Predictions start from the whole trainset's mean: the films' biases make up for it.
    shift = now.global_mean - trainset.global_mean
    svd.bi = np.where(rows >= 0, now.bi[rows], 0.0) + shift
    svd.qi = np.where(rows[:, None] >= 0, now.qi[rows], 0.0)
    svd.bu, svd.pu = np.zeros(trainset.n_users), np.zeros((trainset.n_users, svd.qi.shape[1]))
    for inner, user in enumerate(trainset.raw_users()):
        row = slice(*trainset.by_user.starts[inner : inner + 2].tolist())
        if user in folded:
            rated = items[trainset.by_user.others[row]].tolist()
            stars = trainset.by_user.ratings[row].tolist()
            found = model.fold_in(dict(zip(rated, stars, strict=True)))
            svd.bu[inner], svd.pu[inner] = found.bias, found.vector
        elif model.knows_user(user):
            svd.bu[inner], svd.pu[inner] = now.bu[now.users[user]], now.pu[now.users[user]]
    return svd


def evaluate_by_stars(
    table: pd.DataFrame, split: Split, fits: Mapping[str, Fit], users: str
) -> list[Score]:
    """Measure models as `evaluate` does, their lists in the order of the stars, of one group."""
    found = {one.model: one for one in evaluate(table, [split], fits) if one.users == users}
    return [
        replace(
            found[name],
            measures=replace(
                found[BY_STARS.format(name)].measures,
                rmse=found[name].measures.rmse,
                mae=found[name].measures.mae,
            ),
        )
        for name in fits
    ]


def compare_new_users(
    table: pd.DataFrame, algorithm: str, revealed: int, seed: int
) -> dict[str, Score]:
    """Measure three ways to serve a tenth of the users, held out except for some ratings.

    Args:
        table: a ratings table.
        algorithm: see `training.ALGORITHMS`.
        revealed: ratings known of each user held out.
        seed: of the users, the ratings and the training.
    """
    fit = make_training(ALGORITHMS[algorithm], seed).fit
    split = new_users(table["user_id"], revealed, seed)
    held_out = set(table["user_id"].iloc[split.test])
    service = Service(table[~table["user_id"].isin(held_out)], fit)
    fits = {
        UNKNOWN: partial(serve, service=service, folded=()),
        FOLDED: partial(serve, service=service, folded=held_out),
        RETRAINED: fit,
    }
    return {score.model: score for score in evaluate_by_stars(table, split, fits, ALL)}


def compare_known_users(table: pd.DataFrame, algorithm: str, seed: int) -> dict[str, Score]:
    """Compare trained vectors with folded-in ones on a held-out fifth of the ratings."""
    fit = make_training(ALGORITHMS[algorithm], seed).fit
    split = next(k_folds(len(table), 5, seed))
    service = Service(table.iloc[split.train], fit)
    everyone = set(table["user_id"])
    fits = {TRAINED: fit, FOLDED: partial(serve, service=service, folded=everyone)}
    return {score.model: score for score in evaluate_by_stars(table, split, fits, ALL)}


def main() -> None:
    """Print a Markdown table for each of the two questions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    table = movielens.load("ml-100k", args.data_dir, None).ratings
    new = {(a, k): [] for a in ALGORITHMS for k in REVEALED}
    known = {a: [] for a in ALGORITHMS}
    with tqdm(total=args.seeds * (len(new) + len(known)), disable=None) as bar:
        for seed in range(args.seeds):
            for algorithm, revealed in new:
                new[algorithm, revealed].append(compare_new_users(table, algorithm, revealed, seed))
                bar.update()
            for algorithm, found in known.items():
                found.append(compare_known_users(table, algorithm, seed))
                bar.update()
    ways = UNKNOWN, FOLDED, RETRAINED
    print(f"New users, means of {args.seeds} draws of a tenth of the users; RMSE, NDCG@10\n")
    print("| algorithm | ratings known | " + " | ".join(ways) + " |")
    print("|---|---:|" + "---|" * len(ways))
    for (algorithm, revealed), scores in new.items():
        cells = [describe(scores, way) for way in ways]
        print(f"| `{algorithm}` | {revealed} | " + " | ".join(cells) + " |")
    print("\nKnown users, a random fifth of the ratings held out\n")
    print(f"| algorithm | {TRAINED} | folded in from the same ratings |\n|---|---|---|")
    for algorithm, scores in known.items():
        print(f"| `{algorithm}` | {describe(scores, TRAINED)} | {describe(scores, FOLDED)} |")


def describe(scores: list[dict[str, Score]], way: str) -> str:
    """Return mean RMSE and NDCG@10 as text."""
    rmse = mean(found[way].measures.rmse or 0.0 for found in scores)
    return f"{rmse:.4f}, {mean(found[way].measures.ndcg or 0.0 for found in scores):.3f}"


if __name__ == "__main__":
    main()

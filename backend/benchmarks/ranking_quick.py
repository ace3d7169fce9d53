"""The ranking beside simple lists on this project's splits: NDCG@10 and its kin, quickly.

Run it in `backend/`: python -m benchmarks.ranking_quick DATA_DIR [--dataset NAME] [--stars FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ml.collaborative import datasets
from ml.collaborative.algorithms.bayesian import fit_bayesian
from ml.collaborative.algorithms.ranking import fit_ranking
from ml.collaborative.algorithms.ranking_scores import LIKED, Ranking, fold_in, score_users
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.splits import Split, all_splits, new_users
from ml.collaborative.top_n import top_films
from ml.collaborative.trainset import ArrayTrainset, make_trainset

DRAWS = 5
SEED = 0


class Stars(NamedTuple):
    """What predicts the stars of a user and a film, not clipped."""

    mean: float
    bu: np.ndarray
    bi: np.ndarray
    pu: np.ndarray
    qi: np.ndarray

    def of(self, users: np.ndarray) -> np.ndarray:
        """(users, films); -1 is a user the model does not know."""
        own = self.bu[users][:, None] + self.pu[users] @ self.qi.T
        return self.mean + self.bi + np.where(users[:, None] >= 0, own, 0)


class HeldOut(NamedTuple):
    """The users of a split who like a held-out film."""

    users: np.ndarray
    """Inner ids, -1 of those the training does not know, (n,)."""
    wanted: np.ndarray
    """Which films each likes there, (n, films)."""
    liked: np.ndarray
    """How many, known to the training or not, (n,)."""
    seen: np.ndarray
    """Which films each rated in the training, (n, films)."""


def hold_out(trainset: ArrayTrainset, test: pd.DataFrame) -> HeldOut:
    """The held-out films that count, and those that may not be recommended."""
    likes = test[test["rating"] >= metrics.LIKED]
    people, names = pd.factorize(likes["user_id"])
    users, items = trainset.find(likes)
    inner = np.zeros(len(names), dtype=np.intp)
    inner[people] = users
    wanted, seen = (np.zeros((len(names), trainset.n_items), dtype=bool) for _ in range(2))
    wanted[people[items >= 0], items[items >= 0]] = True
    starts, films, _ = trainset.by_user
    for row, user in enumerate(inner.tolist()):
        if user >= 0:
            seen[row, films[starts[user] : starts[user + 1]]] = True
    return HeldOut(inner, wanted, np.bincount(people), seen)


def ranking_scores(
    ranking: Ranking, trainset: ArrayTrainset, users: np.ndarray, stars: np.ndarray
) -> np.ndarray:
    """What is served: every user is folded in from their ratings, (users, films)."""
    starts, films, ratings = trainset.by_user
    rows = [slice(*(starts[user : user + 2] if user >= 0 else (0, 0))) for user in users]
    folded = [fold_in(ranking, films[row], ratings[row]) for row in rows]
    return score_users(ranking, folded, stars)


def list_scores(
    trainset: ArrayTrainset, stars: Stars, held_out: HeldOut
) -> Iterator[tuple[str, np.ndarray]]:
    """Each way to make a list and its scores, (users, films)."""
    rows = trainset.by_item
    ones = np.ones(len(held_out.users))[:, None]
    films = np.repeat(np.arange(trainset.n_items), np.diff(rows.starts))
    yield "most rated", ones * np.diff(rows.starts)
    yield "most liked", ones * np.bincount(films, rows.ratings >= LIKED, trainset.n_items)
    predicted = stars.of(held_out.users)
    yield "by stars", predicted
    ranking = fit_ranking(trainset, SEED)
    yield "ranking", ranking_scores(ranking, trainset, held_out.users, predicted)


def measure(scores: np.ndarray, held_out: HeldOut, trainset: ArrayTrainset) -> pd.DataFrame:
    """The measures of each user's list; coverage and popularity are the same in all rows."""
    top = top_films(scores, held_out.seen, metrics.TOP)
    hits = np.take_along_axis(held_out.wanted, top, axis=1) & (top >= 0)
    return pd.DataFrame(
        {
            "ndcg": metrics.ndcg(hits, held_out.liked),
            "precision": metrics.precision(hits),
            "recall": metrics.recall(hits, held_out.liked),
            "hit rate": metrics.hit(hits),
            "coverage": metrics.coverage(top, trainset.n_items),
            "popularity": metrics.popularity(top, np.diff(trainset.by_item.starts)),
        }
    )


def fit_stars(trainset: ArrayTrainset, file: Path | None) -> Stars:
    """The Bayesian model's arrays, kept in a file where one is given."""
    if file and file.is_file():
        with np.load(file) as kept:
            return Stars(*(kept[name] for name in Stars._fields))
    model = fit_bayesian(trainset, factors=100, seed=SEED)
    stars = Stars(trainset.global_mean, model.bu, model.bi, model.pu, model.qi)
    if file:
        np.savez(file, **stars._asdict())
    return stars


def named_splits(dataset: str, data_dir: Path) -> tuple[pd.DataFrame, dict[str, list[Split]]]:
    """The ratings, and the ways to hold some out."""
    mapped = datasets.load(dataset, data_dir, None)
    if dataset == "ml-100k":
        datasets.fetch_splits(data_dir)
    table = mapped.ratings
    splits = all_splits(mapped, table, data_dir, SEED)
    for name in ("new users", "ua and ub"):
        splits.pop(name, None)
    known = next(name for name in splits if name.startswith("new users"))
    splits[f"{known}, {DRAWS} draws"] = [
        new_users(table["user_id"], 10, seed) for seed in range(DRAWS)
    ]
    return table, splits


def each_fold(
    dataset: str, data_dir: Path, stars_dir: Path | None = None, only: str = ""
) -> Iterator[tuple[str, ArrayTrainset, Stars, HeldOut]]:
    """What lists are made from, and what they are measured on."""
    table, splits = named_splits(dataset, data_dir)
    for name, parts in splits.items():
        if only not in name:
            continue
        for number, split in enumerate(tqdm(parts, name)):
            trainset = make_trainset(table.iloc[split.train])
            file = stars_dir / f"{dataset} {name} {number}.npz" if stars_dir else None
            stars = fit_stars(trainset, file)
            yield name, trainset, stars, hold_out(trainset, table.iloc[split.test])


Lists = Callable[[ArrayTrainset, Stars, HeldOut], Iterator[tuple[str, np.ndarray]]]


def compare(folds: Iterator[tuple[str, ArrayTrainset, Stars, HeldOut]], lists: Lists) -> None:
    """Print a table for each way to hold out, with paired differences to the last list."""
    found: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for name, trainset, stars, held_out in folds:
        for label, scores in lists(trainset, stars, held_out):
            measured = measure(scores, held_out, trainset)
            found.setdefault(name, {}).setdefault(label, []).append(measured)
    for name, by_label in found.items():
        each = {label: pd.concat(frames) for label, frames in by_label.items()}
        table = pd.DataFrame(
            {label: pd.concat([f.mean() for f in frames], axis=1).mean(axis=1)
             for label, frames in by_label.items()}
        ).T  # fmt: skip
        last = list(each)[-1]
        paired = {label: each[last]["ndcg"] - frame["ndcg"] for label, frame in each.items()}
        table["below last"] = {label: d.mean() for label, d in paired.items()}
        table["+-"] = {label: d.std() / len(d) ** 0.5 for label, d in paired.items()}
        print(f"\n{name} ({len(each[last]):,} lists)\n{table.round(4).to_string()}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--stars", type=Path, help="where the models of stars are kept")
    parser.add_argument("--only", default="", help="splits with this in their name")
    args = parser.parse_args()
    compare(each_fold(args.dataset, args.data_dir, args.stars, args.only), list_scores)


if __name__ == "__main__":
    main()

"""The project's lists beside every peer's, measured by the same code on the same ratings held out.

Run it in `backend/`: python -m benchmarks.ranking [DATA_DIR] [--splits TEXT ...] [--peers TEXT ...]

Each way to hold ratings out, and each model's lists for it, are kept as files in a folder, so that
an interrupted run goes on where it was. Delete a model's files there to have its lists made again.
A library runs in an environment of its own, which is made when it is first needed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.mixed_scales import choose_users, load_app
from benchmarks.peers import python_with
from benchmarks.ranking_peers import NESTED, PEERS
from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import datasets, load_collaborative
from ml.collaborative.evaluation import metrics
from ml.collaborative.evaluation.splits import (
    Split,
    all_splits,
    check_apart,
    fixed_fifth,
    k_folds,
    new_users,
)
from ml.collaborative.paths import DATA_DIR, ML_DIR
from ml.collaborative.ratings import combine
from ml.collaborative.serving import CollaborativeModel
from ml.collaborative.trainset import make_trainset

BACKEND_DIR = ML_DIR.parent
DRAWS, SEED = 5, 0
KNOWN = (0, 3, 10, 50)
"""Ratings of new users that are known; peers are measured with `PEERS_KNOWN` alone."""
PEERS_KNOWN = 10
TUNING_SHARE = 0.2
APP_FILMS, APP_RATINGS = 500, 1000
OURS, FOLDED = "lists by score", "lists by score, folded in"
BY_STARS, PLAN = "Bayesian, by stars", "plan's SVD, by stars"
NOVELTY = (0.05, 0.1, 0.2)
SIMILAR = ("ranking's vectors", "predicted stars")
FOLDS, TIME, APP = "five folds", "last tenth in time", "young app"


class Case(NamedTuple):
    """Ratings, and which of them are held out."""

    group: str
    number: int
    table: pd.DataFrame
    split: Split
    catalog: np.ndarray | None = None
    """TMDB ids of the films that may be listed; None stands for all."""
    known: int | None = None
    """Ratings that are known of the users held out; None stands for users like the others."""

    def folder(self, results: Path) -> Path:
        """Where its files are kept."""
        return results / self.group.replace(": ", "/").replace(",", "") / str(self.number)


def movielens_cases(dataset: str, data_dir: Path) -> Iterator[Case]:
    """Yield the ways to hold ratings of a MovieLens set out."""
    mapped = datasets.load(dataset, data_dir, None)
    if dataset == "ml-100k":
        datasets.fetch_splits(data_dir)
    table = mapped.ratings
    splits = all_splits(mapped, table, data_dir, SEED)
    named = {FOLDS: splits["5 random folds"], TIME: splits["the last tenth in time"]}
    if "u1 to u5" in splits:
        named["u1 to u5"] = splits["u1 to u5"]
    for name, parts in named.items():
        for number, split in enumerate(parts):
            yield Case(f"{dataset}: {name}", number, table, split)
    for known in KNOWN if dataset == "ml-100k" else [PEERS_KNOWN]:
        for number in range(DRAWS):
            split = new_users(table["user_id"], known, number)
            yield Case(f"{dataset}: new users, {known} known", number, table, split, None, known)


def app_cases(data_dir: Path) -> Iterator[Case]:
    """Yield draws of a young app: users and films of ml-latest-small, a fifth held out.

    Its catalog is the 500 most rated films; its users keep about 1,000 random ratings of those.
    """
    every = load_app(data_dir)
    ml = datasets.load("ml-100k", data_dir, None).ratings
    catalog = every["movie_id"].value_counts(sort=True).index[:APP_FILMS].to_numpy()
    for number in range(DRAWS):
        app = choose_users(every, number)
        app = app[app["movie_id"].isin(catalog)]
        app = app.sample(min(len(app), APP_RATINGS), random_state=number)
        train, test = next(k_folds(len(app), 5, number))
        for name, known in (("alone", app.iloc[train]), ("with MovieLens", None)):
            known = combine(ml, app.iloc[train]) if known is None else known
            table = combine(known, app.iloc[test])
            split = Split(np.arange(len(known)), np.arange(len(known), len(table)))
            yield Case(f"{APP}: {name}", number, table, split, catalog)


def write_case(case: Case, folder: Path) -> None:
    """Write what peers train on, and what lists are measured by.

    Peers are tuned on the fixed fifth of the training rows; where new users are held out, on a
    fifth of the training's users, of whom as many ratings are known.
    """
    check_apart(case.table, case.split)
    train, test = (case.table.iloc[rows] for rows in case.split)
    trainset = make_trainset(train)
    likes = test[test["rating"] >= metrics.LIKED]
    people, names = pd.factorize(likes["user_id"])
    users, films = trainset.find(likes)
    asked = np.zeros(len(names), dtype=np.intp)
    asked[people] = users
    held = np.zeros(len(train), dtype=bool)
    if case.known is None:
        held[fixed_fifth(train)[0].test] = True
    else:
        held[new_users(train["user_id"], case.known, SEED, TUNING_SHARE).test] = True
    ids = np.array(trainset.raw_items())
    of_catalog = np.ones(len(ids), bool) if case.catalog is None else np.isin(ids, case.catalog)
    listed = case.table["movie_id"].unique() if case.catalog is None else case.catalog
    rows = trainset.find(train)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "train.npz", users=rows[0], films=rows[1], stars=train["rating"].to_numpy(),
        shape=(trainset.n_users, trainset.n_items), held=held, asked=asked, open=of_catalog,
    )  # fmt: skip
    part = folder / "test.part.npz"
    np.savez_compressed(
        part, people=people, films=films, liked=np.bincount(people), names=np.array(names, str),
        ids=ids, counts=np.diff(trainset.by_item.starts), listed=len(listed),
    )  # fmt: skip
    part.replace(folder / "test.npz")


def serve(table: pd.DataFrame, algorithm: str = "bayesian") -> CollaborativeModel:
    """Train, publish and load, as an app does."""
    with tempfile.TemporaryDirectory() as folder:
        save_models(*train_svd_model(table, algorithm=algorithm, seed=SEED), folder)
        return load_collaborative(folder)


def make_own_lists(case: Case, folder: Path) -> None:
    """Write the lists that the project serves."""
    train = case.table.iloc[case.split.train]
    with np.load(folder / "test.npz") as kept:
        names, ids = kept["names"].tolist(), pd.Index(kept["ids"])
    candidates = None if case.catalog is None else case.catalog.tolist()

    def lists(model: CollaborativeModel, users: list[Any], **asked: Any) -> np.ndarray:
        top = np.full((len(users), metrics.TOP), -1, dtype=np.int32)
        for row, user in enumerate(users):
            found = model.recommend(user, metrics.TOP, candidates, **asked)
            top[row, : len(found)] = ids.get_indexer([film.movie_id for film in found])
        return top

    model = serve(train)
    made = {OURS: lists(model, names), BY_STARS: lists(model, names, by="stars")}
    made[PLAN] = lists(serve(train, "svd"), names, by="stars")
    if case.group == f"ml-100k: {FOLDS}":
        for novelty in NOVELTY:
            made[f"{OURS}, novelty {novelty:g}"] = lists(model, names, novelty=novelty)
        now = model.snapshot
        for name, snapshot in zip(SIMILAR, (now, replace(now, ranking=None)), strict=True):
            best = np.empty((len(now.movie_ids), metrics.TOP), dtype=np.intp)
            for row in range(len(best)):
                like = np.array(snapshot.likeness_to(row))
                like[row] = -np.inf
                best[row] = np.argsort(-like, kind="stable")[: metrics.TOP]
            inner = ids.get_indexer(now.movie_ids)
            found = np.empty_like(best)
            found[inner] = inner[best]
            np.savez_compressed(folder / f"similar by {name}.npz", top=found)
    if case.known is not None:
        new = train["user_id"].isin(names)
        base = serve(train[~new])
        stars = {user: dict(zip(rows["movie_id"].tolist(), rows["rating"].tolist(), strict=True))
                 for user, rows in train[new].groupby("user_id", observed=True)}  # fmt: skip
        users = [base.fold_in(stars[user]) if user in stars else user for user in names]
        made[FOLDED] = lists(base, users)
    for name, top in reversed(made.items()):  # ours last: it says that all are there
        np.savez_compressed(folder / f"{name}.npz", top=top)


def run_peers(cases: list[Case], results: Path, envs: Path, asked: list[str]) -> dict[str, str]:
    """Write the peers' lists; return why some could not be made, by peer."""
    failed = {}
    for peer in (*PEERS, NESTED):
        folders = [str(case.folder(results)) for case in cases if has_peers(case)]
        missing = [one for one in folders if not (Path(one) / f"{peer.name}.npz").is_file()]
        if not missing or not any(text in peer.name for text in asked):
            continue
        try:
            python = python_with(peer.package, envs)
        except RuntimeError as error:
            failed[peer.name] = f"{peer.package} could not be installed: {error}"
            continue
        command = [str(python), "-m", "benchmarks.ranking_peers", peer.name, *missing]
        with (
            tqdm(total=len(missing), desc=peer.name, file=sys.stderr) as bar,
            subprocess.Popen(
                command,
                cwd=BACKEND_DIR,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # as `implicit` asks for
                stdout=subprocess.PIPE,
                text=True,
            ) as child,
        ):
            for line in child.stdout or []:
                bar.update(line.startswith(str(results)))
        if child.returncode:
            failed[peer.name] = f"ended with status {child.returncode}, see above"
    return failed


def has_peers(case: Case) -> bool:
    """Whether peers are measured there, too."""
    return case.known in (None, PEERS_KNOWN)


def measure(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the measures of each user's list by model; coverage is the same in all rows."""
    with np.load(folder / "test.npz") as kept:
        test = dict(kept)
    known = test["films"] >= 0
    wanted = np.zeros((len(test["names"]), len(test["ids"])), dtype=bool)
    wanted[test["people"][known], test["films"][known]] = True
    found = {}
    for file in sorted(folder.glob("*.npz")):
        if file.stem in ("train", "test") or file.stem.startswith("similar by "):
            continue
        with np.load(file) as kept:
            top = kept["top"]
        hits = np.take_along_axis(wanted, np.maximum(top, 0), axis=1) & (top >= 0)
        found[file.stem] = pd.DataFrame(
            {
                "user": test["names"],
                "NDCG@10": metrics.ndcg(hits, test["liked"]),
                "precision": metrics.precision(hits),
                "recall": metrics.recall(hits, test["liked"]),
                "hit rate": metrics.hit(hits),
                "coverage": metrics.coverage(top, int(test["listed"])),
                "popularity": metrics.popularity(top, test["counts"]),
            }
        )
    return found


def measure_similar(folder: Path) -> dict[str, float]:
    """Return, by way, the NDCG@10 of the films similar to a film that a user likes.

    Good is what the same user likes among the other held-out films; the mean is over all such films
    of all users with two at least.
    """
    with np.load(folder / "test.npz") as kept:
        people, films = kept["people"][kept["films"] >= 0], kept["films"][kept["films"] >= 0]
        wanted = np.zeros((len(kept["names"]), len(kept["ids"])), dtype=bool)
    wanted[people, films] = True
    count = wanted.sum(axis=1)[people] - 1
    people, films, count = people[count > 0], films[count > 0], count[count > 0]
    found = {}
    for name in SIMILAR:
        file = folder / f"similar by {name}.npz"
        if file.is_file():
            with np.load(file) as kept:
                hits = np.take_along_axis(wanted[people], kept["top"][films], axis=1)
            found[name] = float(metrics.ndcg(hits, count).mean())
    return found


def paired(ours: list[pd.DataFrame], other: list[pd.DataFrame]) -> tuple[float, float]:
    """Return the mean difference of NDCG@10 over all lists, and its standard error over users.

    A user's lists in several folds are not independent: their differences are summed first.
    """
    both = pd.concat(
        [a.assign(off=a["NDCG@10"] - b["NDCG@10"]) for a, b in zip(ours, other, strict=True)]
    )
    mean = float(both["off"].mean())
    sums = (both["off"] - mean).groupby(both["user"]).sum()
    return mean, float(np.sqrt(np.sum(sums**2))) / len(both)


def summarise(title: str, found: dict[str, dict[str, list[pd.DataFrame]]]) -> str:
    """Return a table in Markdown of NDCG@10 by model and way; of several draws the first too.

    Args:
        title: of the data.
        found: measures of each split, by way to hold out and model.
    """
    peers = [peer.name for peer in PEERS]
    lines = [f"| {title} | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for name in (OURS, NESTED.name, FOLDED, *peers, BY_STARS, PLAN):
        cells = []
        for way, by_name in found.items():
            means = [frame["NDCG@10"].mean() for frame in by_name.get(name, [])]
            whole = len(means) == len(by_name[OURS])
            cells.append(f"{np.mean(means):.4f}" if whole else "")
            if whole and "new users" in way:
                cells[-1] += f" ({means[0]:.4f})"
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = []
    for by_name in found.values():
        ours = by_name[OURS]
        quality = {name: np.mean([frame["NDCG@10"].mean() for frame in frames])
                   for name, frames in by_name.items() if len(frames) == len(ours)}  # fmt: skip
        cells.append("")
        if best := max((name for name in peers if name in quality), key=quality.get, default=""):
            ahead, error = paired(ours, by_name[best])
            cells[-1] = f"{ahead:+.4f} ± {error:.4f} ({best})"
    return "\n".join([*lines, "| ahead of the best peer by | " + " | ".join(cells) + " |"])


def describe(group: str, found: dict[str, list[pd.DataFrame]]) -> str:
    """Return a table in Markdown of the models that have lists for every split of the group."""
    splits = max(map(len, found.values()))
    found = {name: frames for name, frames in found.items() if len(frames) == splits}
    means = pd.DataFrame(
        {name: sum(f.drop(columns="user").mean() for f in frames) / splits
         for name, frames in found.items()}
    ).T.sort_values("NDCG@10", ascending=False)  # fmt: skip
    lines = [
        f"### {group} ({splits} splits, {sum(map(len, found[OURS])):,} lists)\n",
        "| | NDCG@10 | precision | recall | hit rate | coverage | popularity | ours is ahead by |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in means.iterrows():
        ahead, error = paired(found[OURS], found[str(name)])
        cells = [f"{value:.4f}" for value in row.iloc[:5]] + [f"{row.iloc[5]:.0f}"]
        cells.append("" if name == OURS else f"{ahead:+.4f} ± {error:.4f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and print a table for each way to hold out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("data_dir", type=Path, nargs="?", default=DATA_DIR, help="where MovieLens is or goes")
    add("--results", type=Path, help="where files are kept; default DATA_DIR/ranking")
    add("--envs", type=Path, default=BACKEND_DIR / ".venv-peers", help="environments of libraries")
    add("--splits", nargs="*", default=[""], help="only those with one of these in their name")
    add("--peers", nargs="*", default=[""], help="make lists of those alone; with none, of no peer")
    args = parser.parse_args()
    results = args.results or args.data_dir / "ranking"
    every = [
        *movielens_cases("ml-100k", args.data_dir),
        *movielens_cases("ml-latest-small", args.data_dir),
        *app_cases(args.data_dir),
    ]
    cases = [case for case in every if any(text in case.group for text in args.splits)]
    for case in tqdm(cases, "own lists", file=sys.stderr):
        folder = case.folder(results)
        if not (folder / "test.npz").is_file():
            write_case(case, folder)
        if not (folder / f"{OURS}.npz").is_file():
            make_own_lists(case, folder)
    failed = run_peers(cases, results, args.envs, args.peers)
    found: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for case in cases:
        for name, frame in measure(case.folder(results)).items():
            found.setdefault(case.group, {}).setdefault(name, []).append(frame)
    for title in dict.fromkeys(group.partition(": ")[0] for group in found):
        ways = {group.partition(": ")[2]: by_name for group, by_name in found.items()
                if group.startswith(title)}  # fmt: skip
        print(summarise(f"{title}, NDCG@10", ways) + "\n")
    for group, by_name in found.items():
        print(describe(group, by_name) + "\n")
        similar = [measure_similar(c.folder(results)) for c in cases if c.group == group]
        for name in similar[0]:
            print(f"similar films by {name}: NDCG@10 {np.mean([s[name] for s in similar]):.4f}\n")
    for name, reason in failed.items():
        print(f"{name}: {reason}\n")


if __name__ == "__main__":
    main()

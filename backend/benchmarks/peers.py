"""Compare this project's models with other libraries' on the same folds of ML-100K.

Run it in `backend/`: python -m benchmarks.peers DATA_DIR [--envs DIR] [--json FILE]

The ratings of a fold reach every library in the same order, and all predictions are clipped to 1 to
5. The seconds are the median over the folds of the fit alone, without making the training set.
LensKit and this project's `bayesian` fit on all cores, the others on one. Each library from the
package index gets its own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np  # peers run this file in their environments: the rest is imported where used

FOLDS, LOW, HIGH = 5, 1, 5
SURPRISE: dict[str, Any] = {"n_factors": 100, "n_epochs": 20, "lr_all": 0.005, "reg_all": 0.02,
                            "random_state": 0}  # fmt: skip
CORNAC: dict[str, Any] = {"max_iter": 20, "learning_rate": 0.005, "lambda_reg": 0.02}
TUNED: dict[str, Any] = {"max_iter": 60, "learning_rate": 0.01, "lambda_reg": 0.1}
"""Good for ML-100K with 100 factors; the others are the plan's."""
Result = tuple[float, Any]
"""Seconds of the fit on train (users, films, ratings), predictions for test (users, films)."""


def _time(fit: Any) -> tuple[float, Any]:
    started = perf_counter()
    model = fit()
    return perf_counter() - started, model


def _table(train: list[Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(dict(zip(("user_id", "item_id", "rating"), train, strict=True)))


def fit_ours(train: list[Any], test: list[Any], algorithm: str) -> Result:
    """Return this project's fit, its loop compiled before the clock starts."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from ml.collaborative.algorithms.training import ALGORITHMS, make_training
    from ml.collaborative.trainset import make_trainset

    table = _table(train).rename(columns={"item_id": "movie_id"})
    fit = make_training(ALGORITHMS[algorithm], 0).fit
    fit(make_trainset(table.head(100)))
    trainset = make_trainset(table)
    seconds, model = _time(lambda: fit(trainset))
    return seconds, [model.predict(*pair).est for pair in zip(*test, strict=True)]


def fit_surprise(train: list[Any], test: list[Any], algorithm: str, **parameters: Any) -> Result:
    """Return the fit of one of Surprise's algorithms."""
    import surprise

    model = getattr(surprise, algorithm)(**parameters)
    reader = surprise.Reader(rating_scale=(LOW, HIGH))
    trainset = surprise.Dataset.load_from_df(_table(train), reader).build_full_trainset()
    seconds, _ = _time(lambda: model.fit(trainset))
    return seconds, [model.predict(*pair).est for pair in zip(*test, strict=True)]


def fit_cornac(train: list[Any], test: list[Any], **parameters: Any) -> Result:
    """Fit Cornac's MF with biases."""
    from cornac.data import Dataset
    from cornac.models import MF

    data = Dataset.from_uir(list(zip(*(column.tolist() for column in train), strict=True)))
    model = MF(k=100, use_bias=True, seed=0, **parameters)
    seconds, _ = _time(lambda: model.fit(data))
    users = [data.uid_map.get(user, -1) for user in test[0].tolist()]
    films = [data.iid_map.get(film, -1) for film in test[1].tolist()]
    return seconds, list(map(model.rate, users, films))


def fit_lenskit(train: list[Any], test: list[Any]) -> Result:
    """Fit LensKit's biased MF by ALS; its bias model predicts for films it does not know."""
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList, from_interactions_df
    from lenskit.training import TrainingOptions

    data = from_interactions_df(_table(train))
    model = BiasedMFScorer(features=100)
    seconds, _ = _time(lambda: model.train(data, TrainingOptions(rng=0)))
    predicted = np.empty(len(test[0]))
    for user in np.unique(test[0]):
        asked = test[0] == user
        items = ItemList(item_ids=test[1][asked])
        scores = model(int(user), items).scores()
        biases, _ = model.bias.compute_for_items(items, int(user))
        predicted[asked] = np.where(np.isnan(scores), biases, scores)
    return seconds, predicted


def fit_myfm(train: list[Any], test: list[Any], rated: bool) -> Result:
    """Return the fit of myFM's Bayesian factorization machine, if asked with what was rated."""
    import myfm
    import scipy.sparse as sp

    sizes = [int(max(train[side].max(), test[side].max())) + 1 for side in (0, 1)]
    blocks = []
    for side in (0, 1):
        features = [sp.identity(sizes[side])]
        if rated:
            weights = 1 / np.sqrt(np.bincount(train[side], minlength=sizes[side])[train[side]])
            shape = sizes[side], sizes[1 - side]
            features.append(sp.csr_matrix((weights, (train[side], train[1 - side])), shape))
        blocks.append(sp.hstack(features).tocsr())
    groups = [size for block, side in zip(blocks, (0, 1), strict=True)
              for size in ([sizes[side], sizes[1 - side]] if rated else [sizes[side]])]  # fmt: skip

    def rows(pairs: list[Any]) -> dict[str, Any]:
        relations = [myfm.RelationBlock(ids, b) for ids, b in zip(pairs, blocks, strict=True)]
        return {"X": sp.csr_matrix((len(pairs[0]), 0)), "X_rel": relations}

    model = myfm.MyFMGibbsRegressor(rank=10, random_seed=0)
    asked = {"n_iter": 250, "n_kept_samples": 200, "group_shapes": groups}
    seconds, _ = _time(lambda: model.fit(y=train[2], **rows(train[:2]), **asked))
    return seconds, model.predict(**rows(test))


PEERS: dict[str, tuple[Any, str]] = {
    "this project's bayesian": (partial(fit_ours, algorithm="bayesian"), ""),
    "this project's svd": (partial(fit_ours, algorithm="svd"), ""),
    "Surprise SVD": (partial(fit_surprise, algorithm="SVD", **SURPRISE), "scikit-surprise"),
    "Surprise SVD++": (partial(fit_surprise, algorithm="SVDpp", random_state=0), "scikit-surprise"),
    "Surprise KNNBaseline": (
        partial(fit_surprise, algorithm="KNNBaseline", verbose=False),
        "scikit-surprise",
    ),
    "myFM, user and film": (partial(fit_myfm, rated=False), "myfm==0.4.0"),
    "myFM, what was rated too": (partial(fit_myfm, rated=True), "myfm==0.4.0"),
    "cornac MF": (partial(fit_cornac, **CORNAC), "cornac==3.0.1"),
    "cornac MF, tuned": (partial(fit_cornac, **TUNED), "cornac==3.0.1"),
    "LensKit BiasedMF": (fit_lenskit, "lenskit==2025.8.1"),
}
"""The fit, and the package: pinned where it gets an environment of its own."""


def run_peer(name: str, folds: Path) -> dict[str, Any]:
    """Fit one library on every fold, in this environment; return means over the folds."""
    fit, package = PEERS[name]
    with np.load(folds) as arrays:
        *columns, fold_of = (arrays[key] for key in ("users", "films", "ratings", "folds"))
    results = []
    for fold in range(FOLDS):
        train = [column[fold_of != fold] for column in columns]
        test = [column[fold_of == fold] for column in columns]
        seconds, predicted = fit(train, test[:2])
        off = np.clip(np.asarray(predicted, dtype=np.float64), LOW, HIGH) - test[2]
        results.append((np.sqrt(np.mean(off**2)), np.mean(np.abs(off)), seconds))
    rmse, mae, _ = np.mean(results, axis=0).tolist()
    fit_s = float(np.median([seconds for *_, seconds in results]))
    installed = version(package.partition("==")[0]) if package else ""
    return {"model": name, "version": installed, "rmse": rmse, "mae": mae, "fit_s": fit_s}


def write_folds(data_dir: Path, path: Path) -> int:
    """Write ML-100K under inner ids in shuffled order; return the number of ratings."""
    from ml.collaborative.datasets import movielens
    from ml.collaborative.evaluation.splits import k_folds

    table = movielens.load("ml-100k", data_dir, None).ratings
    tests = [test for _, test in k_folds(len(table), FOLDS, seed=0)]
    table = table.iloc[np.concatenate(tests)]
    users, films = (table[key].factorize()[0] for key in ("user_id", "movie_id"))
    numbers = np.repeat(np.arange(FOLDS), [len(test) for test in tests])
    np.savez(path, users=users, films=films, ratings=table["rating"].to_numpy(), folds=numbers)
    return len(table)


def start_peer(name: str, folds: Path, envs: Path) -> dict[str, Any]:
    """Run a library in its environment, which is made if needed."""
    package = PEERS[name][1]
    python = python_with(package if "==" in package else "", envs)
    out = _run([str(python), str(Path(__file__).resolve()), "--peer", name, str(folds)])
    return dict(json.loads(out.splitlines()[-1]))


def python_with(package: str, envs: Path) -> Path:
    """Return the Python of a package's own environment in `envs`, which is made if needed.

    Args:
        package: with its version, `name==version`; none stands for this environment.
        envs: one folder for each package.

    Raises:
        RuntimeError: it could not be installed.
    """
    if not package:
        return Path(sys.executable)
    name, _, number = package.partition("==")
    folder = envs / f"{name.partition('[')[0]}-{number}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = folder / "installed"
    if not installed.is_file():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", package])
        installed.touch()
    return python


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"status {done.returncode}: {last}")
    return done.stdout


def main() -> None:
    """Print the table; write the same as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("path", type=Path, metavar="DATA_DIR", help="where ML-100K is or goes")
    parser.add_argument("--envs", type=Path, help="keeps the environments; LensKit's takes 6 GB")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(run_peer(args.peer, args.path)))
        return
    from tqdm import tqdm

    rows, failed = [], {}
    with tempfile.TemporaryDirectory() as folder:
        folds = Path(folder) / "folds.npz"
        ratings = write_folds(args.path, folds)
        for name in tqdm(PEERS, "peers"):
            try:
                rows.append(start_peer(name, folds, args.envs or Path(folder)))
            except (RuntimeError, OSError, ValueError, IndexError) as error:
                failed[name] = str(error)
    rows.sort(key=lambda row: row["rmse"])
    print(f"{'ML-100K, ' + format(ratings, ','):26} {'version':>10}   RMSE    MAE  s per fit")
    for row in rows:
        print("{model:26} {version:>10} {rmse:6.4f} {mae:6.4f} {fit_s:10.2f}".format(**row))
    for name, reason in failed.items():
        print(f"{name} failed: {reason}")
    if args.json:
        about = {"machine": platform.platform(), "python": platform.python_version()}
        about |= {"cores": os.cpu_count(), "ratings": ratings, "folds": FOLDS}
        args.json.write_text(json.dumps({**about, "peers": rows, "failed": failed}, indent=2))


if __name__ == "__main__":
    main()

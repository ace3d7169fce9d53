"""What the gate says of lists on catalogs of real apps, and how much another seed or SVD loses.

Run it in `backend/`: python -m benchmarks.gate_lists FOLDER [--data-dir DIR], where FOLDER has a
text file of TMDB ids for each catalog.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from ml.collaborative import datasets
from ml.collaborative.algorithms.ranking import fit_ranking
from ml.collaborative.algorithms.training import ALGORITHMS, make_training
from ml.collaborative.evaluation import protocol
from ml.collaborative.evaluation.chance import Difference, compare_gains
from ml.collaborative.evaluation.held_out import MIN_CATALOG
from ml.collaborative.evaluation.splits import Split, fixed_fifth
from ml.collaborative.paths import DATA_DIR

TITLES = ("films", "set", "users", "most liked", "cold list", "lists", "other seed", "SVD")


def measure(table: pd.DataFrame, films: frozenset[int] | None) -> tuple[object, ...] | None:
    """One row of the table; None where too few ratings of the catalog are held out."""
    split, _ = fixed_fifth(table)
    if films is not None:
        own = split.test[np.isin(table["movie_id"].to_numpy()[split.test], list(films))]
        if len(own) < MIN_CATALOG:
            return None
        split = Split(np.setdiff1d(np.arange(len(table)), own), own)
    fits = {name: make_training(ALGORITHMS[name]).fit for name in ("svd", "bayesian")}
    found = []
    for seed in (0, 1):
        with patch.object(protocol, "fit_ranking", lambda rows, **_: fit_ranking(rows, seed)):  # noqa: B023
            found.append(protocol.measure_split(table, split, fits, films).ndcg)
    first, other = found
    served = first["bayesian"]
    return (
        len(served), first["most liked"].mean(), first["bayesian, cold list"].mean(), served.mean(),
        compare_gains(other["bayesian"], served), compare_gains(first["svd"], served),
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    args = parser.parse_args()
    print("|".join(("", *TITLES, "")))
    for dataset in ("ml-100k", "ml-latest-small"):
        table = datasets.load(dataset, args.data_dir, None).ratings
        for file in (None, *sorted(args.folder.glob("*.txt"))):
            films = None if file is None else frozenset(map(int, file.read_text().split()))
            row = measure(table, films)
            if row is not None:
                name = "all" if file is None else file.stem
                print("|".join(("", name, dataset, *map(_text, row), "")), flush=True)


def _text(value: object) -> str:
    if isinstance(value, Difference):
        return f"{value.value:+.4f} ± {value.standard_error:.4f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

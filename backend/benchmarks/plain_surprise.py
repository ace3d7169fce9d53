"""Run the plan's steps in plain Surprise, to compare a build with.

Run it in `backend/`: python -m benchmarks.plain_surprise DATA_DIR MODELS_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import pandas as pd
from surprise import SVD, Dataset, Reader


def main(data: Path, models: Path) -> None:
    """Load ML-100K, map it by the id table, train, dump."""
    ratings = pd.read_csv(
        data / "ml-100k" / "u.data", sep="\t", names=["user_id", "item_id", "rating", "time"]
    )
    ids = pd.read_csv(data / "ml-100k-tmdb.csv", usecols=["item_id", "tmdb_id"])
    table = ratings.merge(ids, on="item_id").dropna().sort_values("time")
    table["user_id"] = "ml_" + table["user_id"].astype(str)
    table["movie_id"] = table["tmdb_id"].astype(int)
    table = table.drop_duplicates(["user_id", "movie_id"], keep="last")
    data_set = Dataset.load_from_df(
        table[["user_id", "movie_id", "rating"]], Reader(rating_scale=(1, 5))
    )
    trainset = data_set.build_full_trainset()
    model = SVD(n_factors=100, n_epochs=20, lr_all=0.005, reg_all=0.02).fit(trainset)
    models.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, models / "svd_model.pkl")
    joblib.dump(trainset, models / "cf_trainset.pkl")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Time the steps of one build on a dumped ratings table, in its own process.

Run by benchmarks.bench: python -m benchmarks.steps draw TABLE RATINGS, to make the table, then
python -m benchmarks.steps ours|bayesian|plain TABLE, which prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import joblib


def draw(path: Path, ratings: int) -> None:
    """Dump a ratings table of so many generated rows."""
    from benchmarks.make_archive import draw_ratings
    from ml.collaborative.ratings import make_ratings

    drawn = draw_ratings(ratings, max(ratings // 160, 100), max(ratings // 370, 2000))
    users = "ml_" + drawn["userId"].astype("str")
    joblib.dump(make_ratings(users, drawn["movieId"], drawn["rating"]), path)


def main(engine: str, path: Path) -> dict[str, float]:
    """Return the seconds of each step, and the peak MiB of the process, all included."""
    table = joblib.load(path)
    with tempfile.TemporaryDirectory() as folder:
        if engine == "plain":
            seconds = plain(table, Path(folder))
        else:
            seconds = ours(table, Path(folder), "svd" if engine == "ours" else engine)
    return {**seconds, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Return the peak resident memory; ru_maxrss would count the parent's too, before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    import resource  # not on Windows

    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def ours(table: Any, folder: Path, algorithm: str) -> dict[str, float]:
    """Time this project's steps; its loop is compiled before the clock starts."""
    from ml.collaborative.algorithms.training import ALGORITHMS, make_training
    from ml.collaborative.release import ReleaseStore
    from ml.collaborative.trainset import make_trainset

    fit = make_training(ALGORITHMS[algorithm], 0).fit
    fit(make_trainset(table.head(100)))
    clock = Clock()
    trainset = make_trainset(table)
    clock.lap("trainset")
    model = fit(trainset)
    clock.lap("fit")
    ReleaseStore(folder).publish(model, trainset)
    clock.lap("dump")
    load(folder)
    clock.lap("load")
    return clock.laps


def plain(table: Any, folder: Path) -> dict[str, float]:
    """Time the same steps in plain Surprise."""
    from surprise import SVD, Dataset, Reader

    clock = Clock()
    data = Dataset.load_from_df(table, Reader(rating_scale=(0.5, 5)))
    trainset = data.build_full_trainset()
    clock.lap("trainset")
    model = SVD(n_factors=100, n_epochs=20, lr_all=0.005, reg_all=0.02, random_state=0)
    model.fit(trainset)
    clock.lap("fit")
    joblib.dump(model, folder / "svd_model.pkl")
    joblib.dump(trainset, folder / "cf_trainset.pkl")
    clock.lap("dump")
    load(folder)
    clock.lap("load")
    return clock.laps


def load(folder: Path) -> None:
    """Load both files, as the fusion service does at startup."""
    for name in ("svd_model.pkl", "cf_trainset.pkl"):
        joblib.load(folder / name)


class Clock:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now


if __name__ == "__main__":
    if sys.argv[1] == "draw":
        draw(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))

"""A random search over the SVD's parameters (Bergstra and Bengio 2012)."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from threading import Event
from typing import TYPE_CHECKING

import joblib
import numpy as np

from ..algorithms.svd import fit_svd, predict_pairs
from ..algorithms.training import Parameters
from ..errors import GateError
from ..progress import progress_bar
from ..ratings import rating_scale
from ..trainset import make_trainset
from . import metrics
from .splits import k_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

TUNING_FOLDS = 3
FACTORS = (20, 50, 100, 150, 200)
EPOCHS, LEARNING_RATES, REGULARISATIONS = (10, 100), (0.002, 0.02), (0.01, 0.3)
"""Bounds; drawn evenly on a logarithmic scale."""
WAITING = 4
"""Sets that are drawn ahead for each thread."""


@dataclass(frozen=True)
class Trial:
    """One set of parameters, and its mean RMSE over the folds; infinite where it diverged."""

    parameters: Parameters
    rmse: float


def tune(
    table: pd.DataFrame, first: Parameters, trials: int, seconds: float, seed: int
) -> list[Trial]:
    """Try `first` and random sets on the same folds, several at once; the best comes first.

    Args:
        table: a ratings table of at least `TUNING_FOLDS` rows.
        first: always tried, so that the result is no worse on these folds.
        trials: how many sets, `first` among them.
        seconds: no set is drawn and no trial goes on after so long; `first` is tried to its end
            all the same.
        seed: of the sets, the folds and the training. Where time does not cut it short, the
            result is the same on any machine.
    """
    started = time.monotonic()
    is_over = Event()
    scale = rating_scale(table["rating"])
    folds = []
    for train, test in k_folds(len(table), TUNING_FOLDS, seed):
        trainset, rows = make_trainset(table.iloc[train], scale), table.iloc[test]
        _ = trainset.by_user  # once, not in each thread
        folds.append((trainset, trainset.find(rows), rows["rating"].to_numpy()))
    rng = np.random.default_rng(seed)

    def out_of_time() -> bool:
        return is_over.is_set() or time.monotonic() - started > seconds

    def run(parameters: Parameters) -> Trial | None:
        def check_time(*_: object) -> None:
            if is_over.is_set() or (parameters is not first and out_of_time()):
                raise TimeoutError

        errors = []
        for trainset, pairs, truth in folds:
            try:
                check_time()
                model = fit_svd(
                    trainset, **asdict(parameters), seed=seed, parallel=False, watch=check_time
                )
            except TimeoutError:
                return None
            except GateError:
                return Trial(parameters, np.inf)
            errors.append(metrics.rmse(predict_pairs(model, *pairs) - truth))
        return Trial(parameters, float(np.mean(errors)))

    done: list[Trial] = []
    threads = joblib.cpu_count()
    with progress_bar("tuning", " trials", trials) as bar, ThreadPoolExecutor(threads) as pool:
        waiting = deque([pool.submit(run, first)])
        drawn = 1
        try:
            while waiting:
                while drawn < trials and len(waiting) < WAITING * threads and not out_of_time():
                    waiting.append(pool.submit(run, draw_parameters(rng)))
                    drawn += 1
                if trial := waiting.popleft().result():
                    done.append(trial)
                    bar.set_postfix_str(f"best RMSE {min(t.rmse for t in done):.4f}")
                bar.update()
        finally:  # Ctrl-C above all: what is under way is not waited for
            is_over.set()
    return sorted(done, key=lambda trial: trial.rmse)


def draw_parameters(rng: np.random.Generator) -> Parameters:
    """Draw one set within the bounds, rounded so that its flags say all of it."""

    def between(bounds: Sequence[float]) -> float:
        return float(f"{np.exp(rng.uniform(*np.log(bounds))):.3g}")

    return Parameters(
        factors=int(rng.choice(FACTORS)),
        epochs=round(between(EPOCHS)),
        lr=between(LEARNING_RATES),
        reg=between(REGULARISATIONS),
    )

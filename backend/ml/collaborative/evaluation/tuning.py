"""A random search over the SVD's parameters (Bergstra and Bengio 2012)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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
        seconds: no trial goes on after so long; `first` is tried to its end all the same.
        seed: of the sets, the folds and the training. Where time does not cut it short, the
            result is the same on any machine.
    """
    scale = rating_scale(table["rating"])
    folds = []
    for train, test in k_folds(len(table), TUNING_FOLDS, seed):
        trainset, rows = make_trainset(table.iloc[train], scale), table.iloc[test]
        _ = trainset.by_user  # once, not in each thread
        folds.append((trainset, trainset.find(rows), rows["rating"].to_numpy()))
    rng = np.random.default_rng(seed)
    sets = [first, *(draw_parameters(rng) for _ in range(trials - 1))]
    started = time.monotonic()

    def run(parameters: Parameters) -> Trial | None:
        def check_time(*_: object) -> None:
            if parameters is not first and time.monotonic() - started > seconds:
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

    done = []
    with (
        progress_bar("tuning", " trials", trials) as bar,
        ThreadPoolExecutor(joblib.cpu_count()) as pool,
    ):
        for trial in pool.map(run, sets):
            if trial:
                done.append(trial)
                bar.set_postfix_str(f"best RMSE {min(t.rmse for t in done):.4f}")
            bar.update()
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

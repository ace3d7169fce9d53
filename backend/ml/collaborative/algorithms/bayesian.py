"""Bayesian training into a surprise.SVD.

The model is a factorization machine (Rendle 2012) over four groups of features: the user, the films
that user rated, the film, and the users who rated it, the second and fourth weighted by one over
the root of their number; SVD++ (Koren 2008), both ways round. It is bilinear in user and film, so
the mean over the Gibbs samples of all its predictions is again a bias and a factor model, and goes
into the four arrays of an ordinary SVD.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from ..progress import progress_bar
from ..surprise_classes import SVD, AlgoBase
from .fold_in import multiply_pairs
from .loops.gibbs import compiled_side
from .parts import Parts, attach
from .posterior import PosteriorMean, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..trainset import ArrayTrainset
    from .training import Watch

RANK = 20


class Schedule(NamedTuple):
    """How much is drawn."""

    chains: int
    """Several short ones beat one long one: their early samples differ more, and their mean is
    better than that of the same number of sweeps in one chain (benchmarks/RESULTS.md)."""
    sweeps: int
    """Steps of each chain."""
    burn_in: int
    """How many of them are left out of the mean."""


SCHEDULES = ((500_000, Schedule(4, 50, 10)), (None, Schedule(2, 30, 12)))
"""By the ratings up to which they hold. More samples bring less and take longer the more ratings
there are (benchmarks/RESULTS.md)."""
SPREAD = 0.1
"""Standard deviation that users' vectors are first drawn with, and that the first sweep takes the
films' parameters to have."""


def schedule_for(ratings: int) -> Schedule:
    """Return the first of `SCHEDULES` that holds for so many ratings."""
    return next(found for most, found in SCHEDULES if most is None or ratings <= most)


class _StoppedError(Exception):
    """Another chain failed, or the user pressed Ctrl-C."""


def fit_bayesian(
    trainset: ArrayTrainset,
    *,
    factors: int,
    seed: int,
    schedule: Schedule | None = None,
    watch: Watch | None = None,
) -> SVD:
    """Train by Gibbs sampling, and put the posterior mean into a surprise.SVD.

    A user the model does not know is predicted as users are on average, and so is a film.

    Besides the trainset and its rows by user memory holds 20 bytes for each rating and, for each
    thread, 16 for each rating and some 2.5 KB for each user and 4 KB for each film.

    Args:
        trainset: at least one rating.
        factors: length of the film and user vectors of the result.
        seed: of all that is drawn; the same seed gives the same model, on any number of cores.
        schedule: by default `schedule_for` so many ratings. The chains run independently of each
            other, on as many threads as there are cores.
        watch: called with each sample that goes into the mean; the chains call it at once.

    Raises:
        InputError: see `ArrayTrainset.check`.
    """
    trainset.check()
    problem = _Problem(trainset)
    chains, sweeps, burn_in = schedule or schedule_for(trainset.n_ratings)
    stopped = Event()
    seeds = np.random.SeedSequence(seed).spawn(chains)
    with (
        threadpool_limits(1),  # the number of threads moves sums in the last digits
        progress_bar("sampling", " sweeps", chains * sweeps) as bar,
        ThreadPoolExecutor(min(chains, joblib.cpu_count())) as pool,
    ):

        def sample(chain: int) -> PosteriorMean:
            mean = PosteriorMean(problem.user_counts, problem.item_counts, factors)
            for sweep, (rmse, found) in enumerate(problem.sample(seeds[chain], sweeps)):
                if stopped.is_set():
                    raise _StoppedError
                if sweep >= burn_in:
                    mean.add(found)
                    if watch:
                        watch(chain, partial(_predict_sample, problem.mean, found))
                bar.set_postfix_str(f"RMSE {rmse:.4f}", refresh=False)
                bar.update()
            mean.pack()
            return mean

        try:
            tasks = [pool.submit(sample, chain) for chain in range(chains)]
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()
            first, *others = (task.result() for task in tasks)
        except BaseException:  # Ctrl-C above all: the other chains do not go on
            stopped.set()
            raise
        for other in others:
            first.add_mean(other)
        model = SVD(n_factors=factors, random_state=seed)
        AlgoBase.fit(model, trainset)
        model.bu, model.bi, model.pu, model.qi, implicit = first.compile()
    return attach(model, Parts(implicit=implicit))


class _Problem:
    """The ratings as the sampler reads them, by user and by item."""

    def __init__(self, trainset: ArrayTrainset) -> None:
        rows = trainset.by_user
        self.user_starts, self.items = rows.starts, rows.others
        self.user_counts = np.diff(rows.starts)
        users = np.repeat(np.arange(trainset.n_users, dtype=np.int32), self.user_counts)
        self.to_item_order = np.argsort(rows.others, kind="stable")
        self.users = users[self.to_item_order]
        self.item_counts = np.bincount(rows.others, minlength=trainset.n_items)
        self.item_starts = np.concatenate([[0], np.cumsum(self.item_counts)])
        self.mean = trainset.global_mean
        self.centred = rows.ratings.astype(np.float64) - self.mean

    def sample(self, seed: np.random.SeedSequence, sweeps: int) -> Iterator[tuple[float, Sample]]:
        """Yield training RMSE and sample of one chain, sweep after sweep.

        All variances and means have the vague priors of Rendle 2012 (all ones).

        Args:
            seed: of all that is drawn.
            sweeps: how many.
        """
        draw_side = compiled_side()
        rng = np.random.default_rng(seed)
        n, factors = len(self.centred), RANK + 2
        sizes = len(self.user_counts), len(self.item_counts)
        user_weights, item_weights = (
            1 / np.sqrt(np.maximum(counts, 1)) for counts in (self.user_counts, self.item_counts)
        )
        by_user = self.user_starts, self.items
        by_item = self.item_starts, self.users
        # Users' own parameters, their rated films'; films' own, their raters'.
        groups = [np.zeros((factors, size)) for size in (*sizes, *sizes[::-1])]
        groups[0][2:] = rng.normal(0, SPREAD, (factors - 2, sizes[0]))
        users, items = groups[0].copy(), groups[2].copy()
        users[1], items[0] = 1, 1
        scratch = [np.empty((size, 4)) for size in sizes]
        residual = self.centred.copy()  # the items are still zero
        squares = float(np.sum(residual**2))
        means = np.zeros((4, factors))
        constant = 0.0
        for sweep in range(sweeps):
            noise_precision = 2 * rng.gamma((1 + n) / 2) / (1 + squares)
            means, precisions = _draw_priors(rng, groups, means)
            if sweep == 0:
                # Films' parameters are all zero here. A precision that is drawn from them grows
                # with the number of films, and would hold them there.
                precisions[2] = SPREAD**-2
            draws = [rng.standard_normal(group.shape) for group in groups]
            precision = noise_precision * n + 1
            before = constant
            constant = noise_precision * (residual.sum() + n * before) / precision
            constant += rng.standard_normal() / precision**0.5
            residual -= constant - before
            draw_side(
                *by_user, *by_item, user_weights, residual, users, items, *groups[:2],
                noise_precision, means[:2], precisions[:2], *draws[:2], 1, scratch[0],
            )  # fmt: skip
            by_item_residual = residual[self.to_item_order]
            squares = draw_side(
                *by_item, *by_user, item_weights, by_item_residual, items, users, *groups[2:],
                noise_precision, means[2:], precisions[2:], *draws[2:], 0, scratch[1],
            )  # fmt: skip
            residual[self.to_item_order] = by_item_residual
            yield (
                (squares / n) ** 0.5,
                Sample(
                    constant,
                    *(
                        np.delete(array, fixed, axis=0).T.astype(np.float32, order="C")
                        for array, fixed in ((users, 1), (items, 0), (groups[1], 1))
                    ),
                ),
            )


def _predict_sample(
    mean: float, sample: Sample, user_ids: NDArray[np.integer], item_ids: NDArray[np.integer]
) -> NDArray[np.float64]:
    """See `training.Predict`."""
    biases = sample.users[user_ids, 0] + sample.items[item_ids, 0].astype(np.float64)
    products = multiply_pairs(sample.users[:, 1:], user_ids, sample.items[:, 1:], item_ids)
    predictions: NDArray[np.float64] = mean + sample.constant + biases + products
    return predictions


def _draw_priors(
    rng: np.random.Generator, groups: list[NDArray[np.float64]], means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the mean and precision of each group's parameters by factor, (4, factors) each.

    From their conditional distributions, under Normal(0, 1 / precision) for the mean and
    Gamma(1/2, 1/2) for the precision.
    """
    sizes = np.array([group.shape[1] for group in groups])[:, None]
    sums = np.array([group.sum(axis=1) for group in groups])
    squares = np.array([np.square(group).sum(axis=1) for group in groups])
    spread = squares - 2 * means * sums + (sizes + 1) * means**2
    shape = np.broadcast_to((2 + sizes) / 2, spread.shape)
    precisions = 2 * rng.gamma(shape) / (1 + spread)
    noise = rng.standard_normal(sums.shape) / np.sqrt((sizes + 1) * precisions)
    return sums / (sizes + 1) + noise, precisions

"""The search for parameters: seeded, bounded, never worse than where it began."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from ml.collaborative.algorithms.training import PLAN, Parameters
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.evaluation.tuning import (
    EPOCHS,
    FACTORS,
    LEARNING_RATES,
    REGULARISATIONS,
    draw_parameters,
    tune,
)

QUICK = Parameters(factors=5, epochs=2)


def test_sets_are_drawn_within_bounds_and_their_flags_say_all_of_it() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_parameters(rng) for _ in range(300)]
    assert {one.factors for one in drawn} == set(FACTORS)
    for name, (low, high) in (("epochs", EPOCHS), ("lr", LEARNING_RATES), ("reg", REGULARISATIONS)):
        values = [getattr(one, name) for one in drawn]
        assert low <= min(values) < max(values) <= high
        assert np.median(values) == pytest.approx((low * high) ** 0.5, rel=0.3)
    for one in drawn:
        words = one.as_flags().split()
        assert words[::2] == ["--factors", "--epochs", "--lr", "--reg"]
        assert Parameters(int(words[1]), int(words[3]), float(words[5]), float(words[7])) == one


def test_the_best_comes_first_and_the_search_is_the_same_for_a_seed() -> None:
    table = sample_ratings().head(3000)
    trials = tune(table, QUICK, 4, 600, seed=1)
    assert len(trials) == 4
    assert [trial.rmse for trial in trials] == sorted(trial.rmse for trial in trials)
    assert QUICK in [trial.parameters for trial in trials]
    assert tune(table, QUICK, 4, 600, seed=1) == trials
    assert tune(table, QUICK, 4, 600, seed=2) != trials


def test_time_ends_the_search_but_the_first_set_is_always_tried() -> None:
    [only] = tune(sample_ratings().head(500), QUICK, 50, 0, seed=1)
    assert only.parameters == QUICK


def test_a_long_trial_ends_with_the_time() -> None:
    """The sets drawn have 10 to 100 epochs: the first, of one, is over long before they are."""
    table = sample_ratings()
    first = Parameters(factors=2, epochs=1)
    seconds = 0.3
    trials = tune(table, first, 400, seconds, seed=1)
    assert first in [trial.parameters for trial in trials]
    assert len(trials) < 400


def test_a_set_that_diverges_comes_last() -> None:
    wild = Parameters(factors=5, epochs=20, lr=10)
    with np.errstate(all="ignore"):
        trials = tune(sample_ratings().head(500), wild, 2, 600, seed=1)
    assert trials[-1].parameters == wild
    assert trials[-1].rmse == np.inf
    assert np.isfinite(trials[0].rmse)


def test_the_plans_parameters_are_the_defaults() -> None:
    assert PLAN.as_flags() == "--factors 100 --epochs 20 --lr 0.005 --reg 0.02"


def test_sets_are_drawn_only_as_long_as_there_is_time() -> None:
    """To draw a billion of them would take a day, and more memory than there is."""
    [only] = tune(sample_ratings().head(500), QUICK, 10**9, 0, seed=1)
    assert only.parameters == QUICK


def test_what_stops_the_search_stops_what_is_under_way() -> None:
    """The first set would take an hour."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timer here")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(sample_ratings(), Parameters(factors=50, epochs=1_000_000), 100, 3600, seed=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)

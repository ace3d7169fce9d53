"""Whether a difference of errors is more than chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ml.collaborative.evaluation.chance import MIN_USERS, compare_errors


def draw(seed: int, extra: float, users: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of two models on ten ratings of each user; users differ in how hard they are."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(users), 10)
    shared = rng.normal(size=len(ids)) * rng.uniform(0.5, 1.5, users)[ids]
    own = rng.normal(size=(2, users))[:, ids] * 0.2 + rng.normal(size=(2, len(ids))) * 0.1
    return (shared + own[0]) * (1 + extra), shared + own[1], ids


def test_the_difference_is_that_of_the_two_rmse() -> None:
    found = compare_errors(np.array([3.0, 4.0]), np.array([1.0, 1.0]), ["a", "b"])
    assert found.value == pytest.approx(math.sqrt(12.5) - 1)


def test_the_standard_error_is_that_of_drawing_users_anew() -> None:
    """Against the spread over 2,000 bootstrap draws of users (Efron 1979)."""
    a, b, users = draw(0, extra=0.01)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        rows = (rng.integers(200, size=200)[:, None] * 10 + np.arange(10)).ravel()
        found.append(np.sqrt(np.mean(a[rows] ** 2)) - np.sqrt(np.mean(b[rows] ** 2)))
    assert compare_errors(a, b, users).standard_error == pytest.approx(np.std(found), rel=0.07)


def test_equal_models_are_seldom_called_different_and_a_worse_one_is() -> None:
    """One-sided, two standard errors: 2.3 of 100 by chance."""
    assert sum(compare_errors(*draw(seed, 0)).beyond_chance for seed in range(300)) <= 15
    assert all(compare_errors(*draw(seed, 0.1)).beyond_chance for seed in range(50))


def test_ratings_of_the_same_user_are_not_counted_as_independent() -> None:
    """One model is better for some users and worse for others: ten ratings say that once."""
    _, b, users = draw(0, extra=0)
    a = b * (1 + np.random.default_rng(1).normal(size=200) * 0.1)[users]
    alone = compare_errors(a, b, np.arange(len(users)))
    assert compare_errors(a, b, users).standard_error > 1.5 * alone.standard_error


def test_worse_is_beyond_chance_and_by_more_than_asked() -> None:
    a, b, users = draw(0, extra=0.1)
    by = compare_errors(a, b, users).value
    assert compare_errors(a, b, users).is_worse_by(by - 0.001)
    assert not compare_errors(a, b, users).is_worse_by(by + 0.001)
    assert not compare_errors(b, a, users).is_worse_by(-1)


@pytest.mark.parametrize("users", [1, MIN_USERS - 1])
def test_of_few_users_nothing_is_beyond_chance(users: int) -> None:
    found = compare_errors(np.ones(100), np.zeros(100), np.arange(100) % users)
    assert found == (1, math.inf)
    assert not found.beyond_chance


def test_the_same_predictions_are_not_worse() -> None:
    a, _, users = draw(0, extra=0)
    assert compare_errors(a, a, users) == (0, 0)
    assert not compare_errors(a, a, users).is_worse_by(0)

"""The peers that lists are compared with do what their papers say: `benchmarks.ranking_peers`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import ranking_peers
from benchmarks.ranking_peers import TOP, Peer, Training, best_films, fit_ease, ndcg, tune
from ml.collaborative.evaluation import metrics

USERS, FILMS = 40, 60
EVERY = np.ones(FILMS, dtype=bool)


@pytest.fixture
def two_tastes() -> Training:
    """Users of even number like films of even number, the others the others; half are rated."""
    rng = np.random.default_rng(0)
    users, films = np.nonzero(rng.random((USERS, FILMS)) < 0.5)
    same = users % 2 == films % 2
    kept = same | (rng.random(len(users)) < 0.1)
    return Training(users[kept], films[kept], np.where(same, 5.0, 2.0)[kept], (USERS, FILMS))


@pytest.mark.parametrize(
    "name",
    [
        "ItemKNN", "RP3beta", "EASE, all", "EASE, liked", "iALS, all", "iALS, liked",
        pytest.param("SLIM", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_peers_find_what_users_of_the_same_taste_like(two_tastes: Training, name: str) -> None:
    (peer,) = (peer for peer in ranking_peers.PEERS if peer.name == name)
    parameters = {key: values[len(values) // 2] for key, values in peer.grid.items()}
    users = np.arange(USERS)
    top = best_films(peer, two_tastes, parameters, users, EVERY)
    assert np.mean(top % 2 == users[:, None] % 2) > 0.85
    assert all(len(set(row)) == TOP for row in top.tolist())
    assert not (two_tastes.matrix(liked=False)[users[:, None], top]).any()


def test_ease_by_way_of_the_users_is_ease(two_tastes: Training) -> None:
    y = two_tastes.matrix(False, np.float64)
    p = np.linalg.inv(y.T @ y + 20 * np.eye(FILMS))
    b = np.where(np.eye(FILMS) == 1, 0, -p / p.diagonal())
    found = fit_ease(two_tastes, liked=False, reg=20.0)
    np.testing.assert_allclose(found[y == 0], (y @ b)[y == 0], atol=1e-9)


def test_lists_are_of_the_films_asked_for_and_unknown_users_get_the_most_liked(
    two_tastes: Training,
) -> None:
    some = np.arange(FILMS) < TOP - 1
    peer = Peer("EASE", fit_ease, {})
    users = np.array([0, -1])
    top = best_films(peer, two_tastes, {"liked": True, "reg": 9.0}, users, some)
    assert top.max() < TOP - 1
    likes = two_tastes.matrix(liked=True).sum(axis=0)[: TOP - 1]
    assert likes[top[1, : TOP - 1]].tolist() == sorted(likes.tolist(), reverse=True)
    assert (top[0] >= 0).sum() == (two_tastes.matrix(liked=False)[0, : TOP - 1] == 0).sum()


def test_tuning_takes_what_is_best_on_the_held_out_rows_and_sees_no_others(
    two_tastes: Training,
) -> None:
    held = np.arange(len(two_tastes.users)) % 5 == 0
    seen: list[int] = []

    def fit(train: Training, liked: bool, good: bool) -> np.ndarray:
        seen.append(len(train.users))
        same = np.arange(USERS)[:, None] % 2 == np.arange(FILMS) % 2
        return np.where(same == good, 1.0, 0.0) + np.arange(FILMS) * 1e-6

    grid: dict[str, tuple[Any, ...]] = {"liked": (False,), "good": (False, True)}
    assert tune(Peer("made up", fit, grid), two_tastes, held, EVERY)["good"] is True
    assert set(seen) == {int((~held).sum())}


def test_the_measure_of_tuning_is_the_projects(two_tastes: Training) -> None:
    rng = np.random.default_rng(1)
    wanted = rng.random((USERS, FILMS)) < 0.2
    wanted[:, 0] = True
    top = np.argsort(rng.random((USERS, FILMS)), axis=1)[:, :TOP]
    hits = np.take_along_axis(wanted, top, axis=1)
    assert ndcg(top, wanted) == pytest.approx(metrics.ndcg(hits, wanted.sum(axis=1)).mean())

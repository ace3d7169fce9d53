"""Measures against cases worked out by hand, and against well-kept libraries."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from surprise import Prediction, accuracy

from ml.collaborative.evaluation import metrics
from ml.collaborative.top_n import top_films


def test_errors_by_hand() -> None:
    errors = np.array([1.0, -1.0, 2.0, 0.0])
    assert metrics.rmse(errors) == pytest.approx(np.sqrt(6 / 4))
    assert metrics.mae(errors) == 1


def test_rankings_by_hand() -> None:
    """Places 1 and 3 of three are liked by the first user, none by the second."""
    hits = np.array([[True, False, True], [False, False, False]])
    liked = np.array([2, 5])
    gain, best = 1 + 1 / 2, 1 + 1 / np.log2(3)
    np.testing.assert_allclose(metrics.ndcg(hits, liked), [gain / best, 0])
    np.testing.assert_allclose(metrics.precision(hits), [2 / 3, 0])
    np.testing.assert_allclose(metrics.recall(hits, liked), [1, 0])
    np.testing.assert_allclose(metrics.hit(hits), [1, 0])


def test_a_list_shorter_than_what_is_liked_can_be_the_best() -> None:
    np.testing.assert_allclose(metrics.ndcg(np.ones((1, 3), dtype=bool), np.array([9])), [1])


def test_coverage_and_popularity_by_hand() -> None:
    top = np.array([[0, 1], [0, -1]])  # the second user has seen all others
    assert metrics.coverage(top, films=4) == 0.5
    assert metrics.popularity(top, np.array([10, 1, 5, 5])) == 7


def test_the_best_unseen_films_come_first_and_ties_by_inner_id() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    seen = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]], dtype=bool)
    assert top_films(scores, seen, 2).tolist() == [[1, 2], [3, -1], [0, 2]]
    assert top_films(scores[:, :1], seen[:, :1], 2).tolist() == [[0, -1], [-1, -1], [0, -1]]


def test_measures_agree_with_libraries_on_random_lists() -> None:
    rng = np.random.default_rng(3)
    users, films, places = 40, 60, metrics.TOP
    scores = rng.normal(size=(users, films))
    relevant = rng.random((users, films)) < 0.1
    relevant[:, 0] = True
    top = top_films(scores, np.zeros_like(relevant), metrics.TOP)
    hits = np.take_along_axis(relevant, top, axis=1)
    liked = relevant.sum(axis=1)
    evaluator = pytrec_eval.RelevanceEvaluator(
        {f"u{u}": {f"f{f}": int(relevant[u, f]) for f in range(films)} for u in range(users)},
        {f"{name}.{places}" for name in ("ndcg_cut", "P", "recall", "success")},
    )
    expected = evaluator.evaluate(
        {f"u{u}": {f"f{f}": float(scores[u, f]) for f in range(films)} for u in range(users)}
    )
    found = {
        "ndcg_cut": metrics.ndcg(hits, liked), "P": metrics.precision(hits),
        "recall": metrics.recall(hits, liked), "success": metrics.hit(hits),
    }  # fmt: skip
    for name, values in found.items():
        theirs = [expected[f"u{u}"][f"{name}_{places}"] for u in range(users)]
        np.testing.assert_allclose(values, theirs, atol=1e-12, err_msg=name)
    truth, estimates = rng.normal(size=(2, 50))
    pairs = [Prediction("u", "i", r, e, {}) for r, e in zip(truth, estimates, strict=True)]
    errors = estimates - truth
    assert metrics.rmse(errors) == pytest.approx(accuracy.rmse(pairs, verbose=False))
    assert metrics.mae(errors) == pytest.approx(accuracy.mae(pairs, verbose=False))


def test_the_best_films_are_those_of_a_full_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for films in (3, 10, 11, 200):
        scores = rng.integers(0, 6, (50, films)).astype(float)  # many ties
        seen = rng.random((50, films)) < 0.4
        found = top_films(scores, seen, metrics.TOP)
        for row in range(50):
            order = sorted(np.flatnonzero(~seen[row]), key=lambda i: (-scores[row, i], i))[:10]
            assert found[row].tolist() == order + [-1] * (10 - len(order))

"""Held-out ratings: none is trained on, and each way holds out what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.collaborative.datasets import movielens
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.evaluation.splits import (
    Split,
    all_splits,
    check_apart,
    in_time,
    k_folds,
    new_users,
)
from ml.collaborative.ratings import MappedRatings, empty_ratings, make_ratings


@pytest.mark.parametrize(("count", "folds"), [(10, 2), (11, 3), (7, 7)])
def test_each_row_is_tested_once_and_never_trained_on_then(count: int, folds: int) -> None:
    splits = list(k_folds(count, folds, seed=1))
    assert len(splits) == folds
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(count))
    for train, test in splits:
        assert sorted(np.concatenate([train, test])) == list(range(count))


def test_the_past_is_trained_on_and_the_future_tested() -> None:
    times = np.array([50, 10, 40, 20, 30, 40, 60, 70, 80, 90])
    train, test = in_time(times, share=0.5)
    assert times[train].max() < times[test].min()
    assert sorted(times[test]) == [50, 60, 70, 80, 90]
    tied = in_time(np.array([1, 2, 2, 2]), share=0.5)
    assert tied.train.tolist() == [0, 1, 2, 3]
    assert tied.test.tolist() == []


@pytest.mark.parametrize("revealed", [0, 3])
def test_new_users_show_only_what_is_revealed(revealed: int) -> None:
    table = sample_ratings()
    train, test = new_users(table["user_id"], revealed, seed=2)
    assert sorted([*train, *test]) == list(range(len(table)))
    users = table["user_id"].astype("str")
    held_out = users[test].unique()
    assert len(held_out) == round(0.1 * users.nunique())
    known = users[train][users[train].isin(held_out)].value_counts()
    assert known.sum() == revealed * len(held_out)
    assert set(known) <= {revealed}
    other = new_users(table["user_id"], revealed, seed=3)
    assert set(users[other.test]) != set(held_out)


def test_users_with_too_few_ratings_are_not_held_out() -> None:
    users = pd.Series(["a"] * 3 + ["b"] * 4)
    train, test = new_users(users, 3, seed=0, share=1)
    assert set(users[test]) == {"b"}
    assert len(train) == 6


def test_a_planted_leak_is_caught() -> None:
    table = make_ratings(["a", "a", "b", "a"], [1, 2, 1, 1], [1, 2, 3, 4])
    check_apart(table, Split(np.array([0, 1]), np.array([2])))
    for train, test in (([0, 1], [1, 2]), ([0, 1], [2, 3])):  # the row; the same user and film
        with pytest.raises(InputError, match="1 of the 2 held-out ratings are in the training"):
            check_apart(table, Split(np.array(train), np.array(test)))


def test_grouplens_splits_of_ml_100k(
    movielens_archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """u1 to u5 hold each rating out once, ua and ub ten of each user's."""
    monkeypatch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
    mapped = movielens.load("ml-100k", tmp_path, None)
    table = mapped.ratings
    names = set(all_splits(mapped, table, tmp_path, 0))
    assert not names & {"u1 to u5", "ua and ub"}  # without the files
    movielens.fetch_splits(tmp_path)
    splits = all_splits(mapped, table, tmp_path, 0)
    tests = [split.test for split in splits["u1 to u5"]]
    held_out = np.concatenate(tests)
    assert len(np.unique(held_out)) == len(table)
    assert len(held_out) - len(table) == 22  # rated twice in the same second, in two of the parts
    for split in splits["ua and ub"]:
        assert 9300 < len(split.test) <= 9430
        assert table["user_id"].iloc[split.test].value_counts().max() == 10
    for many in splits.values():
        for split in many:
            check_apart(table, split)
            assert sorted([*split.train, *split.test]) == list(range(len(table)))
    assert mapped.times is not None
    [(past, future)] = splits["the last tenth in time"]
    assert mapped.times[past].max() < mapped.times[future].min()
    assert len(future) == pytest.approx(0.1 * len(table), abs=100)


def test_what_cannot_be_held_out_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """One app user, and no film of MovieLens in the catalog."""
    app = make_ratings(["x"] * 6, range(1, 7), [3] * 6)
    none = MappedRatings(
        "ml-latest",
        empty_ratings(),
        0,
        0,
        0,
        frozenset({1}),
        pd.Series(dtype="Int64"),
        np.array([]),
    )
    splits = all_splits(none, app, Path(), 0)
    assert list(splits) == ["5 random folds"]
    assert "too few ratings to hold out: new users" in caplog.text

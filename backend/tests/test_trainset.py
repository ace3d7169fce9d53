"""The trainset in arrays is Surprise's own to whoever uses it."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise import (
    NMF,
    BaselineOnly,
    CoClustering,
    Dataset,
    KNNBaseline,
    KNNWithMeans,
    Reader,
    SlopeOne,
    SVDpp,
    Trainset,
)

from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.ratings import empty_ratings, make_ratings, rating_scale
from ml.collaborative.trainset import ArrayTrainset, RawIds, make_trainset


def plain_trainset(table: pd.DataFrame) -> Trainset:
    reader = Reader(rating_scale=rating_scale(table["rating"]))
    return Dataset.load_from_df(table, reader).build_full_trainset()


users = st.one_of(st.sampled_from(["a", "b", "ml_1", "ü", "", "a b"]), st.text(max_size=8))
tables = st.lists(
    st.tuples(users, st.integers(1, 2**40) | st.integers(1, 9), st.integers(1, 10)),
    min_size=1,
    max_size=60,
).map(lambda rows: make_ratings(*map(list, zip(*[(u, i, r / 2) for u, i, r in rows], strict=True))))


@settings(deadline=None)
@given(tables)
def test_every_method_and_attribute_is_surprises(table: pd.DataFrame) -> None:
    ours, plain = make_trainset(table), plain_trainset(table)
    for again in (ours, pickle.loads(pickle.dumps(ours))):
        assert isinstance(again, Trainset)
        for name in ("n_users", "n_items", "n_ratings", "rating_scale"):
            assert getattr(again, name) == getattr(plain, name)
        assert again.global_mean == pytest.approx(plain.global_mean, abs=1e-12)
        assert again.ur == plain.ur
        assert again.ir == plain.ir
        assert list(again.all_ratings()) == list(plain.all_ratings())
        assert list(again.all_users()) == list(plain.all_users())
        assert list(again.all_items()) == list(plain.all_items())
        assert again.build_testset() == plain.build_testset()
        assert again.build_anti_testset(fill=3) == plain.build_anti_testset(fill=3)
        for inner in (-1, 0, plain.n_users, np.int64(0), "UKN__x", 10**20, 0.0, 0.5, True):
            assert again.knows_user(inner) == plain.knows_user(inner)
            assert again.knows_item(inner) == plain.knows_item(inner)
        for raw in {*table["user_id"], "nobody"}:
            assert outcome(again.to_inner_uid, raw) == outcome(plain.to_inner_uid, raw)
        for raw in {*table["movie_id"], -1}:
            assert outcome(again.to_inner_iid, raw) == outcome(plain.to_inner_iid, raw)
        for inner in range(-1, max(plain.n_users, plain.n_items) + 1):
            assert outcome(again.to_raw_uid, inner) == outcome(plain.to_raw_uid, inner)
            assert outcome(again.to_raw_iid, inner) == outcome(plain.to_raw_iid, inner)


def outcome(method: object, argument: object) -> object:
    """What a method returns, with its type, or the text of its ValueError."""
    try:
        value = method(argument)  # type: ignore[operator]
    except ValueError as error:
        return str(error)
    return type(value), value


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda: KNNBaseline(verbose=False),
        lambda: KNNWithMeans(sim_options={"user_based": False}, verbose=False),
        lambda: BaselineOnly(verbose=False),
        lambda: SVDpp(n_factors=5, n_epochs=2, random_state=0),
        lambda: NMF(n_epochs=5, random_state=0),
        lambda: SlopeOne(),
        lambda: CoClustering(n_epochs=3, random_state=0),
    ],
    ids=["KNNBaseline", "KNNWithMeans", "BaselineOnly", "SVDpp", "NMF", "SlopeOne", "CoClustering"],
)
def test_surprises_other_algorithms_give_the_same_on_it(algorithm: object) -> None:
    table = sample_ratings().head(3000)
    pairs = [
        (u, i) for u in ("ml_sample_1", "ml_sample_9", "nobody") for i in (862, 603, 27205, -1)
    ]
    results = []
    for trainset in (make_trainset(table), plain_trainset(table)):
        model = algorithm().fit(trainset)  # type: ignore[operator]
        results.append([model.predict(*pair)[3:] for pair in pairs])
    assert results[0] == results[1]


def test_it_holds_12_bytes_a_rating_where_that_is_exact() -> None:
    table = sample_ratings()
    arrays = make_trainset(table)
    assert len(pickle.dumps(arrays)) < 12 * len(table) + 25 * 600
    exact = make_trainset(make_ratings(["a", "b"], [1, 2], [0.7, 3]))
    assert list(exact.all_ratings()) == [(0, 0, 0.7), (1, 1, 3.0)]


def test_ids_of_any_kind_come_back_as_they_were() -> None:
    for ids in (["a", "ü", "", "\ud800"], [3, 1], [1, "a"], [1.5, None], []):
        assert RawIds(ids).tolist() == ids


def test_no_ratings_make_no_trainset() -> None:
    with pytest.raises(InputError, match="no ratings to train on"):
        make_trainset(empty_ratings())


def test_rows_are_made_only_when_asked_for() -> None:
    trainset: ArrayTrainset = make_trainset(sample_ratings())
    assert "by_item" not in vars(trainset)
    assert trainset.ur[599]
    assert "by_item" not in vars(trainset)

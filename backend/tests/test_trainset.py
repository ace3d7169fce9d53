"""The trainset in arrays is Surprise's own to whoever uses it."""

from __future__ import annotations

import copy
import pickle
import pickletools
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import surprise
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise import (
    NMF,
    SVD,
    BaselineOnly,
    CoClustering,
    Dataset,
    KNNBaseline,
    KNNWithMeans,
    Reader,
    SlopeOne,
    SVDpp,
    Trainset,
    accuracy,
)
from surprise.model_selection.validation import fit_and_score

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.ratings import empty_ratings, make_ratings, rating_scale
from ml.collaborative.trainset import ArrayTrainset, RawIds, make_items_trainset, make_trainset


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
def test_every_method_and_attribute_of_a_trainset_is_surprises(table: pd.DataFrame) -> None:
    ours, plain = make_trainset(table), plain_trainset(table)
    for again in (ours, pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert isinstance(again, Trainset)
        for name in ("n_users", "n_items", "n_ratings", "rating_scale"):
            assert getattr(again, name) == getattr(plain, name)
        assert again.global_mean == pytest.approx(plain.global_mean, abs=1e-12)
        for rows, expected in ((again.ur, plain.ur), (again.ir, plain.ir)):
            assert rows == expected
            assert pickle.loads(pickle.dumps(rows)) == expected
            assert [*rows] == [*rows.keys()] == [*expected]
            assert [*rows.values()] == [*expected.values()]
            assert len(rows) == len(expected)
            assert 0 in rows
            assert -1 not in rows
            assert rows.get(0) == expected.get(0)
            assert rows.get(-1) is expected.get(-1) is None
        assert list(again.all_ratings()) == list(plain.all_ratings())
        assert list(again.all_users()) == list(plain.all_users())
        assert list(again.all_items()) == list(plain.all_items())
        assert again.build_testset() == plain.build_testset()
        assert again.build_anti_testset(fill=3) == plain.build_anti_testset(fill=3)
        for ours_of, plain_of in zip(
            again.build_anti_testset(), plain.build_anti_testset(), strict=True
        ):
            assert ours_of == (*plain_of[:2], pytest.approx(plain_of[2], abs=1e-12))
        for inner in (
            -1, 0, plain.n_users, np.int64(0), "UKN__x", 10**20, 0.0, 0.5, True, np.float32(0)
        ):  # fmt: skip
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


PARAMETERS = {"factors": 10, "epochs": 3, "lr": 0.005, "reg": 0.02, "seed": 0}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return sample_ratings().head(4000)


@pytest.fixture(scope="module")
def plain(table: pd.DataFrame) -> SVD:
    """Surprise's own, as its documentation trains it."""
    return SVD(n_factors=10, n_epochs=3, random_state=0).fit(plain_trainset(table))


@pytest.fixture(scope="module", params=["trained", "loaded", "mapped", "dumped"])
def pair(
    request: pytest.FixtureRequest, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SVD, Trainset]:
    """The model and its trainset, in memory and from the disk."""
    svd, trainset = train_svd_model(table, **PARAMETERS)
    folder = tmp_path_factory.mktemp("pair")
    if request.param == "trained":
        return svd, trainset
    if request.param == "dumped":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its file to be closed
            surprise.dump.dump(folder / "svd", algo=svd)
            _, loaded = surprise.dump.load(folder / "svd")
        return loaded, loaded.trainset
    save_models(svd, trainset, str(folder))
    mode = "c" if request.param == "mapped" else None
    svd, trainset = (
        joblib.load(folder / name, mmap_mode=mode) for name in ("svd_model.pkl", "cf_trainset.pkl")
    )
    return svd, trainset


def test_every_method_and_attribute_of_the_model_is_surprises(
    pair: tuple[SVD, Trainset], plain: SVD, capsys: pytest.CaptureFixture[str]
) -> None:
    svd, trainset = pair
    assert type(svd) is type(plain)
    state = set(vars(plain))
    assert state <= set(vars(svd))
    for name in sorted(state - {"trainset", "bu", "bi", "pu", "qi"}):
        assert getattr(svd, name) == getattr(plain, name), name
    for name in ("bu", "bi", "pu", "qi"):
        np.testing.assert_allclose(getattr(svd, name), getattr(plain, name), atol=1e-9)

    for own in (trainset, svd.trainset):
        assert own.ur == plain.trainset.ur
        assert own.ir == plain.trainset.ir
        assert list(own.all_ratings()) == list(plain.trainset.all_ratings())
        assert own.build_testset() == plain.trainset.build_testset()
        assert own.build_anti_testset(3) == plain.trainset.build_anti_testset(3)
    for user, film in [("ml_sample_1", 862), ("ml_sample_1", -1), ("?", 862), ("?", -1)]:
        for options in ({}, {"clip": False}, {"r_ui": 4.0}, {"r_ui": 9.0, "verbose": True}):
            ours, theirs = (model.predict(user, film, **options) for model in (svd, plain))
            assert ours._replace(est=0) == theirs._replace(est=0)
            assert ours.est == pytest.approx(theirs.est, abs=1e-9)
            shown = capsys.readouterr().out.splitlines()
            assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]
    for user, film in [(0, 0), (0, "UKN__-1"), ("UKN__?", 0), ("UKN__?", "UKN__-1")]:
        assert svd.estimate(user, film) == pytest.approx(plain.estimate(user, film), abs=1e-9)
    assert svd.default_prediction() == pytest.approx(plain.default_prediction(), abs=1e-12)

    testset = svd.trainset.build_testset()
    for measure in (accuracy.rmse, accuracy.mae, accuracy.mse, accuracy.fcp):
        ours, theirs = (
            measure(model.test(testset, verbose=False), verbose=False) for model in (svd, plain)
        )
        assert ours == pytest.approx(theirs, abs=1e-9)
    for ours, theirs in zip(svd.compute_baselines(), plain.compute_baselines(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("name", ["msd", "cosine", "pearson", "pearson_baseline"])
@pytest.mark.parametrize("user_based", [True, False])
def test_its_similarities_and_neighbors_are_surprises(
    pair: tuple[SVD, Trainset], plain: SVD, name: str, user_based: bool
) -> None:
    found = []
    for model in (copy.copy(pair[0]), copy.copy(plain)):
        model.sim_options = {"name": name, "user_based": user_based, "min_support": 2}
        model.sim = model.compute_similarities()
        found.append(model.sim)
        assert len(model.get_neighbors(0, k=5)) == 5
    np.testing.assert_allclose(*found, atol=1e-7)


def test_fitting_again_on_the_trainset_is_surprises(pair: tuple[SVD, Trainset], plain: SVD) -> None:
    for own in (pair[1], pair[0].trainset):
        again = SVD(n_factors=10, n_epochs=3, random_state=0).fit(own)
        np.testing.assert_array_equal(again.pu, plain.pu)
        np.testing.assert_array_equal(again.bi, plain.bi)
    model = copy.copy(pair[0])
    np.testing.assert_array_equal(model.fit(model.trainset).qi, plain.qi)
    testset = plain.trainset.build_testset()[:500]
    ours, theirs = (
        fit_and_score(SVD(n_epochs=1, random_state=0), own, testset, ["rmse", "mae"], True)[:2]
        for own in (pair[1], plain.trainset)
    )
    assert ours == theirs
    for method in ("als", "sgd"):
        biases = [
            BaselineOnly(bsl_options={"method": method}, verbose=False).fit(own).bi
            for own in (pair[1], plain.trainset)
        ]
        np.testing.assert_array_equal(*biases)


def test_pickles_name_two_classes_and_hold_nothing_derived(table: pd.DataFrame) -> None:
    trainset = make_trainset(table)
    fresh = pickle.dumps(trainset)
    trainset.to_raw_uid(trainset.to_inner_uid("ml_sample_1"))
    trainset.to_raw_iid(0)
    assert len(trainset.ur[0]) + len(trainset.ir[0]) > 1
    assert pickle.dumps(trainset) == fresh
    strings = {arg for _, arg, _ in pickletools.genops(fresh) if isinstance(arg, str)}
    ours = {text for text in strings if text.startswith("ml.")}
    assert ours == {"ml.collaborative.trainset"}
    assert {"ArrayTrainset", "RawIds"} <= strings
    state = trainset.__getstate__()
    assert sorted(state) == [
        "_global_mean", "_item_codes", "_items", "_ratings", "_user_codes", "_users",
        "n_items", "n_ratings", "n_users", "rating_scale",
    ]  # fmt: skip
    later = ArrayTrainset.__new__(ArrayTrainset)
    later.__setstate__({**state, "of_a_later_version": 1})
    assert later.ur == trainset.ur


def test_a_trainset_of_items_only_knows_the_items_and_the_mean() -> None:
    trainset = make_items_trainset([862, 603], (0.5, 5.0), 3.5)
    for again in (trainset, pickle.loads(pickle.dumps(trainset))):
        assert (again.n_users, again.n_items, again.n_ratings) == (0, 2, 0)
        assert again.global_mean == 3.5
        assert again.to_raw_iid(1) == 603
        assert [*again.all_ratings()] == again.build_testset() == again.build_anti_testset() == []
        assert not again.knows_user(0)


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

"""Cutting a model to some films: what it says of those is what it said before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from surprise import SVD, Trainset

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.algorithms.cut import cut_to_films
from ml.collaborative.algorithms.parts import parts_of, ranking_of
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.serving.model import load_collaborative
from ml.collaborative.trainset import ArrayTrainset

CATALOGS = {
    "an app's popular films": [238, 597, 278, 769, 13, 218, 680, 11, 807, 8587, 862, 348, 424,
                               840464, 1315303, 1368166, 1168190, 1084242, 1426964],
    "TMDB's first thousand": list(range(1, 1000)),
    "one film": [862],
}  # fmt: skip
"""TMDB ids; the first are what a real catalog of 260 films has in ML-100K, and six more of it."""


@pytest.fixture(scope="module", params=["sample", "ml-100k"])
def table(request: pytest.FixtureRequest) -> pd.DataFrame:
    if request.param == "sample":
        return sample_ratings()
    ratings: pd.DataFrame = request.getfixturevalue("real_ratings")
    return ratings


@pytest.fixture(scope="module", params=["svd", "bayesian"])
def whole(request: pytest.FixtureRequest, table: pd.DataFrame) -> tuple[SVD, ArrayTrainset]:
    svd, trainset = train_svd_model(table, algorithm=request.param)
    return svd, trainset


@pytest.mark.parametrize("catalog", CATALOGS.values(), ids=CATALOGS)
def test_every_prediction_for_a_kept_film_stays(
    whole: tuple[SVD, ArrayTrainset], catalog: list[int], tmp_path: Path
) -> None:
    svd, trainset = whole
    before = svd.bi.copy(), svd.qi.copy(), svd.trainset
    cut, smaller = cut_to_films(svd, trainset, catalog)
    films = sorted(set(catalog) & set(trainset.raw_items()))
    assert sorted(smaller.raw_items()) == films
    assert isinstance(smaller, Trainset)
    assert type(cut) is SVD
    assert smaller.global_mean == pytest.approx(
        np.mean([stars for _, _, stars in smaller.all_ratings()])
    )
    users = [*smaller.raw_users()[:50], "nobody"]
    for user in users:
        for film in films:
            assert cut.predict(user, film).est == pytest.approx(
                svd.predict(user, film).est, abs=1e-9
            )
    save_models(svd, trainset, str(tmp_path / "whole"))
    save_models(cut, smaller, str(tmp_path / "cut"))
    a, b = load_collaborative(tmp_path / "whole"), load_collaborative(tmp_path / "cut")
    assert set(b.movie_ids.tolist()) == set(films)  # and no other is in the arrays
    for user in smaller.raw_users()[50:]:
        np.testing.assert_allclose(b.predict(user, films), a.predict(user, films), atol=1e-9)
    for count in (1, 2, len(films)):
        known = {film: 0.5 + place % 10 / 2 for place, film in enumerate(films[:count])}
        folded, other = b.fold_in({**known, -1: 5.0}), a.fold_in(known)
        np.testing.assert_allclose(b.predict(folded, films), a.predict(other, films), atol=1e-9)
    of_whole = {film: score for film, score in a.similar(films[0], n=10_000) if film in films}
    for film, score in b.similar(films[0], n=10_000):
        assert score == pytest.approx(of_whole[film], abs=1e-6)  # float32
    np.testing.assert_array_equal(svd.bi, before[0])  # the whole model is as it was
    np.testing.assert_array_equal(svd.qi, before[1])
    assert svd.trainset is before[2]


def test_the_smaller_trainset_is_that_of_the_kept_ratings(
    whole: tuple[SVD, ArrayTrainset], table: pd.DataFrame
) -> None:
    """Nothing of the other films is in it, nor users without ratings."""
    _, smaller = cut_to_films(*whole, range(600, 900))
    kept = table[table["movie_id"].between(600, 899)]
    found = pd.DataFrame(
        [
            (smaller.to_raw_uid(user), smaller.to_raw_iid(film), stars)
            for user, film, stars in smaller.all_ratings()
        ],
        columns=list(table.columns),
    ).sort_values(["user_id", "movie_id"])
    expected = kept.astype({"user_id": "str"}).sort_values(["user_id", "movie_id"])
    np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())
    assert smaller.n_users == kept["user_id"].nunique()
    assert all(smaller.ur[user] for user in smaller.all_users())
    assert smaller.rating_scale == whole[1].rating_scale
    smaller.check()


def test_a_user_without_kept_ratings_and_a_film_that_was_cut_are_unknown() -> None:
    table = pd.DataFrame(
        {
            "user_id": ["a", "a", "b", "b", "c"],
            "movie_id": [1, 2, 1, 2, 3],
            "rating": [5.0, 3.0, 4.0, 2.0, 1.0],
        }
    )
    svd, trainset = train_svd_model(table)
    cut, smaller = cut_to_films(svd, trainset, [1, 2, 77])
    assert smaller.raw_users() == ["a", "b"]
    for film in (1, 2):
        expected = svd.predict("nobody", film).est
        assert cut.predict("c", film).est == pytest.approx(expected, abs=1e-9)
    row = smaller.to_inner_uid("a")
    assert cut.predict("a", 3).est == pytest.approx(smaller.global_mean + cut.bu[row], abs=1e-9)
    assert cut.predict("nobody", 3).est == pytest.approx(3.5)  # the mean of the kept ratings


def test_cutting_twice_is_cutting_once(whole: tuple[SVD, ArrayTrainset]) -> None:
    once = cut_to_films(*whole, range(600, 700))
    twice = cut_to_films(*cut_to_films(*whole, range(600, 900)), range(600, 700))
    for name in ("bu", "bi", "pu", "qi"):
        np.testing.assert_allclose(getattr(twice[0], name), getattr(once[0], name), atol=1e-12)
    roots = parts_of(twice[0]).fold_in_root, parts_of(once[0]).fold_in_root
    np.testing.assert_array_equal(*roots)
    assert twice[1].raw_users() == once[1].raw_users()


def test_where_all_films_are_kept_nothing_is_copied(whole: tuple[SVD, ArrayTrainset]) -> None:
    svd, trainset = cut_to_films(*whole, {*whole[1].raw_items(), 10**9})
    assert (svd, trainset) == whole


def test_no_film_to_publish_is_an_error(whole: tuple[SVD, ArrayTrainset]) -> None:
    with pytest.raises(InputError, match="none of the 2 films to publish is among the"):
        cut_to_films(*whole, [10**9, 10**9 + 1])


def test_the_ranking_of_kept_films_is_that_of_all(whole: tuple[SVD, ArrayTrainset]) -> None:
    """It is trained on all ratings once, and then cut: not trained on those kept."""
    cut, smaller = cut_to_films(*whole, range(600, 900))
    found = parts_of(cut_to_films(cut, smaller, range(600, 700))[0]).ranking
    once = parts_of(cut_to_films(*whole, range(600, 700))[0]).ranking
    trained = ranking_of(*whole)
    assert found is not None
    assert once is not None
    assert trained is not None
    kept = [film in range(600, 700) for film in whole[1].raw_items()]
    for ranking in (found, once):
        np.testing.assert_array_equal(ranking.q, trained.q[kept])
        np.testing.assert_array_equal(ranking.cold, trained.cold[kept])
        np.testing.assert_array_equal(ranking.gram, trained.gram)
        assert ranking.trained_films == whole[1].n_items

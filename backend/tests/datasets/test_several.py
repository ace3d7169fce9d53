"""Several MovieLens sets together: users apart, ratings and counts as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml.collaborative.datasets import movielens
from ml.collaborative.datasets.registry import parse_datasets
from ml.collaborative.datasets.several import combine_sets, user_prefix
from ml.collaborative.errors import UsageError
from ml.collaborative.ratings import (
    MappedRatings,
    check_ratings,
    is_app_user,
    rating_scale,
    sources_of,
)

NAMES = ("ml-100k", "ml-latest-small")
CATALOG = frozenset(range(1, 1000))


@pytest.fixture(scope="module")
def sets(movielens_archives: Path, tmp_path_factory: pytest.TempPathFactory) -> list[MappedRatings]:
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVIELENS_BASE_URL", str(movielens_archives))
        return [movielens.load(name, folder, CATALOG) for name in NAMES]


def test_ratings_are_those_of_both_and_users_are_kept_apart(sets: list[MappedRatings]) -> None:
    both = combine_sets(sets)
    table = both.ratings
    first, second = (mapped.ratings for mapped in sets)
    assert len(table) == len(first) + len(second)
    pd.testing.assert_frame_equal(table, check_ratings(table), check_flags=False)
    head, tail = table.iloc[: len(first)], table.iloc[len(first) :]
    for part, whole in ((head, first), (tail, second)):
        for column in ("movie_id", "rating"):
            np.testing.assert_array_equal(part[column], whole[column])
    assert head["user_id"].astype("str").tolist() == first["user_id"].astype("str").tolist()
    renamed = "ml_latest_small_" + second["user_id"].astype("str").str.removeprefix("ml_")
    assert tail["user_id"].astype("str").tolist() == renamed.tolist()
    assert not set(head["user_id"]) & set(tail["user_id"])
    assert not table.duplicated(["user_id", "movie_id"]).any()
    assert not is_app_user(table["user_id"].astype("str")).any()
    assert rating_scale(table["rating"]) == (0.5, 5)


def test_counts_sources_and_times_are_kept(sets: list[MappedRatings]) -> None:
    both = combine_sets(sets)
    assert both.dataset == "ml-100k,ml-latest-small"
    assert both.catalog == CATALOG
    for name in ("loaded", "mapped", "in_catalog"):
        assert getattr(both, name) == sum(getattr(mapped, name) for mapped in sets)
    assert sources_of(both.ratings) == tuple(
        source for mapped in sets for source in sources_of(mapped.ratings)
    )
    assert [source.name for source in sources_of(both.ratings)] == list(NAMES)
    assert both.times is not None
    assert len(both.times) == len(both.ratings)
    assert both.tmdb_ids["ml-100k", 1] == both.tmdb_ids["ml-latest-small", 1] == 862


def test_the_sets_themselves_are_not_changed(sets: list[MappedRatings]) -> None:
    before = [mapped.ratings.copy() for mapped in sets]
    combine_sets(sets)
    for mapped, then in zip(sets, before, strict=True):
        pd.testing.assert_frame_equal(mapped.ratings, then)


def test_ml_100k_and_ml_latest_small_have_no_rating_in_common(sets: list[MappedRatings]) -> None:
    """Else one would be trained on what is held out of the other."""
    first, second = (mapped.times for mapped in sets)
    assert not np.isin(first, second).any()


def test_one_set_is_itself(sets: list[MappedRatings]) -> None:
    assert combine_sets(sets[:1]) is sets[0]


def test_each_set_after_the_first_has_a_prefix_of_its_own() -> None:
    assert user_prefix("ml-latest-small", first=True) == "ml_"
    assert user_prefix("ml-100k", first=False) == "ml_100k_"
    assert user_prefix("ml-32m", first=False) == "ml_32m_"


@pytest.mark.parametrize("text", ["ml-100k", "ml-100k,ml-latest-small", "ml-32m, ml-100k"])
def test_names_are_read_in_their_order(text: str) -> None:
    assert parse_datasets(text) == tuple(text.replace(" ", "").split(","))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ml-1m", "there is no data set 'ml-1m': expected ml-100k, "),
        ("ml-100k,", "there is no data set ''"),
        ("ml-100k,ml-100k", "names a set twice"),
        ("ml-100k,sample", "the sample is generated"),
        ("ml-25m,ml-latest-small", "ml-25m and ml-latest-small can have the same ratings"),
    ],
)
def test_names_that_do_not_go_together_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_datasets(text)

"""What a ratings table is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ml.build_collaborative import combine_ratings
from ml.collaborative.errors import InputError
from ml.collaborative.ratings import (
    Source,
    empty_ratings,
    make_ratings,
    make_source,
    rating_scale,
    sources_of,
    with_sources,
)


def rows(*values: tuple[object, object, object]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["user_id", "movie_id", "rating"], dtype=object)


@pytest.mark.parametrize("table", [empty_ratings(), make_ratings([], [], [])])
def test_an_empty_table_has_the_declared_columns_and_dtypes(table: pd.DataFrame) -> None:
    assert table.dtypes.astype(str).to_dict() == {
        "user_id": "category",
        "movie_id": "int64",
        "rating": "float64",
    }


def test_combining_keeps_every_rating_movielens_first() -> None:
    ml = make_ratings(["ml_1", "ml_2"], [11, 12], [4, 5])
    app = make_ratings(["u"], [11], [0.5])
    both = combine_ratings(ml, app)
    assert both.values.tolist() == [["ml_1", 11, 4.0], ["ml_2", 12, 5.0], ["u", 11, 0.5]]
    assert both.index.tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(combine_ratings(ml, empty_ratings()), ml)
    pd.testing.assert_frame_equal(combine_ratings(empty_ratings(), app), app)
    pd.testing.assert_frame_equal(
        combine_ratings(empty_ratings(), empty_ratings()), empty_ratings()
    )


def test_a_table_says_where_its_rows_are_from_and_keeps_that_in_a_file(tmp_path: Path) -> None:
    ml = make_ratings(["ml_1", "ml_2"], [11, 11], [4, 5])
    app = make_ratings(["u"], [11], [0.5])
    of_ml = make_source("ml-100k", 5, {"one": 3, "other": 0}, ml)
    assert of_ml == Source("ml-100k", rows=5, dropped={"one": 3}, kept=2, users=2, films=1)
    of_app = make_source("app", 1, {}, app)
    both = combine_ratings(with_sources(ml, of_ml), with_sources(app, of_app))
    assert sources_of(both) == (of_ml, of_app)
    both.to_parquet(tmp_path / "ratings.parquet")
    assert sources_of(pd.read_parquet(tmp_path / "ratings.parquet")) == (of_ml, of_app)
    assert sources_of(combine_ratings(with_sources(ml, of_ml), empty_ratings())) == (of_ml,)
    assert sources_of(ml) == sources_of(empty_ratings()) == ()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"user_id": ["u"], "rating": [3.0]}), "lacks movie_id"),
        (rows(("u", 1, None)), "blank values"),
        (rows(("u", 1, 9.0)), "the first of them 9.0"),
        (rows(("u", "eleven", 3.0)), "wrong type"),
        (rows(("u", 1.5, 3.0)), "not a positive integer"),
        (rows(("u", float("inf"), 3.0)), "not a positive integer"),
        (rows(("u", 2**80, 3.0)), "not a positive integer"),
    ],
)
def test_a_table_that_is_not_of_ratings_is_refused(table: pd.DataFrame, said: str) -> None:
    with pytest.raises(InputError, match=said):
        combine_ratings(table, empty_ratings())


def test_users_of_any_kind_become_text() -> None:
    numbers = pd.DataFrame({"user_id": [5, 5], "movie_id": [1, 2], "rating": [3, 4]})
    ordered = numbers.assign(user_id=pd.Categorical(["b", "a"], ordered=True))
    for table in (numbers, numbers.astype({"user_id": "category"}), ordered):
        both = combine_ratings(table, make_ratings(["x"], [1], [5]))
        assert both["user_id"].tolist() == [*map(str, table["user_id"]), "x"]


@pytest.mark.parametrize(
    ("stars", "scale"),
    [([1, 5], (1.0, 5.0)), ([2, 3], (1.0, 5.0)), ([3.5, 4], (0.5, 5.0)), ([0.5, 5], (0.5, 5.0))],
)
def test_the_scale_has_half_stars_where_the_data_has(
    stars: list[float], scale: tuple[float, float]
) -> None:
    assert rating_scale(pd.Series(stars, dtype="float64")) == scale

"""What --ratings names is read, checked and mapped to integers on the cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spark_cluster import ON_SPARK, in_order, write

from ml.collaborative.errors import InputError, SourceError
from ml.collaborative.evaluation import held_out
from ml.collaborative.ratings import (
    RATED_AGAIN,
    combine,
    empty_ratings,
    make_ratings,
)
from ml.collaborative.spark import ratings
from ml.collaborative.spark.ratings import Given, read_given
from ml.collaborative.spark.session import Cluster

pytestmark = ON_SPARK

ODD = ["ml_1", " a b", "a,b\n\"c'", "ünï\u0000", "\U0001f3ac", "0", "00", "A", "a"]
"""Users' ids that CSV, SQL, JSON or a sort can get wrong."""


def test_ratings_come_back_with_the_ids_they_went_with(cluster: Cluster, tmp_path: Path) -> None:
    rows = make_ratings(
        np.repeat(ODD, 3), [603, 9_007_199_254_740_991, 12] * len(ODD), [0.5, 5, 3] * len(ODD)
    )
    write(tmp_path / "r.parquet", rows)
    given = read_given(cluster, str(tmp_path / "r.parquet"))
    found = given.collect()
    assert in_order(found) == in_order(rows)
    assert in_order(combine(found, empty_ratings())) == in_order(rows)
    assert given.counts == {"ratings": 27, "users": 9, "app_ratings": 24, "app_users": 8}
    assert given.scale == (0.5, 5)


def test_of_several_ratings_the_highest_is_kept_and_the_apps_films_are_known(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("rating,user_id,movie_id,x\n3,7,10,a\n5,7,10,b\n1,ml_8,20,\n2,9,10,\n")
    given = read_given(cluster, str(path))
    assert in_order(given.collect()) == [("7", 10, 5), ("9", 10, 2), ("ml_8", 20, 1)]
    assert given.dropped == {RATED_AGAIN: 1}
    assert given.scale == (1, 5)
    assert given.movie_ids.tolist() == [10, 20]
    assert given.of_app.tolist() == [True, False]
    monkeypatch.setattr(ratings, "MAX_FILMS", 1)  # of which numbers are collected here
    with pytest.raises(InputError, match="found more than 1 films, expected fewer"):
        read_given(cluster, str(path))


def test_ids_are_read_right_from_csv_and_from_integers_with_blanks_among_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    ids = ["a,b", 'say "hi"', "two\nlines", " x "]
    rows = pd.DataFrame({"user_id": ids, "movie_id": 11, "rating": 3.0})
    rows.to_csv(tmp_path / "r.csv", index=False)
    assert in_order(read_given(cluster, str(tmp_path / "r.csv")).collect()) == [
        (name, 11, 3.0) for name in sorted(ids)
    ]
    rows.assign(user_id=[7.0, 7e9, 1.5, 8.0]).to_parquet(tmp_path / "r.parquet")
    found = read_given(cluster, str(tmp_path / "r.parquet")).collect()
    assert sorted(found["user_id"].astype("str")) == ["1.5", "7", "7000000000", "8"]
    rows.assign(movie_id=True).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match="movie_id as boolean: expected text or a number"):
        read_given(cluster, str(tmp_path / "r.parquet"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("user_id,movie,rating\n1,2,3\n", "lacks movie_id: found user_id, movie, rating"),
        (
            "user_id,movie_id,rating\n1,2,3\n1,3,7\n",
            "1 of 2 rows whose rating is not a number from",
        ),
        ("user_id,movie_id,rating\n1,2,\n,2,3\n", "1 of 2 rows without a user"),
        ("user_id,movie_id,rating\n1,tt2,3\n1,2,3\n", "whose movie_id is not a positive integer"),
        ("user_id,movie_id,rating\n", "has no ratings"),
        ("user_id,movie_id,rating\n1,2,good\n", "whose rating is not a number"),
    ],
)
def test_invalid_rows_are_an_error_of_one_line(
    cluster: Cluster, tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "r.csv").write_text(rows)
    with pytest.raises(InputError, match=message) as caught:
        read_given(cluster, str(tmp_path / "r.csv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("/none.parquet", InputError, "there is nothing at"),
        ("jdbc:nosuch://127.0.0.1/x?password=hidden", InputError, "no driver for the database"),
        ("jdbc:derby:/none/x;password=hidden", SourceError, "the database could not be reached"),
        ("hdfs://127.0.0.1:9/r.parquet", SourceError, "could not be read"),
        ("s3a://KEY:hidden@bucket/r.parquet", InputError, "no connector for s3a://…@bucket"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error_of_one_line_without_secrets(
    cluster: Cluster, source: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        read_given(cluster, source)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_file_in_place_of_parquet_is_an_error_of_one_line(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "r.parquet").write_text("no ratings")
    with pytest.raises(InputError) as caught:
        read_given(cluster, str(tmp_path / "r.parquet"))
    assert "\n" not in str(caught.value)


def test_users_are_numbered_in_order_of_their_ids(given: Given) -> None:
    ids = given.user_ids.sort("user").toArrow()
    assert ids["user"].to_pylist() == list(range(given.counts["users"]))
    names = ids["user_id"].to_pylist()
    assert names == sorted(names)


def test_the_cluster_samples_the_same_users_as_this_machine(
    given: Given, drawn: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (3_000, 15_000):
        monkeypatch.setattr(held_out, "MAX_RATINGS", limit)
        monkeypatch.setattr(ratings, "MAX_RATINGS", limit)
        sample = given.sample()
        assert 0 < len(sample) <= limit
        assert in_order(sample) == in_order(held_out.sample_users(drawn))


def test_above_a_size_a_release_is_item_only(given: Given) -> None:
    ratings, users = given.counts["ratings"], given.counts["users"]
    assert given.fits_full_release(3)
    assert given.fits_full_release(3, max_ratings=ratings, max_numbers=3 * users)
    assert not given.fits_full_release(3, max_ratings=ratings - 1)
    assert not given.fits_full_release(3, max_numbers=3 * users - 1)

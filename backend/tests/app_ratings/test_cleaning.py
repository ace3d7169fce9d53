"""From the texts of the app's database to ratings: what is kept, in which order, on which scale."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ml.collaborative.app_ratings.cleaning import clean_app_ratings
from ml.collaborative.app_ratings.scales import BOUNDS
from ml.collaborative.ratings import COLUMNS, empty_ratings


def rows(*values: tuple[str | None, str | None, str | None]) -> pa.Table:
    columns = list(zip(*values, strict=True)) or [(), (), ()]
    texts = [pa.array(column, pa.string()).dictionary_encode() for column in columns]
    return pa.table(texts, COLUMNS)


NO_TMDB_IDS = [
    "11.5", "eleven", "", "0", "0.0", "-5", "+5", "true", "Infinity", "9007199254740993", "12e5",
    "5e1", "1e+15", " 12", "12\n", "1_000", "12.", "0x10", "\u0661\u0662", "tt0114709",
    "819f46e5-2c25-763a-55cc-642422644317",
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((None, "11", "4"), "user or film is null"),
        (("u", None, "4"), "user or film is null"),
        (("", "11", "4"), "user is empty"),
        (("  ", "11", "4"), "user is empty"),
        (("ml_5", "11", "4"), "user id begins with the reserved 'ml_'"),
        *((("u", film, "4"), "film is not a positive integer") for film in NO_TMDB_IDS),
        (("u", "11", None), "rating is not a number"),
        (("u", "11", "NaN"), "rating is not a number"),
        (("u", "11", "good"), "rating is not a number"),
        (("u", "11", "true"), "rating is not a number"),
        (("u", "11", "0"), "rating outside 0.5 to 5"),
        (("u", "11", "5.5"), "rating outside 0.5 to 5"),
        (("u", "11", "-1"), "rating outside 0.5 to 5"),
    ],
)
def test_a_row_that_cannot_be_a_rating_is_counted_by_its_reason(
    row: tuple[str | None, str | None, str | None], reason: str
) -> None:
    kept, dropped = clean_app_ratings(
        rows(row, ("good", "11", "0.5"), ("good", "12", "5")), "0.5-5"
    )
    assert dropped == {reason: 1}
    assert kept["user_id"].tolist() == ["good", "good"]
    assert kept["user_id"].cat.categories.tolist() == ["good"]


def test_a_row_with_two_faults_is_counted_once() -> None:
    kept, dropped = clean_app_ratings(rows(("", "x", "99")), "0.5-5")
    assert (len(kept), dropped) == (0, {"user is empty": 1})


def test_a_user_id_is_kept_to_the_letter() -> None:
    kept, dropped = clean_app_ratings(rows((" anna", "1", "3"), ("anna", "1", "4")), "0.5-5")
    assert (kept["user_id"].tolist(), dropped) == ([" anna", "anna"], {})


def test_the_order_is_that_of_users_and_films_whatever_the_databases() -> None:
    found = [("b", "9", "1"), ("é", "1", "2"), ("B", "10", "3"), ("b", "10", "4"), ("a", "1", "5")]
    for order in (found, found[::-1]):
        kept, _ = clean_app_ratings(rows(*order), "0.5-5")
        assert kept.values.tolist() == [
            ["B", 10, 3.0], ["a", 1, 5.0], ["b", 9, 1.0], ["b", 10, 4.0], ["é", 1, 2.0],
        ]  # fmt: skip


@pytest.mark.parametrize("order", [("3", "5"), ("5", "3")])
def test_of_two_ratings_of_a_film_the_highest_stays(order: tuple[str, str]) -> None:
    kept, dropped = clean_app_ratings(
        rows(("a", "1", "2"), ("u", "9", order[0]), ("u", "9.0", order[1]), ("z", "1", "1")),
        "0.5-5",
    )
    assert kept.values.tolist() == [["a", 1, 2.0], ["u", 9, 5.0], ["z", 1, 1.0]]
    assert dropped == {"second rating of a film": 1}


def test_no_rows_are_an_empty_table_of_the_declared_dtypes() -> None:
    kept, dropped = clean_app_ratings(rows(), "0.5-5")
    assert kept.dtypes.astype(str).to_dict() == empty_ratings().dtypes.astype(str).to_dict()
    assert (len(kept), dropped) == (0, {})


@pytest.mark.parametrize(
    ("scale", "stars", "others"),
    [
        ("0.5-5", {"0.5": 0.5, "3.5": 3.5, "5": 5}, ["0", "6"]),
        ("1-5", {"1": 1, "4.5": 4.5, "5": 5}, ["0.5", "6"]),
        ("1-10", {"1": 0.5, "7": 3.5, "9": 4.5, "10": 5}, ["0.5", "11"]),
        ("thumbs", {"true": 4.5, "1": 4.5, "false": 2.5, "0": 2.5, "-1": 2.5}, ["2", "0.5"]),
    ],
)
def test_each_scale_is_mapped_to_stars_and_holds_others_out(
    scale: str, stars: dict[str, float], others: list[str]
) -> None:
    texts = [*stars, *others]
    given = rows(*(("u", str(film), text) for film, text in enumerate(texts, 1)))
    kept, dropped = clean_app_ratings(given, scale)
    assert kept["rating"].tolist() == list(stars.values())
    low, high = BOUNDS[scale]
    assert dropped == {f"rating outside {low:g} to {high:g}": len(others)}

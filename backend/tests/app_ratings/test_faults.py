"""What is said where too many of the app's rows are left out, and of heavy accounts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_cleaning import rows

from ml.collaborative.app_ratings.cleaning import clean_app_ratings
from ml.collaborative.app_ratings.faults import explain_left_out, find_heavy_accounts
from ml.collaborative.ratings import make_ratings
from ml.collaborative.settings import AppTable

UUID = "819f46e5-2c25-763a-55cc-642422644317"


def explain(*values: tuple[str | None, str | None, str | None], scale: str = "0.5-5") -> str | None:
    table = rows(*values)
    _, dropped = clean_app_ratings(table, scale)
    return explain_left_out(table, dropped, scale, AppTable(), len(table))


def explain_ratings(*ratings: str | None, scale: str = "0.5-5") -> str | None:
    return explain(*((f"u{n}", "11", text) for n in range(12) for text in ratings), scale=scale)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("u", "tt0114709", "4"), "found IMDb ids such as 'tt0114709'; set APP_RATINGS_MOVIE (now"),
        (("u", UUID, "4"), "no TMDB id: expected positive integers, found UUIDs; set"),
        (("u", "toy-story", "4"), "found texts of 9 characters; set"),
        (("u", "anna@example.org", "4"), "found texts of 16 characters; set"),
        (("u", "", "4"), "found texts of 0 characters; set"),
        (("u", "-48213", "4"), "found numbers; set"),
        (("", "11", "4"), "have an empty user id: set APP_RATINGS_USER to the column"),
        ((None, "11", "4"), "have no user or no film: set APP_RATINGS_USER"),
        (("ml_7", "11", "4"), "begins with 'ml_', as MovieLens's users: make a view that"),
    ],
)
def test_more_than_a_tenth_and_more_than_ten_rows_left_out_are_explained(
    row: tuple[str | None, str | None, str], said: str
) -> None:
    good = [(f"v{n}", "11", "4") for n in range(99)]
    found = explain(*[row] * 12, *good)
    assert found is not None
    assert found.startswith("12 of 111 app ratings have ")
    assert said in found
    assert explain(*[row] * 10) is None
    assert explain(*[row] * 11, *good) is None


@pytest.mark.parametrize(
    ("ratings", "found", "advice"),
    [
        (
            ["0", "1", "2", "3", "4", "5"],
            "'0'",
            "leaves out what is no rating (where rating::real > 0)",
        ),
        (["-1", "3.5", "5"], "'-1'", "leaves out what is no rating (where rating::real > 0)"),
        ([None, "4"], "null", "leaves out nulls (where rating is not null)"),
        (["n/a", "4"], "'n/a'", "leaves out what is no rating (where it is a number above 0)"),
        (["3,5", "4,5", "5"], "'3,5', '4,5'", "(replace(rating, ',', '.')::real)"),
        (["good", "bad"], "'bad', 'good'", "(case rating when ... then 4.5 when ... then 2.5 end)"),
        (["20", "60", "100"], "'100', '20', '60'", "(greatest(0.5, rating::real * 5.0 / 100))"),
        (["0", "17", "20"], "'0', '17', '20'", "(greatest(0.5, rating::real * 5.0 / 20))"),
        (["0", "850", "1000"], "'0', '1000', '850'", "(greatest(0.5, rating::real * 5.0 / 1000))"),
        (["4/5", "2.5/5", "5/5"], "'2.5/5', '4/5', '5/5'", "(replace(substring(rating from '[0-9"),
        (["7 / 10", "10"], "'10', '7 / 10'", "set APP_RATINGS_SCALE to 1-10, and make a view that"),
        (
            ["80%", "95 %"],
            "'80%', '95 %'",
            "from '[0-9]+[.,]?[0-9]*'), ',', '.')::real * 5.0 / 100",
        ),
        (["true", "false"], "'false', 'true'", ": set APP_RATINGS_SCALE to thumbs"),
        (["2", "7", "10"], "'10', '7'", ": set APP_RATINGS_SCALE to 1-10"),
        (["-1", "-1", "7", "9"], "'-1', '7', '9'", "to 1-10, and make a view that leaves out"),
    ],
)
def test_advice_on_ratings_can_be_followed(
    ratings: list[str | None], found: str, advice: str
) -> None:
    said = explain_ratings(*ratings)
    assert said is not None
    assert f"are outside the scale 0.5-5 (found {found})" in said
    assert advice in said


def test_what_could_be_a_person_s_is_not_repeated() -> None:
    for text in ("Anna Miller wrote: a lovely film", "anna@example.org", "u3"):
        said = explain_ratings(text, "good")
        assert said is not None
        assert "(found 'good'): no scale of APP_RATINGS_SCALE fits: make a view" in said
    said = explain_ratings(None)
    assert said is not None
    assert said.endswith("have no rating: set APP_RATINGS_RATING (now rating) to another column")


@pytest.mark.parametrize("user", ["anna.smith", "Anna", UUID, "u7", "482133", "tina%"])
def test_a_user_id_in_a_column_of_another_setting_is_not_repeated(user: str) -> None:
    for said in (
        explain(*[("11", user, "4")] * 12) or explain(*[("11", f"-{user}", "4")] * 12),
        explain(*[("4", "11", user)] * 12),
        explain(*[("4", "11", user)] * 8, *[("4", "11", "Berta")] * 4),
    ):
        assert said is not None
        assert user not in said
        assert "found texts of " in said or "found UUIDs" in said or "found numbers" in said


def test_numbers_that_are_as_many_as_ids_are_not_repeated() -> None:
    said = explain(*((f"{n % 5}", "11", f"{n}") for n in range(300)))
    assert said is not None
    assert "(found numbers): no scale" in said
    assert not re.search("'|29[6-9]", said)


def test_accounts_are_warned_of_by_share_and_by_identical_ratings() -> None:
    def said(*sizes: int, identical: bool = False) -> list[str]:
        users = np.repeat([f"u{n}" for n in range(len(sizes))], sizes)
        stars = np.full(len(users), 3.0) if identical else 1 + np.arange(len(users)) % 5
        return list(find_heavy_accounts(make_ratings(users, np.arange(len(users)) + 1, stars)))

    assert said() == said(100) == said(*[100] * 10) == []
    assert [text.split(";")[0] for text in said(300, 101, *[70] * 10)] == [
        "one account has 27% of the app's ratings (300 of 1,101)"
    ]
    assert said(600, 500)[0].startswith("2 accounts have 100% of the app's ratings (1,100 of ")
    assert said(*[1000] * 12, identical=True) == []
    (text,) = said(1001, *[1000] * 12, identical=True)
    assert text.startswith("one account has 1,001 ratings of 3 stars, 8% of the app's ratings")

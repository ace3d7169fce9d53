"""What of a catalog has ratings, in all and by decade."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ml.collaborative.coverage import measure_coverage
from ml.collaborative.datasets.movielens_files import read_titles

TITLES = {
    862: "Toy Story (1995)", 11: "Star Wars: Episode IV - A New Hope (1977) ",
    101: "Roots (1977-)",
    102: "Fawlty Towers (1975\u20131979)", 103: "2001: A Space Odyssey (1968)",
    104: "Babylon 5", 105: "Movie (Uncut)", 106: "1984",
}  # fmt: skip


def test_films_are_counted_in_all_and_by_decade() -> None:
    found = measure_coverage([*TITLES, 862, 5], {862, 11, 103, 104, 999}, TITLES)
    assert found.decades == {1960: (1, 1), 1970: (1, 3), 1990: (1, 1)}
    assert found.describe() == [
        "4 of the catalog's 9 films have ratings (44.4%)",
        "by decade: 1960s 1 of 1, 1970s 1 of 3, 1990s 1 of 1; the year of 4 is not known",
    ]


@pytest.mark.parametrize("titles", [{}, {5: "no year"}])
def test_without_years_there_is_one_line(titles: dict[int, str]) -> None:
    found = measure_coverage([5, 6], [6], titles)
    assert found.describe() == ["1 of the catalog's 2 films have ratings (50.0%)"]


def test_where_every_year_is_known_that_is_not_said() -> None:
    found = measure_coverage([862, 11], [], TITLES)
    assert found.share == 0
    assert found.describe()[1] == "by decade: 1970s 0 of 1, 1990s 0 of 1"


def test_the_films_of_ml_latest_small_have_years(movielens_archives: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(movielens_archives / "ml-latest-small.zip") as archive:
        archive.extract("ml-latest-small/movies.csv", tmp_path)
    titles = read_titles(tmp_path / "ml-latest-small" / "movies.csv")
    found = measure_coverage(titles, titles, titles)
    assert sum(films for _, films in found.decades.values()) > 0.998 * len(titles)
    assert min(found.decades) == 1900
    assert max(found.decades) == 2010

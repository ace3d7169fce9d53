"""The right films: the committed id table against the real archives."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from ml.collaborative.datasets.film_ids import (
    choose_tmdb_ids,
    map_ml_100k_items,
    map_movielens_ids,
    read_id_table,
)

# Items whose titles in u.item and movies.csv differ, and why it is the same film all the same.
SAME_FILM = {
    50: "Star Wars, retitled Episode IV",
    84: "author's name in the title",
    169: "Wallace & Gromit in the title",
    172: "Star Wars, retitled Episode V",
    181: "Star Wars, retitled Episode VI",
    189: "Wallace & Gromit in the title; released 1989, in the USA 1992",
    228: "Star Trek II without its number",
    314: "At for On Mega Mountain",
    408: "Wallace & Gromit in the title",
    424: "Children of the Corn IV without its number",
    455: "Police Story 4: First Strike, sold with Jackie Chan's name",
    510: "u.item has the remake's title and the original's year: Seven Samurai (1954)",
    559: "without its subtitle",
    912: "misspelt Marshalls",
    1118: "Cheech and Chong's Up in Smoke, without their names",
    1304: "made 1993, in the USA 1996",
    1367: "Jan Svankmajer's Faust, also Lesson Faust",
    1410: "working title of Sugar Hill",
    1497: "without The ... Story",
    1586: "Cantonese title of Hard-Boiled",
    1592: "working title of Twilight (1998)",
}
ARTICLES = r"the|a|an|and|il|la|le|les|das|der|die|el|los|las|un|une|o"


def names_and_year(title: str) -> tuple[set[str], int]:
    """All names in a title, without case, accents, articles and signs; and its year."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    year = re.search(r"\((\d{4})\)", plain)
    body = re.sub(r"\(\d{4}\)|a\.k\.a\.", "", plain)
    names = [re.sub(r"\(.*?\)", "", body), *re.findall(r"\((.*?)\)", body)]
    words = (re.sub(rf"\b({ARTICLES})\b|[^a-z0-9]", "", name) for name in names)
    return {word for word in words if word}, int(year[1]) if year else 0


def are_same(title: str, other: str) -> bool:
    """Whether the titles share a name, and their years differ by one at the most."""
    (names, year), (other_names, other_year) = names_and_year(title), names_and_year(other)
    return bool(names & other_names) and abs(year - other_year) <= 1


def member(folder: Path, archive: str, name: str, encoding: str) -> io.StringIO:
    with zipfile.ZipFile(folder / f"{archive}.zip") as zipped:
        return io.StringIO(zipped.read(f"{archive}/{name}").decode(encoding))


@pytest.fixture(scope="module")
def links(movielens_archives: Path) -> pd.Series[int]:
    """TMDB id by movieId, from the real links.csv."""
    table = pd.read_csv(
        member(movielens_archives, "ml-latest-small", "links.csv", "utf-8"), dtype="Int64"
    )
    return table.set_index("movieId")["tmdbId"]


@pytest.fixture(scope="module")
def items(movielens_archives: Path) -> dict[int, str]:
    """Title by ML-100K item_id, from the real u.item."""
    lines = member(movielens_archives, "ml-100k", "u.item", "latin-1")
    return {int(row[0]): row[1] for row in csv.reader(lines, delimiter="|", quoting=csv.QUOTE_NONE)}


@pytest.fixture(scope="module")
def movies(movielens_archives: Path) -> dict[int, str]:
    """Title by movieId, from the real movies.csv."""
    lines = member(movielens_archives, "ml-latest-small", "movies.csv", "utf-8")
    return {int(row["movieId"]): row["title"] for row in csv.DictReader(lines)}


def test_every_item_leads_to_the_film_of_its_title(
    items: dict[int, str], movies: dict[int, str]
) -> None:
    bridge = read_id_table()["movie_id"].dropna()
    checked = {item: movie for item, movie in bridge.items() if movie in movies}
    different = {
        item for item, movie in checked.items() if not are_same(items[item], movies[movie])
    }
    assert len(checked) == 1355
    assert different == set(SAME_FILM)


def test_the_audit_catches_a_table_that_is_one_off(
    items: dict[int, str], movies: dict[int, str]
) -> None:
    shifted = read_id_table()["movie_id"].shift(1).dropna()
    checked = [(items[i], movies[m]) for i, m in shifted.items() if m in movies]
    assert sum(are_same(*titles) for titles in checked) < 0.02 * len(checked)


def test_no_two_different_films_are_on_one_id(items: dict[int, str]) -> None:
    ids = read_id_table()["table_tmdb_id"].dropna()
    groups = [group.index.tolist() for _, group in ids.groupby(ids) if len(group) > 1]
    assert len(groups) == 20
    different = [g for g in groups if not are_same(items[g[0]], items[g[1]])]
    assert different == [[911, 1592]]  # Twilight (1998) under its working title too: SAME_FILM


def test_the_table_has_every_item_once_and_maps_1665() -> None:
    table = read_id_table()
    assert table.index.tolist() == list(range(1, 1683))
    assert table["table_tmdb_id"].notna().sum() == 1665
    assert table["table_tmdb_id"].nunique() == 1645


def test_films_that_are_easily_got_wrong_are_right(links: pd.Series[int]) -> None:
    films = map_ml_100k_items(links)
    known = {50: 11, 283: 3573, 296: 24183, 346: 184, 510: 346, 1: 862, 2: 710, 422: 11238}
    assert films["tmdb_id"].loc[list(known)].to_dict() == known
    assert pd.isna(films.at[267, "tmdb_id"])  # "unknown" is no film
    assert films["tmdb_id"].notna().sum() == 1665
    assert films["source"].value_counts().to_dict() == {"links": 1354, "table": 323, "override": 5}


def test_joining_item_ids_on_movie_ids_would_be_wrong_nearly_everywhere(
    movielens_archives: Path, links: pd.Series[int]
) -> None:
    """The naive join must never come back: it looks healthy and hits another film."""
    films = map_ml_100k_items(links)
    naive = films.index.to_series().map(links)
    lines = member(movielens_archives, "ml-100k", "u.data", "latin-1")
    ratings = pd.read_csv(lines, sep="\t", names=["user", "item", "rating", "time"])
    joined = ratings["item"].map(naive)
    right = joined.eq(ratings["item"].map(films["tmdb_id"]))
    assert joined.notna().sum() > 80_000
    assert right.sum() == 461
    assert films["tmdb_id"].eq(naive).sum() == 3


def test_links_that_are_wrong_are_mended_for_every_movielens_set(links: pd.Series[int]) -> None:
    films = map_movielens_ids(links)
    assert links[1533] == 105045
    assert films.loc[1533].to_dict() == {"tmdb_id": 24183, "source": "override"}
    changed = films["tmdb_id"].ne(links) & films["tmdb_id"].notna()
    assert changed.sum() == 1  # the others are links.csv's own


def test_a_wrong_link_whose_right_id_is_unknown_is_not_mapped() -> None:
    films = map_movielens_ids(pd.Series([132641, 862], index=[864, 1], dtype="Int64"))
    assert films["tmdb_id"].isna().tolist() == [True, False]
    assert films["source"].tolist() == ["override", "links"]


@pytest.mark.parametrize(
    ("override", "links_id", "table_id", "chosen", "source"),
    [
        (True, 5, 7, 7, "override"),
        (True, 5, None, None, "override"),
        (False, 5, 7, 5, "links"),
        (False, 5, None, 5, "links"),
        (False, None, 7, 7, "table"),
        (False, None, None, None, "table"),
    ],
)
def test_the_tables_overrides_come_first_then_links_then_the_table(
    override: bool, links_id: int | None, table_id: int | None, chosen: int | None, source: str
) -> None:
    films = pd.DataFrame(
        {
            "override": [override],
            "links_tmdb_id": pd.array([links_id], dtype="Int64"),
            "table_tmdb_id": pd.array([table_id], dtype="Int64"),
        }
    )
    result = choose_tmdb_ids(films)
    assert result["tmdb_id"].astype(object).where(result["tmdb_id"].notna(), None).tolist() == [
        chosen
    ]
    assert result["source"].tolist() == [source]

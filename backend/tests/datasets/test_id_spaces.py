"""Catalogs of another number space are found, and catalogs of TMDB ids are left in peace."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ml.collaborative.datasets.id_spaces import check_id_space, guess_id_space, read_link_ids
from ml.collaborative.errors import InputError

Links = dict[str, np.ndarray]
COLUMNS = {"tmdb": "tmdbId", "movielens": "movieId", "imdb": "imdbId"}
RNG = np.random.default_rng(0)
NEW = RNG.choice(np.arange(600_000, 1_500_000), 500, replace=False)
"""TMDB ids of films that are newer than any of ml-latest-small."""


@pytest.fixture(scope="module")
def links(movielens_archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Links:
    folder = tmp_path_factory.mktemp("links")
    with zipfile.ZipFile(movielens_archives / "ml-latest-small.zip") as archive:
        archive.extract("ml-latest-small/links.csv", folder)
    return read_link_ids(folder / "ml-latest-small" / "links.csv")


@pytest.mark.parametrize("size", [50, 200, 2000])
@pytest.mark.parametrize("space", COLUMNS)
def test_films_are_known_by_the_numbers_of_their_space(links: Links, space: str, size: int) -> None:
    for seed in range(50):
        ids = np.random.default_rng(seed).choice(links[COLUMNS[space]], size, replace=False)
        assert guess_id_space(ids, links) == space


@pytest.mark.parametrize("size", [50, 100, 500])
def test_low_numbers_which_are_ids_in_every_space_are_told_apart(links: Links, size: int) -> None:
    assert guess_id_space(np.sort(links["tmdbId"])[:size], links) == "tmdb"
    assert guess_id_space(np.sort(links["movieId"])[:size], links) == "movielens"


@pytest.mark.parametrize("known", [0, 1, 5, 60])
def test_a_catalog_of_new_films_is_tmdbs(links: Links, known: int) -> None:
    assert guess_id_space([*NEW, *links["tmdbId"][-known:]] if known else NEW, links) == "tmdb"


def test_movie_ids_are_found_among_many_that_the_links_have_not(links: Links) -> None:
    """As in a catalog of a larger set than that of the links."""
    few = {name: column[::6] for name, column in links.items()}
    for space, name in COLUMNS.items():
        assert guess_id_space(links[name], few) == space


@pytest.mark.parametrize("size", [50, 260, 10_000])
@pytest.mark.parametrize("first", [0, 1])
def test_positions_are_found(links: Links, first: int, size: int) -> None:
    ids = RNG.permutation(np.arange(first, first + size))
    assert guess_id_space(ids, links) == "positions"


def test_of_a_handful_of_films_nothing_is_said(links: Links) -> None:
    assert guess_id_space([], links) == "tmdb"
    assert guess_id_space(links["movieId"][:10], links) == "tmdb"
    assert guess_id_space(range(1, 11), links) == "tmdb"


def test_without_links_only_positions_are_found() -> None:
    nothing = {name: np.empty(0, dtype=np.int64) for name in COLUMNS.values()}
    assert guess_id_space(NEW, nothing) == "tmdb"
    assert guess_id_space(range(50), nothing) == "positions"


def test_the_error_says_what_the_numbers_look_like_and_where_the_right_ones_are(
    links: Links,
) -> None:
    check_id_space(links["tmdbId"], links, "ids.pkl")
    for ids, said in (
        (links["movieId"][:300], "look like MovieLens movieIds, not TMDB ids: links.csv has the "),
        (links["imdbId"][:300], "look like IMDb numbers, not TMDB ids: links.csv has the TMDB id"),
        (range(300), "look like positions in a list, not TMDB ids: dump the films' TMDB ids"),
    ):
        with pytest.raises(InputError) as refused:
            check_id_space(ids, links, "ids.pkl")
        assert str(refused.value).startswith(f"ids.pkl holds 300 numbers that {said}")

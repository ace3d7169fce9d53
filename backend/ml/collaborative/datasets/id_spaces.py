"""Which numbers a catalog's ids are: TMDB's, MovieLens's, IMDb's, or places in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from .movielens_files import read_all_links

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

IdSpace = Literal["tmdb", "movielens", "imdb", "positions"]

TITLES: dict[IdSpace, str] = {
    "movielens": "MovieLens movieIds",
    "imdb": "IMDb numbers",
    "positions": "positions in a list",
}
"""What people call the spaces that a catalog must not be in."""
_COLUMNS: dict[IdSpace, str] = {"tmdb": "tmdbId", "movielens": "movieId", "imdb": "imdbId"}
MIN_FILMS = 20
"""Ids of another space below which nothing is said."""
NEARLY_ALL, CLEARLY_FEWER = 0.95, 0.8
"""Shares of the ids: so many in another space, at most so many in TMDB's. Low numbers are ids in
every space: of real catalogs' lowest ids 0.9 and more are TMDB's, of lists of movieIds 0.75."""
RATIO = 2.0
"""How many times more of the ids are in another space than in TMDB's, where some are in neither."""
MIN_DEVIATIONS = 5.0
"""How far beyond chance they then are, in standard deviations."""
NEAR = 1.1
"""Chance is the share of numbers that are ids, from a number over this to that number times it."""


def guess_id_space(ids: Collection[int], links: Mapping[str, ArrayLike]) -> IdSpace:
    """Return which numbers the ids of a catalog or of rated films look like.

    TMDB's, unless much says otherwise: the numbers from 0 or 1 on are positions; and another space
    it is where at least `MIN_FILMS` of the ids are in it, and these are either nearly all while
    clearly fewer are TMDB ids that MovieLens knows, or `RATIO` times as many as those and far more
    than of numbers of that size by chance. So a catalog of films that MovieLens has not is TMDB's.

    Args:
        ids: whole numbers.
        links: arrays movieId, imdbId and tmdbId of links.csv; numbers below 1 do not count.
    """
    import numpy as np

    numbers = np.unique(np.fromiter(ids, dtype=np.int64, count=len(ids)))
    if len(numbers) < MIN_FILMS:
        return "tmdb"
    if numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1:
        return "positions"
    spaces = {space: np.unique(np.asarray(links[column])) for space, column in _COLUMNS.items()}
    found = {space: int(np.isin(numbers, known).sum()) for space, known in spaces.items()}
    other: IdSpace = "movielens" if found["movielens"] >= found["imdb"] else "imdb"
    in_other, in_tmdb = found[other], found["tmdb"]
    if in_other < MIN_FILMS:
        return "tmdb"
    if in_other >= NEARLY_ALL * len(numbers) and in_tmdb <= CLEARLY_FEWER * len(numbers):
        return other
    chance = _share_near(numbers, spaces[other])
    deviations = (in_other - chance.sum()) / np.sqrt(1 + np.sum(chance * (1 - chance)))
    return other if in_other >= RATIO * in_tmdb and deviations >= MIN_DEVIATIONS else "tmdb"


def check_id_space(ids: Collection[int], links: Mapping[str, ArrayLike], whose: str) -> None:
    """Raise InputError where ids look like those of another space than TMDB's.

    Args:
        ids: see `guess_id_space`.
        links: see `guess_id_space`.
        whose: what has the ids, the beginning of the error: "ml/models/movie_ids.pkl".
    """
    space = guess_id_space(ids, links)
    if space == "tmdb":
        return
    raise InputError(
        f"{whose} holds {len(ids):,} numbers that look like {TITLES[space]}, not TMDB ids: "
        + (
            "dump the films' TMDB ids"
            if space == "positions"
            else f"links.csv has the TMDB id of each {_COLUMNS[space]}"
        )
    )


def read_link_ids(path: Path) -> dict[str, NDArray[np.int64]]:
    """Return the arrays movieId, imdbId and tmdbId of links.csv, of the films that have all three.

    Raises:
        InputError: the file has something else in it.
    """
    table = read_all_links(path)
    return {column: table[column].to_numpy() for column in _COLUMNS.values()}


def _share_near(numbers: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return which share of the numbers about as large as each are ids of a space, (n,)."""
    import numpy as np

    low, high = np.floor(numbers / NEAR), np.ceil(numbers * NEAR)
    counts = np.searchsorted(known, high, side="right") - np.searchsorted(known, low, side="left")
    share: NDArray[np.float64] = counts / (high - low + 1)
    return share

"""Which TMDB id each MovieLens film has: links.csv, and a table for what it gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ID_TABLE = Path(__file__).with_name("ml100k_ids.csv")
"""ML-100K item_id -> MovieLens movieId -> TMDB id; both sides are frozen, so it is data."""


def choose_tmdb_ids(films: pd.DataFrame) -> pd.DataFrame:
    """The right TMDB id of each film, and where it is from.

    The table's, where its row is an override (links.csv is wrong or blank there); else links.csv's;
    else the table's.

    Args:
        films: columns override (bool), links_tmdb_id and table_tmdb_id (Int64, may be blank).

    Returns:
        Columns tmdb_id (Int64, blank where there is none) and source ("override", "links" or
        "table"), with the index of `films`.
    """
    import pandas as pd

    links = films["links_tmdb_id"].mask(films["override"])
    source = pd.Series("table", index=films.index, dtype="str")
    source = source.mask(links.notna(), "links").mask(films["override"], "override")
    return pd.DataFrame({"tmdb_id": links.fillna(films["table_tmdb_id"]), "source": source})


def read_id_table() -> pd.DataFrame:
    """The committed table: item_id (index), movie_id, table_tmdb_id (Int64), override (bool)."""
    import pandas as pd

    table = pd.read_csv(
        ID_TABLE,
        index_col="item_id",
        usecols=["item_id", "movie_id", "tmdb_id", "override"],
        dtype={"item_id": "int64", "movie_id": "Int64", "tmdb_id": "Int64", "override": "int8"},
    )
    table["override"] = table["override"] == 1
    return table.rename(columns={"tmdb_id": "table_tmdb_id"})


def map_ml_100k_items(links: pd.Series) -> pd.DataFrame:
    """TMDB id and source of every ML-100K item, by item_id.

    ML-100K numbers its films in its own way; the id table is the bridge to the ids of links.csv.

    Args:
        links: TMDB id (Int64) by MovieLens movieId.
    """
    table = read_id_table()
    return choose_tmdb_ids(table.assign(links_tmdb_id=table["movie_id"].map(links).astype("Int64")))


def map_movielens_ids(links: pd.Series) -> pd.DataFrame:
    """TMDB id and source of every film of links.csv, by movieId; its known errors are mended."""
    table = read_id_table().dropna(subset="movie_id").drop_duplicates("movie_id")
    known = table.set_index("movie_id").reindex(links.index)
    known["override"] = known["override"].eq(other=True)
    return choose_tmdb_ids(known.assign(links_tmdb_id=links))

"""Find the TMDB id of each MovieLens film: by links.csv, and by a table that corrects it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..files import refuse_lfs_pointer

ID_TABLE = Path(__file__).with_name("ml100k_ids.csv")
"""ML-100K item_id -> MovieLens movieId -> TMDB id. Both sides never change, so it is data."""


def choose_tmdb_ids(films: pd.DataFrame) -> pd.DataFrame:
    """Return the right TMDB id of each film, and where it is from.

    It is the table's if the row is an override, because links.csv is wrong or blank there; else the
    one of links.csv; else the table's.

    Args:
        films: columns override (bool), links_tmdb_id and table_tmdb_id (Int64, may be blank).

    Returns:
        Columns tmdb_id (Int64, blank if there is none) and source ("override", "links" or
        "table"), with the index of `films`.
    """
    links = films["links_tmdb_id"].mask(films["override"])
    source = pd.Series("table", index=films.index, dtype="str")
    source = source.mask(links.notna(), "links").mask(films["override"], "override")
    return pd.DataFrame({"tmdb_id": links.fillna(films["table_tmdb_id"]), "source": source})


def read_id_table() -> pd.DataFrame:
    """Return the table: item_id (index), movie_id, table_tmdb_id (Int64), override (bool)."""
    refuse_lfs_pointer(ID_TABLE)  # as in an app that keeps its CSV files in Git LFS
    table = pd.read_csv(
        ID_TABLE,
        index_col="item_id",
        usecols=["item_id", "movie_id", "tmdb_id", "override"],
        dtype={"item_id": "int64", "movie_id": "Int64", "tmdb_id": "Int64", "override": "int8"},
    )
    table["override"] = table["override"] == 1
    return table.rename(columns={"tmdb_id": "table_tmdb_id"})


def map_ml_100k_items(links: pd.Series) -> pd.DataFrame:
    """Return TMDB id and source of every ML-100K item, by item_id; see `choose_tmdb_ids`.

    ML-100K numbers its films in its own way; the id table maps them to the ids of links.csv.

    Args:
        links: TMDB id (Int64) by MovieLens movieId.
    """
    table = read_id_table()
    return choose_tmdb_ids(table.assign(links_tmdb_id=table["movie_id"].map(links).astype("Int64")))


def map_movielens_ids(links: pd.Series) -> pd.DataFrame:
    """Return TMDB id and source of every film of links.csv, by movieId, with its errors fixed."""
    table = read_id_table().dropna(subset="movie_id").drop_duplicates("movie_id")
    known = table.set_index("movie_id").reindex(links.index)
    known["override"] = known["override"].eq(other=True)
    return choose_tmdb_ids(known.assign(links_tmdb_id=links))

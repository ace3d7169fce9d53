"""Ratings of a MovieLens set under TMDB ids, kept to the films of a catalog."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import sample
from .archives import ensure_files
from .datasets import DATASETS, LICENCE
from .errors import InputError
from .files import locked, replace_together
from .film_ids import map_ml_100k_items, map_movielens_ids
from .ratings import NOT_APP_PREFIX, check_bounds, make_ratings

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd

logger = logging.getLogger("ml.movielens")

DEFAULT_DATASET = "ml-100k"
DEFAULT_DATA_DIR = Path(__file__).parent / "data"
NAMES = (*DATASETS, "sample")
LOOKUP = "ml-100k-tmdb.csv"
LITTLE = 0.5
"""Share of the catalog with ratings below which a newer set is recommended."""


@dataclass(frozen=True)
class MappedRatings:
    """Ratings of one set under TMDB ids, and what became of the others."""

    dataset: str
    ratings: pd.DataFrame
    """See `ratings.COLUMNS`; no user rates a film twice."""
    loaded: int
    """Ratings in the set."""
    mapped: int
    """Those whose film has a TMDB id."""
    in_catalog: int
    """Those of them whose film is in the catalog, second ratings of a film included."""
    catalog: frozenset[int] | None
    """None: every film that has a TMDB id."""

    def describe(self) -> list[str]:
        """What a person wants to know of it, a line each."""
        table = self.ratings
        second = self.in_catalog - len(table)
        lines = [
            f"Loaded {self.loaded:,} ratings, mapped {self.mapped:,} to TMDB, "
            f"{self.in_catalog:,} in catalog",
            f"Kept {len(table):,} ({second:,} left out: the same user rated the film again)",
        ]
        if self.dataset == "sample":
            lines.insert(0, f"This is a {sample.NOTICE}")
        if len(table):
            lines.append(
                f"{table['user_id'].nunique():,} users, {table['movie_id'].nunique():,} films, "
                f"ratings from {table['rating'].min():g} to {table['rating'].max():g}"
            )
        if self.catalog is not None:
            lines.append(describe_coverage(table, self.catalog, self.dataset))
        return lines


def describe_coverage(ratings: pd.DataFrame, catalog: Collection[int], dataset: str) -> str:
    """How much of the catalog has ratings, and what to do where that is little."""
    covered = len(set(ratings["movie_id"].unique()) & set(catalog))
    share = covered / len(catalog)
    line = f"{covered:,} of the catalog's {len(catalog):,} films have ratings ({share:.1%})"
    if share < LITTLE and dataset in ("ml-100k", "ml-latest-small"):
        line += "; a newer set covers newer films: --dataset ml-32m"
    return line


def fetch(dataset: str, data_dir: Path, *, force: bool = False) -> None:
    """Have the files of `dataset` in `data_dir`, verified; say the licence where any came.

    Raises:
        InputError, SourceError: see `archives.ensure_files`.
    """
    from config import settings

    if ensure_files(DATASETS[dataset], data_dir, settings.movielens_base_url, force=force):
        logger.info(LICENCE)


def load(
    dataset: str, data_dir: Path, catalog: frozenset[int] | None, *, force: bool = False
) -> MappedRatings:
    """Fetch `dataset` where need be, map its films to TMDB, keep those in `catalog`.

    Args:
        dataset: one of `NAMES`.
        data_dir: where the files are or go.
        catalog: TMDB ids to keep; None keeps all.
        force: fetch the files again.

    Raises:
        InputError, SourceError: see `archives.ensure_files`; or a file's content is no ratings.
    """
    if dataset == "sample":
        mapped = sample.sample_ratings()
        loaded = len(mapped)
    else:
        fetch(dataset, data_dir, force=force)
        table = (
            _read_ml_100k(data_dir) if dataset == "ml-100k" else _read_csv_set(dataset, data_dir)
        )
        loaded = len(table)
        mapped = table[table["movie_id"].notna()]
    kept = mapped if catalog is None else mapped[mapped["movie_id"].isin(catalog)]
    in_catalog = len(kept)
    if "timestamp" in kept:
        kept = _keep_latest(kept)
    if not in_catalog:
        logger.warning("none of the films that have ratings is in the catalog")
    ratings = make_ratings(kept["user_id"], kept["movie_id"].astype("int64"), kept["rating"])
    return MappedRatings(dataset, ratings, loaded, len(mapped), in_catalog, catalog)


def _keep_latest(table: pd.DataFrame) -> pd.DataFrame:
    """Of a user's ratings of one film the latest; of equal times the one further down the file."""
    in_time = table.sort_values("timestamp", kind="stable")
    return in_time.drop_duplicates(["user_id", "movie_id"], keep="last").sort_index()


def _read_ml_100k(data_dir: Path) -> pd.DataFrame:
    """ML-100K with movie_id under TMDB (Int64, blank where there is none); writes the look-up."""
    table = _read_csv(
        data_dir / "ml-100k" / "u.data",
        {"item_id": "int64", "user_id": "int64", "rating": "float64", "timestamp": "int64"},
        sep="\t",
        names=["user_id", "item_id", "rating", "timestamp"],
    )
    links = data_dir / "links.csv"
    films = map_ml_100k_items(_read_links(links) if links.is_file() else _no_links())
    _write_lookup(films, data_dir)
    return _ratings_table(table, table["item_id"].map(films["tmdb_id"]))


def _read_csv_set(dataset: str, data_dir: Path) -> pd.DataFrame:
    """A set whose ratings.csv and links.csv share one id space; columns as `_read_ml_100k`."""
    folder = data_dir / dataset
    table = _read_csv(
        folder / "ratings.csv",
        {"userId": "int64", "movieId": "int64", "rating": "float64", "timestamp": "int64"},
    ).rename(columns={"userId": "user_id"})
    films = map_movielens_ids(_read_links(folder / "links.csv"))
    return _ratings_table(table, table["movieId"].map(films["tmdb_id"]))


def _ratings_table(table: pd.DataFrame, tmdb_ids: pd.Series) -> pd.DataFrame:
    import pandas as pd

    check_bounds(table["rating"])
    return pd.DataFrame(
        {
            "user_id": NOT_APP_PREFIX + table["user_id"].astype("str"),
            "movie_id": tmdb_ids.astype("Int64"),
            "rating": table["rating"],
            "timestamp": table["timestamp"],
        }
    )


def _read_links(path: Path) -> pd.Series:
    """TMDB id (Int64, blank where links.csv has none) by movieId."""
    table = _read_csv(path, {"movieId": "int64", "tmdbId": "Int64"})
    return table.drop_duplicates("movieId").set_index("movieId")["tmdbId"]


def _no_links() -> pd.Series:
    """Links of no film: the id table alone decides."""
    import pandas as pd

    return pd.Series(dtype="Int64", index=pd.Index([], dtype="int64"))


def _read_csv(path: Path, dtypes: dict[str, str], **options: object) -> pd.DataFrame:
    """Read the columns of `dtypes`; a file that does not have them so is an input error."""
    import pandas as pd

    try:
        return pd.read_csv(path, usecols=list(dtypes), dtype=dtypes, **options)  # type: ignore[call-overload,no-any-return]
    except (ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not what it should be: {reason}") from None


def _write_lookup(films: pd.DataFrame, data_dir: Path) -> None:
    """`ml-100k-tmdb.csv`: what became of each film of ML-100K, for people to look up."""
    titles = read_ml_100k_titles(data_dir)
    lookup = films.assign(title=films.index.map(titles))[["title", "tmdb_id", "source"]]
    content = lookup.to_csv(lineterminator="\n").encode()
    path = data_dir / LOOKUP
    if path.is_file() and path.read_bytes() == content:
        return
    try:
        with locked(data_dir), replace_together(path) as (file,):
            file.write(content)
    except OSError as error:  # only for people to look at
        logger.warning("%s could not be written: %s", path, error.strerror)


def read_ml_100k_titles(data_dir: Path) -> dict[int, str]:
    """Title by item_id, from u.item (Latin-1)."""
    with (data_dir / "ml-100k" / "u.item").open(encoding="latin-1") as lines:
        return {int(line.split("|")[0]): line.split("|")[1] for line in lines}

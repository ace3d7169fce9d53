"""Ratings of a MovieLens set under TMDB ids, kept to the films of a catalog."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..coverage import measure_coverage
from ..errors import InputError
from ..files import locked, replace_together
from ..progress import progress_bar
from ..ratings import (
    NO_TMDB_ID,
    NOT_APP_PREFIX,
    NOT_IN_CATALOG,
    RATED_AGAIN,
    SAMPLE_NOTICE,
    MappedRatings,
    check_ratings,
    make_ratings,
    make_source,
    sources_of,
    with_sources,
)
from ..settings import read_settings
from . import movielens_files, sample
from .archives import ensure_files
from .film_ids import map_ml_100k_items, map_movielens_ids
from .movielens_files import (
    CSV_COLUMNS,
    NO_LINKS,
    read_links,
    read_ml_100k_ratings,
    read_ml_100k_titles,
    read_ratings,
)
from .registry import DATASETS, LICENCE, ML_100K_SPLITS, parse_datasets
from .several import combine_sets

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

LOOKUP = "ml-100k-tmdb.csv"


def describe(table: pd.DataFrame, catalog: frozenset[int] | None) -> list[str]:
    """Return lines for people: how many ratings there are, and what became of the others.

    Args:
        table: the ratings that `load` returns, with their source.
        catalog: the films that were kept; None stands for all.
    """
    sources = sources_of(table)
    lines = []
    for source in sources:
        second = source.dropped.get(RATED_AGAIN, 0)
        mapped = source.rows - source.dropped.get(NO_TMDB_ID, 0)
        in_catalog = mapped - source.dropped.get(NOT_IN_CATALOG, 0)
        name = f"{source.name}: " if len(sources) > 1 else ""
        lines += [
            f"{name}Loaded {source.rows:,} ratings, mapped {mapped:,} to TMDB, "
            f"{in_catalog:,} in catalog",
            f"{name}Kept {source.kept:,} ({second:,} left out: the same user rated the film again)",
        ]
        if source.name == "sample":
            lines.insert(0, f"This is a {SAMPLE_NOTICE}")
    if len(table):
        low, high = table["rating"].min(), table["rating"].max()
        lines.append(
            f"{table['user_id'].nunique():,} users, {table['movie_id'].nunique():,} films, "
            f"ratings from {low:g} to {high:g}"
        )
    if catalog is not None:
        rated = table["movie_id"].unique().tolist()
        lines += measure_coverage(catalog, rated, {}).describe()
    return lines


def fetch(dataset: str, data_dir: Path, *, force: bool = False) -> None:
    """Make sure that `data_dir` has the files of a set; after a download, log the licence.

    Raises:
        InputError, SourceError: see `archives.ensure_files`.
    """
    if ensure_files(DATASETS[dataset], data_dir, read_settings().movielens_base_url, force=force):
        logger.info(LICENCE)


def load(dataset: str, data_dir: Path, catalog: frozenset[int] | None) -> MappedRatings:
    """Return the ratings of a set or several under TMDB ids, kept to the films of `catalog`.

    Args:
        dataset: one of `registry.NAMES`, or several with commas between, see `combine_sets`.
        data_dir: folder of the files; missing files are fetched into it.
        catalog: TMDB ids to keep; None keeps all.

    Raises:
        InputError, SourceError: see `archives.ensure_files`.
        InputError: a file has other content than expected.
    """
    names = parse_datasets(dataset)
    if len(names) > 1:
        return combine_sets([load(name, data_dir, catalog) for name in names])
    if dataset == "sample":
        table = sample.sample_ratings()
        kept = table if catalog is None else table[table["movie_id"].isin(catalog)]
        ids = pd.Series(sample.film_titles()).index.to_series().astype("Int64")
        mapped = MappedRatings(
            dataset, check_ratings(kept), len(table), len(table), len(kept), catalog, ids
        )
    else:
        fetch(dataset, data_dir)
        mapped = _map_films(dataset, *_read(dataset, data_dir), catalog)
    source = make_source(dataset, mapped.loaded, mapped.dropped(), mapped.ratings)
    mapped = replace(mapped, ratings=with_sources(mapped.ratings, source))
    if not mapped.in_catalog:
        logger.warning("none of the films that have ratings is in the catalog")
    return mapped


def links_path(dataset: str, data_dir: Path) -> Path:
    """Return where the links.csv of a set is, or of the first of several; it may be missing."""
    name = parse_datasets(dataset)[0]
    return data_dir / "links.csv" if name == "ml-100k" else data_dir / name / "links.csv"


def read_ml_100k_films(data_dir: Path) -> pd.DataFrame:
    """Return the TMDB id of each film of ML-100K, see `film_ids.map_ml_100k_items`.

    A links.csv that cannot be read is a warning: the id table has every film, too.
    """
    try:
        links = read_links(links_path("ml-100k", data_dir))
    except (InputError, OSError) as error:
        logger.warning("going on without links.csv, which is optional: %s", error)
        links = NO_LINKS
    return map_ml_100k_items(links)


def read_own_titles(dataset: str, data_dir: Path) -> dict[int, str]:
    """Return the title by the set's own film id; none, with a warning, if they cannot be read.

    The sample's own ids are TMDB ids.
    """
    if dataset == "sample":
        return sample.film_titles()
    path = data_dir / dataset / "movies.csv"
    if dataset != "ml-100k" and not path.is_file():
        logger.warning(
            "no titles: %s is missing; `python -m ml.download_movielens --force` fetches it", path
        )
        return {}
    try:
        if dataset == "ml-100k":
            return read_ml_100k_titles(data_dir / "ml-100k" / "u.item")
        return movielens_files.read_titles(path)
    except (OSError, InputError) as error:
        logger.warning("no titles of %s (%s)", dataset, error)
        return {}


def fetch_splits(data_dir: Path) -> None:
    """Make sure that `data_dir` has GroupLens's own splits of ML-100K; warn if they are missing."""
    ensure_files(ML_100K_SPLITS, data_dir, read_settings().movielens_base_url)


def _read(dataset: str, data_dir: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Return a set's ratings, see `movielens_files.read_ratings`, and TMDB id (Int64) by film."""
    if dataset == "ml-100k":
        ratings = read_ml_100k_ratings(data_dir / "ml-100k" / "u.data")
        films = read_ml_100k_films(data_dir)
        _write_lookup(films, data_dir)
    else:
        ratings = read_ratings(data_dir / dataset / "ratings.csv", CSV_COLUMNS)
        films = map_movielens_ids(read_links(links_path(dataset, data_dir)))
    return ratings, films["tmdb_id"]


def _map_films(
    dataset: str, table: pd.DataFrame, tmdb_ids: pd.Series, catalog: frozenset[int] | None
) -> MappedRatings:
    """Map films to TMDB ids; keep those in the catalog, and each user's latest rating of a film."""
    with progress_bar("mapping", " steps", 4) as bar:
        film_codes, films = pd.factorize(table["film"])
        bar.update()
        ids = tmdb_ids.reindex(films).fillna(0).to_numpy(np.int64)
        wanted = ids > 0
        mapped = int(np.count_nonzero(wanted[film_codes]))
        if catalog is not None:
            wanted &= np.isin(ids, list(catalog))
        keep = wanted[film_codes]
        in_catalog = int(np.count_nonzero(keep))
        loaded = len(table)
        table = table.assign(film=ids[film_codes])[keep]
        del film_codes, keep
        bar.update()
        user_codes, users = pd.factorize(table["user"])
        latest = _latest(user_codes, table["film"].to_numpy(), table["timestamp"].to_numpy())
        bar.update()
        names = pd.Index(NOT_APP_PREFIX + pd.Series(users).astype("str"))
        ratings = make_ratings(
            pd.Categorical.from_codes(user_codes[latest].astype(np.int32), names),
            table["film"].to_numpy()[latest],
            table["rating"].to_numpy()[latest],
        )
    times = table["timestamp"].to_numpy()[latest]
    return MappedRatings(dataset, ratings, loaded, mapped, in_catalog, catalog, tmdb_ids, times)


def _latest(
    users: NDArray[np.intp], films: NDArray[np.int64], times: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Return which rows to keep, boolean: of a user's ratings of one film the latest.

    Where times are equal, the last row counts as the latest.
    """
    film_codes, unique = pd.factorize(films)
    keys = users * np.int64(len(unique)) + film_codes
    in_order = np.sort(keys)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    stay = np.ones(len(keys), dtype=bool)
    rows = np.flatnonzero(pd.Series(keys).isin(repeated))
    several = pd.DataFrame({"key": keys[rows], "time": times[rows], "row": rows})
    last = several.sort_values("time", kind="stable").drop_duplicates("key", keep="last")["row"]
    stay[rows] = False
    stay[last] = True
    return stay


def _write_lookup(films: pd.DataFrame, data_dir: Path) -> None:
    """Write `ml-100k-tmdb.csv`: the TMDB id of each film of ML-100K, for people to look up."""
    titles = read_ml_100k_titles(data_dir / "ml-100k" / "u.item")
    lookup = films.assign(title=films.index.map(titles))[["title", "tmdb_id", "source"]]
    content = lookup.to_csv(lineterminator="\n").encode()
    path = data_dir / LOOKUP
    if path.is_file() and path.read_bytes() == content:
        return
    try:
        with locked(data_dir), replace_together(path) as (file,):
            file.write(content)
    except OSError as error:  # no build reads it
        logger.warning("%s could not be written: %s", path, error.strerror)


@dataclass(frozen=True)
class FilmNames:
    """Titles of a set's films."""

    titles: dict[int, str]
    """By TMDB id."""
    unmapped: list[str]
    """Of the films that have no TMDB id, sorted."""


def read_titles(dataset: str, data_dir: Path) -> dict[int, str]:
    """Return titles by TMDB id; none, with a warning, if their files cannot be read."""
    try:
        return name_films(dataset, data_dir).titles
    except (OSError, InputError) as error:
        logger.warning("no titles of %s (%s)", dataset, error)
        return {}


def name_films(dataset: str, data_dir: Path) -> FilmNames:
    """Return the titles of the films of a set or several; a set without a file of them has none."""
    names = parse_datasets(dataset)
    if len(names) > 1:
        found = [name_films(name, data_dir) for name in names]
        titles = {film: title for one in reversed(found) for film, title in one.titles.items()}
        return FilmNames(titles, sorted(title for one in found for title in one.unmapped))
    own = read_own_titles(dataset, data_dir)
    if dataset == "sample":
        return FilmNames(own, [])
    if dataset == "ml-100k":
        ids = read_ml_100k_films(data_dir)["tmdb_id"]
    else:
        ids = map_movielens_ids(read_links(links_path(dataset, data_dir)))["tmdb_id"]
    titles = {}
    mapped = ids.dropna()
    for film, tmdb_id in zip(mapped.index.tolist(), mapped.tolist(), strict=True):
        if film in own:
            titles.setdefault(tmdb_id, own[film])
    blank = ids.index[ids.isna()].tolist()
    return FilmNames(titles, sorted(own.get(film, str(film)) for film in blank))

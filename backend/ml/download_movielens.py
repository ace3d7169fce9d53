"""Fetch MovieLens, map its films to TMDB ids, keep those in the app's catalog.

Run it in `backend/`: python -m ml.download_movielens
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__" and not __package__:
    print("error: run by path: use python -m ml.download_movielens in backend/", file=sys.stderr)
    sys.exit(2)

from .collaborative.catalog import CatalogMissingError
from .collaborative.cli import DOWNLOAD_CODES, make_parser, print_lines, resolve_catalog, run
from .collaborative.datasets import movielens
from .collaborative.paths import DATA_DIR
from .collaborative.ratings import empty_ratings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import pandas as pd

logger = logging.getLogger("ml.collaborative.script")


def download_movielens_100k(data_dir: str | None = None) -> str:
    """Have ML-100K and links.csv in `data_dir` (default `ml/data`), verified.

    Returns:
        The folder that holds u.data and u.item.

    Raises:
        InputError, SourceError: see `archives.ensure_files`.
    """
    folder = Path(data_dir or DATA_DIR)
    movielens.fetch("ml-100k", folder)
    return str(folder / "ml-100k")


def load_movielens_ratings_with_tmdb_mapping(
    data_dir: str | None = None,
    *,
    dataset: str = movielens.DEFAULT_DATASET,
    catalog: str | Path | None = None,
) -> pd.DataFrame:
    """Ratings of a MovieLens set under TMDB ids, kept to the catalog; fetched where need be.

    Args:
        data_dir: default `ml/data`.
        dataset: one of `movielens.NAMES`.
        catalog: path of a joblib-dumped list of TMDB ids (default `ml/models/movie_ids.pkl`), or
            "all" for every film that has a TMDB id.

    Returns:
        Columns user_id (str, "ml_" + id, held as categories), movie_id (int64, TMDB) and rating
        (float64); no user rates a film twice. Empty, with a warning, where the catalog is missing.

    Raises:
        InputError, SourceError: see `movielens.load` and `catalog.read_catalog`.
    """
    try:
        films = resolve_catalog(catalog, dataset)
    except CatalogMissingError as error:
        logger.warning("%s", error)
        return empty_ratings()
    return movielens.load(dataset, Path(data_dir or DATA_DIR), films).ratings


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    parser = make_parser(
        "ml.download_movielens", "Fetch MovieLens and map its films to TMDB ids.", DOWNLOAD_CODES
    )
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    return run(_work, parser.parse_args(argv))


def _work(args: argparse.Namespace) -> None:
    catalog = resolve_catalog(args.catalog, args.dataset)
    mapped = movielens.load(args.dataset, args.data_dir, catalog, force=args.force)
    if not args.quiet:
        print_lines(mapped.describe())


if __name__ == "__main__":
    sys.exit(main())

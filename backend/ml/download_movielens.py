"""Fetch MovieLens, map its films to TMDB ids, keep those in the app's catalog.

Run it beside the folder `ml`: python -m ml.download_movielens
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:
        print("error: run it as a module: python -m ml.download_movielens", file=sys.stderr)
        sys.exit(2)
    from .collaborative import process

    process.begin()

from typing import TYPE_CHECKING

from .collaborative import catalog as catalogs
from .collaborative import cli, datasets
from .collaborative.paths import DATA_DIR, expand
from .collaborative.ratings import empty_ratings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd


def download_movielens_100k(data_dir: str | None = None, *, force: bool = False) -> str:
    """Fetch ML-100K and links.csv into `data_dir`, verified; what is there is not fetched again.

    Args:
        data_dir: default `ml/data`.
        force: fetch again what is there.

    Returns:
        The folder that holds u.data and u.item.

    Raises:
        InputError, SourceError: see `datasets.fetch` and `settings.read_settings`.
    """
    cli.use_file_mode()
    folder = expand(data_dir or DATA_DIR)
    datasets.fetch("ml-100k", folder, force=force)
    return str(folder / "ml-100k")


def load_movielens_ratings_with_tmdb_mapping(
    data_dir: str | None = None,
    *,
    dataset: str = datasets.DEFAULT_DATASET,
    catalog: str | Path | frozenset[int] | None = None,
) -> pd.DataFrame:
    """Load the ratings of a MovieLens set under TMDB ids, kept to the catalog.

    Args:
        data_dir: default `ml/data`; the set is fetched into it where it is not there.
        dataset: one of `datasets.NAMES`.
        catalog: TMDB ids; or the path of a joblib dump of them (default `ml/models/movie_ids.pkl`);
            or "all" for every film that has a TMDB id.

    Returns:
        Columns user_id (str, "ml_" + id, held as categories), movie_id (int64, TMDB) and rating
        (float64, 0.5 to 5); no user rates a film twice. `ratings.sources_of` tells what was left
        out. Empty, with a warning, where the catalog is missing.

    Raises:
        InputError, SourceError: see `datasets.load`, `catalog.read_catalog` and
            `settings.read_settings`.
    """
    cli.use_file_mode()
    try:
        films = catalogs.resolve_catalog(catalog, dataset)
    except catalogs.CatalogMissingError as error:
        cli.logger.warning("%s", error)
        return empty_ratings()
    return datasets.load(dataset, expand(data_dir or DATA_DIR), films).ratings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = cli.make_parser(
        "ml.download_movielens", "Fetch MovieLens and map its films to TMDB ids.", cli.SOURCE_CODES
    )
    cli.add_data_flags(parser)
    parser.add_argument("--force", action="store_true", help="fetch again what is there")
    cli.add_noise_flags(parser)
    return cli.run(_work, parser.parse_args(argv))


def _work(args: argparse.Namespace) -> None:
    cli.use_file_mode()
    films = catalogs.resolve_catalog(args.catalog, args.dataset)
    if args.force and args.dataset != "sample":
        datasets.fetch(args.dataset, args.data_dir, force=True)
    table = load_movielens_ratings_with_tmdb_mapping(
        args.data_dir, dataset=args.dataset, catalog=catalogs.ALL if films is None else films
    )
    if not args.quiet:
        cli.print_lines(datasets.describe(table, films))


if __name__ == "__main__":
    process.run(main)

"""The MovieLens sets and the generated sample: fetched, verified, and mapped to TMDB ids.

What needs pandas is imported when it is first used, so that the scripts' `--help` does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .registry import DEFAULT_DATASET, NAMES, SEPARATOR, parse_datasets

if TYPE_CHECKING:
    from .id_spaces import check_id_space, read_link_ids
    from .movielens import (
        FilmNames,
        describe,
        fetch,
        fetch_splits,
        links_path,
        load,
        name_films,
        read_ml_100k_films,
        read_titles,
    )
    from .movielens_files import read_ml_100k_ratings

__all__ = [
    "DEFAULT_DATASET",
    "NAMES",
    "SEPARATOR",
    "FilmNames",
    "check_id_space",
    "describe",
    "fetch",
    "fetch_splits",
    "links_path",
    "load",
    "name_films",
    "parse_datasets",
    "read_link_ids",
    "read_ml_100k_films",
    "read_ml_100k_ratings",
    "read_titles",
]

_MODULES = {"check_id_space": ".id_spaces", "read_link_ids": ".id_spaces"}


if not TYPE_CHECKING:  # or any name would pass the type checker

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES.get(name, ".movielens"), __name__), name)

"""The MovieLens sets and the generated sample: fetched, verified, and mapped to TMDB ids.

What needs pandas is imported when it is first used, so that the scripts' `--help` does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .registry import DEFAULT_DATASET, NAMES

if TYPE_CHECKING:
    from .movielens import (
        FilmNames,
        describe,
        fetch,
        fetch_splits,
        load,
        name_films,
        read_ml_100k_films,
    )
    from .movielens_files import read_ml_100k_ratings

__all__ = [
    "DEFAULT_DATASET",
    "NAMES",
    "FilmNames",
    "describe",
    "fetch",
    "fetch_splits",
    "load",
    "name_films",
    "read_ml_100k_films",
    "read_ml_100k_ratings",
]


if not TYPE_CHECKING:  # or any name would pass the type checker

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(".movielens", __name__), name)

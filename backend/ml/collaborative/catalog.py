"""The app's catalog: the TMDB ids that its content-based model knows."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .paths import CATALOG

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
"""In place of a path: every film that has a TMDB id."""
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\f\r")
"""Bytes that do not occur in text."""


class CatalogMissingError(InputError):
    """The catalog's file is missing."""


def resolve_catalog(
    catalog: str | Path | frozenset[int] | None, dataset: str
) -> frozenset[int] | None:
    """Return the TMDB ids of the catalog; None stands for every film.

    Args:
        catalog: the ids; the path of a dump of them; `ALL`; or None: the app's catalog, and for the
            generated sample every film.
        dataset: where the ratings are from.

    Raises:
        InputError: see `read_catalog`.
    """
    if isinstance(catalog, frozenset):
        return catalog
    if catalog is None:
        catalog = ALL if dataset == "sample" else CATALOG
    return None if str(catalog) == ALL else read_catalog(catalog)


def describe_coverage(table: pd.DataFrame, catalog: Collection[int]) -> str:
    """Return a line on how much of the catalog has ratings."""
    covered = len(set(table["movie_id"].unique()) & set(catalog))
    share = covered / len(catalog)
    return f"{covered:,} of the catalog's {len(catalog):,} films have ratings ({share:.1%})"


def read_catalog(path: str | Path) -> frozenset[int]:
    """Return the TMDB ids in the joblib dump at `path`, a sequence of integers.

    Loading a pickle runs code in it: read only the app's own file.

    Raises:
        CatalogMissingError: there is no such file.
        InputError: the file is not such a dump.
    """
    import joblib

    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a joblib-dumped list of TMDB ids")
    if not path.is_file():
        raise CatalogMissingError(
            f"no catalog at {path}: have the content-based model dump its TMDB ids there, "
            "name another file with --catalog PATH, or use every film with --catalog all"
        )
    try:
        found = joblib.load(path)
    except Exception as error:  # a broken pickle can raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(
            f"{path} is not a joblib dump{_what_instead(path, error)}: "
            'expected a list of TMDB ids, as joblib.dump(ids, "movie_ids.pkl") writes it'
        ) from None
    return _as_ids(found, path)


def _what_instead(path: Path, error: Exception) -> str:
    """Return what the file at `path` is, or why it did not load, if that helps a person."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start and _CONTROL.isdisjoint(start):
        return " but text, as CSV and JSON are"
    if isinstance(error, ImportError | AttributeError | ValueError):  # a missing package, say
        return f" that loads here ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    return ""  # the unpickler's own message on an invalid byte helps nobody


def _as_ids(found: object, path: Path) -> frozenset[int]:
    """Return `found` as a set; raise InputError if it is not a sequence of integers."""
    import numpy as np
    import pandas as pd

    if isinstance(found, np.ndarray | pd.Series | pd.Index):
        found = found.tolist()
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(
            f"{path} holds an object of type {type(found).__name__}: expected a list of TMDB ids"
        )
    if not found:
        raise InputError(f"{path} is empty: expected the TMDB ids of the app's films")
    for position, value in enumerate(found):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise InputError(
                f"{path} holds {value!r:.60} ({type(value).__name__}) at position {position}: "
                "expected TMDB ids as integers"
            )
    return frozenset(int(value) for value in found)

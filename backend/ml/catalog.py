"""The app's catalog: the TMDB ids that its content-based model knows."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

DEFAULT_CATALOG = Path(__file__).parent / "models" / "movie_ids.pkl"
ALL = "all"
"""Instead of a path: every film that has a TMDB id."""


class CatalogMissingError(InputError):
    """There is no catalog file."""


def read_catalog(path: str | Path) -> frozenset[int]:
    """The TMDB ids in the joblib dump at `path`, a sequence of integers.

    It is the app's own file: a pickle from elsewhere is code, and loading it runs that code.

    Raises:
        CatalogMissingError: no such file.
        InputError: the file cannot be read, or holds something else.
    """
    import joblib

    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a joblib-dumped list of TMDB ids")
    if not path.is_file():
        raise CatalogMissingError(
            f"no catalog at {path}: have the content-based model dump its TMDB ids there, "
            "name another with --catalog PATH, or take every film with --catalog all"
        )
    try:
        found = joblib.load(path)
    except Exception as error:  # a broken pickle can raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(
            f"{path} is not a joblib dump ({type(error).__name__}: {error!s:.80}): "
            "expected a list of TMDB ids, as joblib.dump writes it"
        ) from None
    return _as_ids(found, path)


def _as_ids(found: object, path: Path) -> frozenset[int]:
    """Check that `found` is a sequence of integers, and make it a set."""
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

"""The app's catalog: the TMDB ids that its content-based model knows."""

from __future__ import annotations

import bz2
import io
import logging
import lzma
import numbers
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from .errors import InputError, MlError
from .files import CHUNK, refuse_lfs_pointer
from .paths import CATALOG

logger = logging.getLogger(__name__)

ALL = "all"
"""In place of a path: every film that has a TMDB id."""
MAX_ID = 2**53
MAX_BYTES = 1 << 30
"""Of a compressed dump, unpacked: a data frame of a million films with their texts."""
_ZLIB, _BZ2, _XZ = (b"x", b"\x1f\x8b"), (b"BZ",), (b"\xfd7zXZ", b"]\x00")
_COMPRESSED = (*_ZLIB, *_BZ2, *_XZ, b"\x04\x22M\x18", b"ZF")
"""How what joblib unpacks begins; the last two are LZ4 and joblib's own, of before 2015."""
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\f\r")
"""Bytes that do not occur in text."""
_ID_COLUMNS = (("tmdbid",), ("movieid", "filmid", "id"))
"""Names of the id column of a data frame, without case and underscores; the first group wins."""


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


def read_catalog(path: str | Path) -> frozenset[int]:
    """Return the TMDB ids in the joblib dump at `path`, and log in one line how it was read.

    Loading a pickle runs code in it: read only the app's own file.

    Raises:
        CatalogMissingError: there is no such file.
        InputError: the file is not such a dump.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a joblib-dumped list of TMDB ids")
    if not path.is_file():
        raise CatalogMissingError(
            f"no catalog at {path}: have your app dump its TMDB ids there, "
            "name another file with --catalog PATH, or use every film with --catalog all"
        )
    try:
        found = _load(path)
    except MemoryError:
        raise MemoryError(
            f"to load {path} of {path.stat().st_size:,} bytes (where that is little, it is damaged)"
        ) from None
    except MlError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        refuse_lfs_pointer(path)
        raise InputError(
            f"{path} is not a joblib dump{_what_instead(_read_start(path), error)}: "
            'expected a list of TMDB ids, as joblib.dump(ids, "movie_ids.pkl") writes it'
        ) from None
    try:
        ids, line = as_ids(found)
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except RecursionError:
        raise InputError(f"{path} holds lists within lists: expected a list of TMDB ids") from None
    logger.info("catalog %s: %s", path, line)
    return ids


def _load(path: Path) -> Any:
    """Return what is in a joblib dump.

    joblib's own reader of gzip and zlib never ends where other bytes follow the compressed ones,
    and its readers have no limit of size.
    """
    import joblib

    if not _read_start(path).startswith((*_ZLIB, *_BZ2, *_XZ)):
        return joblib.load(path)
    content = bytearray()
    try:
        for chunk in _unpacked(path):
            content += chunk
            if len(content) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 20} MiB, unpacked")
    except EOFError:
        raise ValueError("its end is missing") from None
    if content.startswith(_COMPRESSED):
        raise ValueError("it is compressed twice")
    return joblib.load(io.BytesIO(content))


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield a compressed file's content; what follows it is not read. Cut, it is an EOFError."""
    start = _read_start(path)
    if not start.startswith(_ZLIB):
        with (bz2 if start.startswith(_BZ2) else lzma).open(path, "rb") as unpacked:
            while chunk := unpacked.read(CHUNK):
                yield chunk
        return
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of zlib or gzip
    with path.open("rb") as file:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or file.read(CHUNK)
            if not packed:
                raise EOFError
            yield unpacker.decompress(packed, CHUNK)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def _what_instead(start: bytes, error: Exception) -> str:
    """Return what a file is that begins so, or why it did not load, where that says something."""
    if start and _CONTROL.isdisjoint(start):
        return " but text, as CSV and JSON are"
    if isinstance(error, ImportError | AttributeError | ValueError):  # a missing package, say
        return f" that loads here ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    return ""  # the unpickler's own message on an invalid byte helps nobody


def as_ids(found: object) -> tuple[frozenset[int], str]:
    """Return the TMDB ids in what an app dumped, and one line on where in it they were.

    Taken are: a list, tuple, set, array, Series or Index of whole numbers or digits as text; a
    data frame with one id column; a dictionary, or a Series with an index of its own, from ids to
    anything or from positions to ids, as the index of a content-based model is.

    Raises:
        InputError: it is something else, its ids are ambiguous, or one of them is no TMDB id. The
            text goes on from the file's name.
    """
    import numpy as np
    import pandas as pd

    kind = type(found).__name__
    where = ""
    values: Any = found
    if isinstance(found, pd.DataFrame):
        column = _id_column(found)
        values, where = found[column].tolist(), f", from its column {column!r}"
    elif isinstance(found, Mapping):
        values, where = _side_with_ids(list(found), list(found.values()))
    elif isinstance(found, pd.Series):
        values = found.tolist()
        index = found.index.tolist()
        if _are_positions(values) and not _are_positions(index) and _all_ids(index):
            values, where = index, ", from its index: its values are positions"
    elif isinstance(found, np.ndarray) and found.ndim != 1:
        raise InputError(f"holds an array of {found.ndim} dimensions: expected a list of TMDB ids")
    elif isinstance(found, np.ndarray | pd.Index | pd.api.extensions.ExtensionArray):
        values = found.tolist()
    elif isinstance(found, str | bytes) or not isinstance(found, Sequence | Set):
        raise InputError(f"holds an object of type {kind}: expected a list of TMDB ids")
    if not len(values):
        raise InputError("is empty: expected the TMDB ids of the app's films")
    ids = frozenset(_as_id(value, place) for place, value in enumerate(values))
    forms = {_form(value) for value in values} - {""}
    return ids, f"{len(ids):,} TMDB ids ({kind}{where}{''.join(sorted(forms))})"


def _id_column(frame: Any) -> Any:
    """Return the name of the one column that has the ids."""
    names = {column: str(column).lower().replace("_", "") for column in frame.columns}
    found: list[Any] = []
    for group in _ID_COLUMNS:
        found = found or [column for column, name in names.items() if name in group]
    if not found and len(names) == 1:
        found = list(names)
    if len(found) != 1:
        columns = ", ".join(map(str, frame.columns))
        raise InputError(
            f"holds a data frame with {len(found) or 'no'} id columns ({columns:.80}): "
            "expected one named tmdb_id, movie_id or id; dump that column as a list"
        )
    return found[0]


def _side_with_ids(keys: list[Any], values: list[Any]) -> tuple[list[Any], str]:
    """Return the keys of a dictionary or its values, whichever are ids, and words for it."""
    if not keys:
        return [], ""
    of_keys, of_values = _all_ids(keys), _all_ids(values)
    key_places, value_places = _are_positions(keys), _are_positions(values)
    if of_keys and not key_places and (value_places or not of_values):
        return keys, ", from its keys" + (": its values are positions" if value_places else "")
    if of_values and not value_places and key_places:
        return values, ", from its values: its keys are positions"
    said = " and ".join(
        f"its {name} are {_describe(side, ids=ids, places=places)} (first {side[0]!r:.40})"
        for name, side, ids, places in (
            ("keys", keys, of_keys, key_places),
            ("values", values, of_values, value_places),
        )
    )
    raise InputError(
        f"holds a dict, and which side is TMDB ids cannot be told: {said}; "
        "dump the ids alone, as a list"
    )


def _describe(side: list[Any], *, ids: bool, places: bool) -> str:
    if places:
        return "positions"
    return "numbers" if ids else f"no ids but {type(side[0]).__name__}"


def _all_ids(values: Iterable[Any]) -> bool:
    """Return whether every value can be an id, or a position, which begin at 0."""
    try:
        for value in values:
            _as_number(value)
    except ValueError:
        return False
    return True


def _are_positions(values: Collection[Any]) -> bool:
    """Return whether these are the numbers from 0 or 1 on, each once, in any order."""
    if not len(values) or not _all_ids(values):
        return False
    numbers_ = sorted(map(_as_number, values))
    return numbers_[0] in (0, 1) and numbers_ == list(
        range(numbers_[0], numbers_[0] + len(numbers_))
    )


def _as_number(value: Any) -> int:
    """Return a whole number, from an integer, a whole float, or digits as text.

    Raises:
        ValueError: it is not one of them.
    """
    import numpy as np

    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float | np.floating) and value % 1 == 0:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    raise ValueError


def _as_id(value: Any, place: int) -> int:
    try:
        number = _as_number(value)
    except ValueError:
        hint = "expected TMDB ids as integers"
        if isinstance(value, str) and value.startswith("tt") and value[2:].isdigit():
            hint = "that is an IMDb id, " + hint
        raise InputError(
            f"holds {value!r:.60} ({type(value).__name__}) at position {place}: {hint}"
        ) from None
    if not 0 < number < MAX_ID:
        hint = "these look like positions in a list, not ids; " if number == 0 else ""
        raise InputError(
            f"holds {value!r:.60} at position {place}: {hint}expected TMDB ids, which are above 0"
        )
    return number


def _form(value: Any) -> str:
    if isinstance(value, str):
        return ", as text"
    return "" if isinstance(value, numbers.Integral) else ", as floats"

"""Read the files of a MovieLens set."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..files import refuse_lfs_pointer
from ..progress import progress_bar
from ..ratings import check_bounds
from .registry import LINKS_HEADER, MOVIES_HEADER, RATINGS_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ROWS = 1_000_000
"""Rows read at a time, so that a large file is never in memory twice."""

ML_100K_COLUMNS = {
    "user": "user_id", "film": "item_id", "rating": "rating", "timestamp": "timestamp",
}  # fmt: skip
"""Names of the columns of u.data and its splits, which have no header."""
ADVICE = ". Put the right file there, or delete it: then it is fetched again"
"""End of an error on a file's content."""
CSV_COLUMNS = {"user": "userId", "film": "movieId", "rating": "rating", "timestamp": "timestamp"}
"""Names of the columns of ratings.csv."""
NO_LINKS = pd.Series(dtype="Int64", index=pd.Index([], dtype="int64"))
"""What `read_links` gives where there is no file."""


def read_ratings(path: Path, columns: dict[str, str], separator: str = ",") -> pd.DataFrame:
    """Return the ratings of a file, in its order.

    Args:
        path: a CSV file; without a header line if `separator` is a tab.
        columns: the file's names of user, film, rating and timestamp.
        separator: between the values.

    Returns:
        Columns user, film and timestamp (int32 if that is wide enough, else int64), and rating
        (float64).

    Raises:
        InputError: the file has other content, or a rating outside `ratings.LOWEST` to `HIGHEST`.
    """
    parts: dict[str, list[Any]] = {name: [] for name in columns}
    for chunk in _read_in_parts(path, columns, separator):
        for name, array in chunk.items():
            parts[name].append(array)
    return pd.DataFrame({name: np.concatenate(parts.pop(name)) for name in columns}, copy=False)


def _read_in_parts(
    path: Path, columns: dict[str, str], separator: str
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the columns of `ROWS` rows at a time, see `read_ratings`."""
    names = {file_name: name for name, file_name in columns.items()}
    dtypes = {name: "float64" if names[name] == "rating" else "int64" for name in names}
    header = list(names) if separator == "\t" else None
    with _input_errors(path), path.open("rb") as file:
        size = path.stat().st_size
        with (
            progress_bar(path.name, "B", size) as bar,
            pd.read_csv(
                file,
                sep=separator,
                names=header,
                usecols=list(names),
                index_col=False,
                dtype=dtypes,
                chunksize=ROWS,
            ) as chunks,
        ):
            for chunk in chunks:
                check_bounds(chunk[columns["rating"]])
                arrays = {name: chunk[file_name].to_numpy() for file_name, name in names.items()}
                yield {
                    name: array.astype(np.int32)
                    if name != "rating" and np.abs(array).max(initial=0) < 2**31
                    else array
                    for name, array in arrays.items()
                }
                bar.update(file.tell() - bar.n)


def read_ml_100k_ratings(path: Path) -> pd.DataFrame:
    """Return the ratings of u.data or of one of its splits, see `read_ratings`."""
    return read_ratings(path, ML_100K_COLUMNS, separator="\t")


def read_links(path: Path) -> pd.Series:
    """Return the TMDB id (Int64, may be blank) by movieId; empty if there is no file."""
    if not path.is_file():
        return NO_LINKS
    dtypes = {"movieId": "int64", "tmdbId": "Int64"}
    with _input_errors(path):
        table = pd.read_csv(path, usecols=list(dtypes), index_col=False, dtype=dtypes)
    return table.drop_duplicates("movieId").set_index("movieId")["tmdbId"]


def read_all_links(path: Path) -> pd.DataFrame:
    """Return movieId, imdbId and tmdbId (int64) of the films of links.csv that have all three."""
    import pandas as pd

    columns = ["movieId", "imdbId", "tmdbId"]
    with _input_errors(path):
        table = pd.read_csv(path, usecols=columns, index_col=False, dtype="Int64")
    return table.dropna().astype("int64")


def read_ml_100k_titles(path: Path) -> dict[int, str]:
    """Return the title by item_id, from u.item (Latin-1)."""
    with _input_errors(path), path.open(encoding="latin-1") as lines:
        return {int(line.split("|")[0]): line.split("|")[1] for line in lines}


def read_titles(path: Path) -> dict[int, str]:
    """Return the title by movieId, from movies.csv."""
    with _input_errors(path):
        table = pd.read_csv(path, usecols=["movieId", "title"], dtype={"movieId": "int64"})
    return dict(zip(table["movieId"].tolist(), table["title"].astype("str"), strict=True))


def judge(path: Path, header: str) -> None:
    """Read a CSV file of a set whole, as a build does.

    Args:
        path: the file.
        header: its first line, which says what it holds.

    Raises:
        InputError: a build could not use it.
    """
    if header == RATINGS_HEADER:
        if not sum(len(part["rating"]) for part in _read_in_parts(path, CSV_COLUMNS, ",")):
            raise InputError(f"{path} has no ratings")
    elif header == LINKS_HEADER:
        read_all_links(path)
    elif header == MOVIES_HEADER:
        read_titles(path)


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Turn what is raised at a file's content into an InputError that says what to do."""
    try:
        with warnings.catch_warnings():
            # A line with one value too many. index_col=False keeps the columns from shifting.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            yield
    except (
        InputError, ValueError, TypeError, OverflowError, LookupError, pd.errors.ParserError,
    ) as error:  # fmt: skip
        if "out of memory" in str(error):  # the file is not what is wrong
            raise MemoryError(f"reading {path}") from None
        refuse_lfs_pointer(path)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} has unexpected content: {reason}{ADVICE}") from None

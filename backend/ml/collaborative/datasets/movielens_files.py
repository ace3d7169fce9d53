"""Read the files of a MovieLens set."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

ROWS = 1_000_000
"""Rows read at a time, so that a large file never lies in memory twice."""

ML_100K_COLUMNS = {
    "user": "user_id", "film": "item_id", "rating": "rating", "timestamp": "timestamp",
}  # fmt: skip
"""What `read_ratings` is to call the columns of u.data and of its splits, which have no header."""


def read_ratings(path: Path, columns: dict[str, str], separator: str = ",") -> pd.DataFrame:
    """Ratings as the file has them.

    Args:
        path: a CSV file; without a header line where `separator` is a tab.
        columns: the file's names of user, film, rating and timestamp.
        separator: between the values.

    Returns:
        Columns user, film and timestamp (int32 where that is wide enough, else int64), and rating
        (float64), in the order of the file.

    Raises:
        InputError: the file has something else in it.
    """
    import numpy as np
    import pandas as pd

    names = {file_name: name for name, file_name in columns.items()}
    dtypes = {name: "float64" if names[name] == "rating" else "int64" for name in names}
    header = list(names) if separator == "\t" else None
    parts: dict[str, list[Any]] = {name: [] for name in columns}
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
                for file_name, name in names.items():
                    array = chunk[file_name].to_numpy()
                    fits = name != "rating" and np.abs(array).max(initial=0) < 2**31
                    parts[name].append(array.astype(np.int32) if fits else array)
                bar.update(file.tell() - bar.n)
    return pd.DataFrame({name: np.concatenate(parts.pop(name)) for name in columns}, copy=False)


def read_links(path: Path) -> pd.Series:
    """TMDB id (Int64, blank where links.csv has none) by movieId; none where there is no file."""
    import pandas as pd

    if not path.is_file():
        return pd.Series(dtype="Int64", index=pd.Index([], dtype="int64"))
    dtypes = {"movieId": "int64", "tmdbId": "Int64"}
    with _input_errors(path):
        table = pd.read_csv(path, usecols=list(dtypes), index_col=False, dtype=dtypes)
    return table.drop_duplicates("movieId").set_index("movieId")["tmdbId"]


def read_ml_100k_titles(path: Path) -> dict[int, str]:
    """Title by item_id, from u.item (Latin-1)."""
    with path.open(encoding="latin-1") as lines:
        return {int(line.split("|")[0]): line.split("|")[1] for line in lines}


def read_titles(path: Path) -> dict[int, str]:
    """Title by movieId, from movies.csv."""
    import pandas as pd

    with _input_errors(path):
        table = pd.read_csv(path, usecols=["movieId", "title"], dtype={"movieId": "int64"})
    return dict(zip(table["movieId"].tolist(), table["title"].astype("str"), strict=True))


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """What pandas raises at a file's content, as an input error."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # A line with one value too many; without index_col=False all would shift by one.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            yield
    except (ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not what it should be: {reason}") from None

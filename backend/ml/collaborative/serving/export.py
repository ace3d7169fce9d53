"""The lists of all users of a release, as a Parquet file."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UsageError
from ..files import kind_of
from ..progress import progress_bar
from ..release import ReleaseStore, read_served
from .lists import best_films
from .snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .snapshot import Snapshot

CELLS_AT_ONCE = 1 << 21
"""Scores of users by films, at most, that a thread makes together: 8 MiB, and some copies."""
ROWS_AT_ONCE = 100_000
"""Rows of the file, at least, that are written together, as a row group."""


class Block(NamedTuple):
    """Recommendations for some users."""

    user_ids: list[str]
    movie_ids: NDArray[np.int64]
    """TMDB ids, best first, (users, n); -1 where a user has rated all others."""
    scores: NDArray[np.float64]
    """See `CollaborativeModel.recommend`, (users, n); NaN where there is no film."""
    stars: NDArray[np.float64]
    """Predicted, (users, n); NaN where there is no film."""


def recommend_all(snapshot: Snapshot, n: int = 10) -> Iterator[Block]:
    """Yield what `CollaborativeModel.recommend` gives for every user, in bounded memory.

    Blocks of users are made on all cores, and come in the order of the users. Scores are the same
    to rounding: films whose scores differ by less can change places.

    Args:
        snapshot: a release in memory.
        n: films for each user, at most.
    """
    import joblib
    import numpy as np
    from threadpoolctl import threadpool_limits

    single = snapshot.qi.astype(np.float32)  # so precise are scores; stars are exact
    names, films = list(snapshot.users), len(snapshot.movie_ids)
    step = max(1, CELLS_AT_ONCE // films)
    threads = joblib.cpu_count()
    waiting: deque[Future[Block]] = deque()
    with (
        threadpool_limits(1),  # each product on one thread: the blocks have the others
        ThreadPoolExecutor(threads) as pool,
    ):
        try:
            for start in range(0, len(names), step):
                users = names[start : start + step]
                task = pool.submit(_recommend, snapshot, single, users, start, min(n, films))
                waiting.append(task)
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _recommend(
    snapshot: Snapshot, qi: NDArray[np.float32], names: list[str], first: int, n: int
) -> Block:
    """Make the lists of some users, whose rows begin with `first`."""
    import numpy as np

    rows = slice(first, first + len(names))
    averages = snapshot.global_mean + snapshot.bu[rows]
    stars: NDArray[np.float32] = snapshot.pu[rows].astype(np.float32) @ qi.T
    stars += snapshot.bi.astype(np.float32)
    stars += averages[:, None].astype(np.float32)
    ids = np.full((len(names), n), -1, dtype=np.int64)
    block = Block(names, ids, np.full(ids.shape, np.nan), np.full(ids.shape, np.nan))
    for row, scores in enumerate(snapshot.score_many(names, stars)):
        scores[snapshot.rows_seen_by(names[row])] = -np.inf
        best = best_films(scores, stars[row], snapshot.movie_ids, n)
        best = best[scores[best] >= 0]
        here = row, slice(len(best))
        block.movie_ids[here] = snapshot.movie_ids[best]
        block.scores[here] = scores[best]
        exact = averages[row] + snapshot.scores(best, snapshot.pu[first + row])
        block.stars[here] = exact.clip(*snapshot.scale)
    return block


def write_parquet(snapshot: Snapshot, path: Path, n: int) -> int:
    """Write a row for each user and film, best first.

    The columns are user_id, movie_id, rank (from 1), score and stars.

    Returns:
        How many rows.

    Raises:
        OSError: it could not be written; what was there stays.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..files import replace_together

    columns = {"user_id": pa.string(), "movie_id": pa.int64(), "rank": pa.int32()}
    schema = pa.schema({**columns, "score": pa.float64(), "stars": pa.float64()})
    rows = 0
    with (
        progress_bar("recommending", " users", len(snapshot.users)) as bar,
        replace_together(path, unique=True) as (file,),
        pq.ParquetWriter(file, schema) as writer,
    ):
        tables: list[pa.Table] = []
        for block in recommend_all(snapshot, n):
            user, rank = np.nonzero(block.movie_ids >= 0)
            table = pa.table(
                {
                    "user_id": pa.array(block.user_ids, pa.string()).take(pa.array(user)),
                    "movie_id": block.movie_ids[user, rank],
                    "rank": (rank + 1).astype(np.int32),
                    "score": block.scores[user, rank],
                    "stars": block.stars[user, rank],
                },
                schema=schema,
            )
            tables.append(table)
            rows += len(user)
            if sum(map(len, tables)) >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(tables))
                tables.clear()
            bar.update(len(block.user_ids))
        if tables:
            writer.write_table(pa.concat_tables(tables))
    return rows


def export_lists(models_dir: Path, path: Path, n: int) -> tuple[int, int]:
    """Write the live release's lists for all users to a Parquet file.

    Returns:
        The number of rows, and of users.

    Raises:
        UsageError: there is no such folder, it is a folder, a pipe or a device, its name does not
            end with .parquet, or the release is item-only.
        ReleaseError: the release cannot be read.
        OSError: the file could not be written; what was there stays.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: make it, or name another file")
    if kind := kind_of(path):
        raise UsageError(f"{path} is {kind}: name a file")
    path = path.resolve()  # a link stays, and what it leads to is replaced
    if path.suffix != ".parquet":
        raise UsageError(
            f"found {path}, expected a name that ends with .parquet, as the file is Parquet"
        )
    snapshot = read_served(ReleaseStore(models_dir), read_snapshot)
    if not snapshot.users:
        raise UsageError(
            f"release {snapshot.build_id} is item-only and knows no users: fold them in, or take "
            "their vectors, see --item-only of ml.build_collaborative"
        )
    return write_parquet(snapshot, path, n), len(snapshot.users)

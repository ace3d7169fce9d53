"""Recommendations for every user of the training, into a Parquet file.

Run it in `backend/`: python -m ml.recommend_all FILE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if __name__ == "__main__" and not __package__:
    print("error: run by path: use python -m ml.recommend_all in backend/", file=sys.stderr)
    sys.exit(2)

from ..cli import EXIT_CODES, Parser, add_noise, at_least, folder, print_lines, run
from ..errors import UsageError
from ..paths import MODELS_DIR
from ..progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .snapshot import Snapshot

CELLS_AT_ONCE = 1 << 21
"""Scores of users by films, at most, in memory together: 16 MiB, and some copies."""


class Block(NamedTuple):
    """Recommendations for some users."""

    user_ids: list[str]
    movie_ids: NDArray[np.int64]
    """TMDB ids, best first, (users, n); -1 where a user has rated all others."""
    scores: NDArray[np.float64]
    """Predicted stars, (users, n); NaN where there is no film."""


def recommend_all(snapshot: Snapshot, n: int = 10) -> Iterator[Block]:
    """What `serving.CollaborativeModel.recommend` says for every user, in bounded memory.

    Args:
        snapshot: a release in memory.
        n: films for each user, at most.
    """
    import numpy as np

    from ..evaluation.metrics import top_films

    films = len(snapshot.movie_ids)
    order = snapshot.order  # of films with equal scores the lower id comes first
    place = np.argsort(order)
    ids, qi, bi = snapshot.movie_ids[order], snapshot.qi[order], snapshot.bi[order]
    names, starts = list(snapshot.users), snapshot.rated_starts
    step = max(1, CELLS_AT_ONCE // films)
    for start in range(0, len(names), step):
        end = min(start + step, len(names))
        scores = snapshot.pu[start:end] @ qi.T + bi
        raters = np.repeat(np.arange(end - start), np.diff(starts[start : end + 1]))
        scores[raters, place[snapshot.rated_movies[starts[start] : starts[end]]]] = -np.inf
        top = top_films(scores, places=min(n, films))
        averages = snapshot.global_mean + snapshot.bu[start:end, None]
        stars = (np.take_along_axis(scores, top, axis=1) + averages).clip(*snapshot.scale)
        none = top < 0
        yield Block(names[start:end], np.where(none, -1, ids[top]), np.where(none, np.nan, stars))


def write_parquet(snapshot: Snapshot, path: Path, n: int) -> int:
    """Write a row for each user and film, best first: user_id, movie_id, rank (from 1), score.

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
    schema = pa.schema({**columns, "score": pa.float64()})
    rows = 0
    with (
        progress_bar("recommending", " users", len(snapshot.users)) as bar,
        replace_together(path, unique=True) as (file,),
        pq.ParquetWriter(file, schema) as writer,
    ):
        for block in recommend_all(snapshot, n):
            user, rank = np.nonzero(block.movie_ids >= 0)
            table = pa.table(
                {
                    "user_id": pa.array(block.user_ids, pa.string()).take(pa.array(user)),
                    "movie_id": block.movie_ids[user, rank],
                    "rank": (rank + 1).astype(np.int32),
                    "score": block.scores[user, rank],
                },
                schema=schema,
            )
            writer.write_table(table)
            rows += len(user)
            bar.update(len(block.user_ids))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    parser = Parser(
        prog="python -m ml.recommend_all",
        description="Write each user's best films that they have not rated to a Parquet file.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, help="to be written: user_id, movie_id, rank, score")
    add("--models-dir", type=folder, default=MODELS_DIR, metavar="DIR",
        help="where the releases are (default ml/models)")  # fmt: skip
    add("-n", type=at_least(1), default=10, help="films for each user, default %(default)s")
    add_noise(parser)
    return run(_work, parser.parse_args(argv))


def _work(args: argparse.Namespace) -> None:
    from ..release.files import read_live
    from .snapshot import read_snapshot

    if not args.file.absolute().parent.is_dir():
        raise UsageError(f"{args.file.parent} is no folder: make it, or name another file")
    snapshot = read_live(args.models_dir, read_snapshot)
    if not snapshot.users:
        raise UsageError(
            f"release {snapshot.build_id} is of films alone and knows no users: fold them in, or "
            "take their vectors, see --user-vectors of ml.build_collaborative"
        )
    rows = write_parquet(snapshot, args.file, args.n)
    if not args.quiet:
        print_lines([f"{rows:,} recommendations for {len(snapshot.users):,} users in {args.file}"])


if __name__ == "__main__":
    sys.exit(main())

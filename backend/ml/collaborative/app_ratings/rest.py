"""Read every rating of the app from Supabase over REST, several ranges of users at once."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..progress import progress_bar
from ..ratings import COLUMNS
from .answers import NOT_ROWS, SUPABASE, Row, check_response
from .client import SERVICE_ROLE, open_client, role_of, silenced
from .pages import Range, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pydantic import SecretStr

    from ..settings import AppTable

logger = logging.getLogger(__name__)

SLOW, FAST = 5.0, 30_000
"""After these seconds of reading, with fewer rows a second, it is said how it would be faster."""


def read_rows(
    url: str, key: SecretStr, names: AppTable, role: str = SERVICE_ROLE
) -> tuple[pa.Table, int]:
    """Read every row of the app's ratings.

    The server's row limit does not matter. A row that exists all the time is read exactly once,
    also while users are writing, and also where rows are equal. Rows that come behind the last one
    of the start are not read.

    Args:
        url: base URL of the Supabase project.
        key: a key of a role that row-level security does not apply to; never printed.
        names: the table and its columns.
        role: that role.

    Returns:
        Columns user_id, movie_id and rating as Postgres writes them, dictionary-encoded strings;
        and the number of rows without a user or film: they have no place in the order of pages and
        are left out.

    Raises:
        SourceError: Supabase cannot be reached, refuses the key, or its answer is invalid; the key
            is of another role; or more rows are equal than fit on a page.
    """
    import pyarrow as pa

    check = partial(check_response, names=names, role=role_of(key, role))
    with silenced(), open_client(url, key, names.schema, check) as client:
        table = Table(client, names)
        nulls = table.count_without_key()
        batches = list(map(_batch, _read_at_once(table.split())))
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.Table.from_batches(batches, pa.schema([(name, text) for name in COLUMNS])), nulls


def _read_at_once(ranges: list[Range]) -> Iterator[list[Row]]:
    """Yield the pages of all ranges as they come, read by a thread for each."""
    found = SimpleQueue[Any]()
    stopped = threading.Event()

    def read(part: Range) -> None:
        try:
            with silenced():
                for page in part.read():
                    if stopped.is_set():
                        return
                    found.put(page)
            found.put(None)
        except BaseException as error:
            found.put(error)

    started, rows, told, left = time.monotonic(), 0, False, len(ranges)
    for part in ranges:
        # A daemon: what waits for an answer does not keep the process from ending.
        threading.Thread(target=read, args=[part], daemon=True).start()
    try:
        with progress_bar("app ratings", " rows") as bar:
            while left:
                got = found.get()
                if isinstance(got, BaseException):
                    raise got
                if got is None:
                    left -= 1
                    continue
                yield got
                rows += len(got)
                bar.update(len(got))
                seconds = time.monotonic() - started
                if not told and seconds > SLOW and rows < FAST * seconds:
                    told = True
                    logger.warning(
                        "reading is slow, %s app ratings in %.0f s: if user and film are not the "
                        "table's primary key, each page searches the whole table; SUPABASE_DB_URL "
                        "is faster in any case, see docs/app-database.md",
                        f"{rows:,}",
                        seconds,
                    )
    finally:
        stopped.set()


def _batch(rows: list[Row]) -> pa.RecordBatch:
    """Return rows as columns, dictionary-encoded."""
    import pyarrow as pa

    try:
        texts = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    except UnicodeError:  # half of a character
        raise SourceError(f"{SUPABASE} failed: {NOT_ROWS}") from None
    return pa.record_batch([text.dictionary_encode() for text in texts], COLUMNS)

"""Read every rating of the app from its Postgres, in one snapshot, column by column.

Arrow's driver (ADBC) reads the rows by binary COPY into columns, without a Python object per row.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ..errors import SourceError
from ..progress import progress_bar
from ..ratings import COLUMNS
from .retries import TryAgainError, with_retries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pydantic import SecretStr

    from ..settings import AppTable

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10
"""Whole seconds to wait for a connection."""
LOCK_TIMEOUT = 30
"""Seconds to wait for a lock on the table, which a migration can hold."""
SILENCE = 60.0
"""Seconds without a batch of rows after which an attempt fails."""
STATEMENT_TIMEOUT = 3600
"""Seconds, in place of the role's own: it ends a statement that could not be cancelled."""
SELECT = """select format('select %I::text, %I::text, %I::text from %I.%I',
                 $1::text, $2::text, $3::text, $4::text, $5::text)"""
"""Makes the statement that reads; Postgres itself quotes the names."""
BATCH = 1 << 20
"""Bytes of a batch, roughly: so much fits into the processor's cache."""
USABLE = (
    "SUPABASE_DB_URL is invalid: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE with one "
    "host, libpq's parameters after a '?', and special characters in the password written as %XX "
    "(a '%' as %25)"
)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
PASSING = ("08", "40", "53", "55", "57")
"""SQLSTATE classes of errors that can pass: connections, conflicts, resources, locks, shutdowns."""
LASTING = {
    "certificate": "the server's certificate is not what sslmode and sslrootcert ask for",
    "authentication failed": "check its user and password",
    "no password supplied": "it needs a password",
    "does not exist": "check its user and database",
    "Tenant or user not found": "check its user (postgres.PROJECT on a pooler) and host",
    "no pg_hba.conf entry": "the server refuses this user, address or a connection without TLS",
    "does not support SSL": "the server has no TLS; without it, say ?sslmode=disable",
}
"""Parts of libpq's messages on connections that will fail again, and what to do."""
UNUSABLE = re.compile(
    r"(^|failed: )(invalid|missing|unrecognized|unexpected|forbidden|.*definition of service)"
)
"""libpq's messages on the URL itself, which quote it."""


def read_rows(url: SecretStr, names: AppTable) -> pa.Table:
    """Read every row of the app's ratings.

    It is one statement, so one snapshot: rows written meanwhile are not in it, and no row is read
    twice. After a broken connection everything is read again.

    Args:
        url: `postgresql://…`, as Supabase shows it under "Connect"; never printed. If it does not
            mention TLS and the host is not this machine, TLS is required.
        names: the table and its columns.

    Returns:
        Columns user_id, movie_id and rating as Postgres writes them, dictionary-encoded strings.

    Raises:
        SourceError: the database cannot be reached, or refuses.
    """
    import pyarrow as pa

    address = _complete(url.get_secret_value())
    batches = with_retries(lambda: _read(address, names), "Postgres")
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.Table.from_batches(batches, pa.schema([(name, text) for name in COLUMNS]))


def _complete(url: str) -> str:
    """Return the URL with defaults for the parameters that it does not set.

    Raises:
        SourceError: it is invalid.
    """
    try:
        parts = urlsplit(url)
        query = _parameters(parts.query)
        host, _ = parts.hostname or query.get("host"), parts.port
    except ValueError:
        raise SourceError(USABLE) from None
    misplaced = parts.fragment or "@" in parts.path or parts.netloc.count("@") > 1
    if parts.scheme not in {"postgresql", "postgres"} or not host or misplaced:
        raise SourceError(USABLE)
    places = [query.get("host") or host, query.get("hostaddr") or "::1"]
    here = all(place in LOOPBACK or place.startswith("/") for place in places)
    given = {
        "sslmode": "prefer" if here else "require",
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "client_encoding": "UTF8",
        "application_name": "ml.build_collaborative",
    } | query
    return urlunsplit(parts._replace(query=urlencode(given, quote_via=quote)))


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters after the URL's '?'; a plus is a plus here, unlike in web forms.

    Raises:
        ValueError: they are not NAME=VALUE&...
    """
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
    return dict(pairs)


def _read(url: str, names: AppTable) -> list[pa.RecordBatch]:
    """Return all rows, read in a thread: so a silent server or Ctrl-C ends the wait."""
    reading = _Reading(url, names)
    threading.Thread(target=reading.run, daemon=True).start()
    batches: list[pa.RecordBatch] = []
    try:
        with progress_bar("app ratings", " rows") as bar:
            while (batch := reading.next()) is not None:
                batches.append(batch)
                bar.update(batch.num_rows)
    except BaseException:
        # In another thread: cancelling needs a connection, which may be what fails.
        threading.Thread(target=reading.cancel, daemon=True).start()
        raise
    return batches


class _Reading:
    """One attempt to read, in a thread of its own."""

    def __init__(self, url: str, names: AppTable) -> None:
        self.url, self.names = url, names
        self.found: SimpleQueue[pa.RecordBatch | BaseException | None] = SimpleQueue()
        self.connection: Any = None
        self.cancelled = False

    def next(self) -> pa.RecordBatch | None:
        """Return the next batch, or None at the end; raise what the thread raised."""
        try:
            got = self.found.get(timeout=SILENCE)
        except Empty:
            raise TryAgainError(f"nothing came for {SILENCE:g} s") from None
        if isinstance(got, BaseException):
            raise got
        return got

    def run(self) -> None:
        try:
            for batch in self.fetch():
                if self.cancelled:
                    return
                self.found.put(batch)
            self.found.put(None)
        except BaseException as error:
            self.found.put(error)

    def cancel(self) -> None:
        """End the statement in the database too."""
        import adbc_driver_manager

        self.cancelled = True
        if self.connection:
            with suppress(adbc_driver_manager.Error):  # it has ended, or cannot be reached
                self.connection.adbc_cancel()

    def fetch(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches, dictionary-encoded."""
        import adbc_driver_manager
        import pyarrow as pa
        from adbc_driver_postgresql import dbapi

        try:
            self.connection = dbapi.connect(self.url)
        except adbc_driver_manager.Error as error:
            raise _explain_connection(str(error), self.url) from None
        names = self.names
        try:
            with self.connection, self.connection.cursor() as cursor:
                cursor.execute("set transaction isolation level repeatable read, read only")
                # An error, not fewer rows, if policies would hide some.
                cursor.execute("set local row_security = off")
                cursor.execute(f"set local statement_timeout = '{STATEMENT_TIMEOUT}s'")
                cursor.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}s'")
                cursor.adbc_statement.set_options(
                    **{"adbc.postgresql.batch_size_hint_bytes": str(BATCH)}
                )
                cursor.execute(SELECT, [*names.columns, names.schema, names.table])
                cursor.execute(cursor.fetchone()[0])
                for batch in cursor.fetch_record_batch():
                    texts = [column.dictionary_encode() for column in batch.columns]
                    yield pa.record_batch(texts, COLUMNS)
                # A pooler drops a connection that is closed within a transaction.
                self.connection.commit()
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            raise _explain(error, names) from None


def _explain_connection(said: str, url: str) -> Exception:
    """Describe in a line why the connection failed."""
    said = said.partition("Failed to connect: ")[2].partition("Is the server running")[0]
    said = " ".join(said.split()).rstrip(".")
    if UNUSABLE.search(said):
        return SourceError(USABLE)
    parts = urlsplit(url)
    given = _parameters(parts.query)
    advice = next((advice for text, advice in LASTING.items() if text in said), None)
    host = given.get("host") or parts.hostname or ""
    if host.endswith(".supabase.co") and re.search(r"unreachable|No route|translate host", said):
        said += (
            "; db.PROJECT.supabase.co has IPv6 only: from a network without IPv6 use the "
            "connection string of the pooler"
        )
    elif "translate host" in said:
        said += "; check the host in SUPABASE_DB_URL"
    elif "Connection refused" in said:
        said += "; check host and port in SUPABASE_DB_URL, and that the project is not paused"
    secrets = [unquote(parts.password or ""), parts.password]
    for secret in (*secrets, given.get("password"), given.get("sslpassword")):
        if secret:
            said = said.replace(secret, "***")
    if advice:
        return SourceError(f"Postgres refused: {said}. SUPABASE_DB_URL: {advice}")
    return TryAgainError(said)


def _explain(error: Exception, names: AppTable) -> Exception:
    """Describe a failed statement, without the server's text, which can quote user ids."""
    code = getattr(error, "sqlstate", None) or ""
    advice = {
        "42501": (
            f"the user of SUPABASE_DB_URL may not read all of {names}: it needs select, and "
            "row-level security must not apply to it (the table's owner, or a role with bypassrls)"
        ),
        "42P01": names.expected,
        "3F000": names.expected,
        "42703": names.expected,
    }.get(code)
    if advice:
        return SourceError(f"Postgres refused (code {code}): {advice}")
    if not code and "ERROR:" in str(error) and "cancel" not in str(error):
        return SourceError(
            f"Postgres failed while reading {names}: it has a value that cannot be read as text; "
            "see the database's log"
        )
    if not code or code.startswith(PASSING):
        return TryAgainError(f"code {code}" if code else "the connection broke")
    return SourceError(f"Postgres refused (code {code}): see the database's log")

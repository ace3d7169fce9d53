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
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from ..errors import SourceError
from ..progress import progress_bar
from ..ratings import COLUMNS
from .retries import ADVICE, PASSING, TryAgainError, with_retries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

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
EXPECTED = (
    "expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE with one host, libpq's parameters "
    "after a '?', and special characters in the password written as %XX (a '%' as %25)"
)
FOREIGN = {
    "pgbouncer", "schema", "connection_limit", "pool_timeout", "pool_mode", "ssl", "sslaccept",
    "socket_timeout", "statement_cache_size", "statement_timeout", "prepared_statements",
    "currentSchema", "prepareThreshold", "supa", "uselibpqcompat",
}  # fmt: skip
"""Parameters of other clients (Prisma, JDBC, node-postgres), which libpq refuses."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
LASTING = {
    "certificate": "the server's certificate is not what sslmode and sslrootcert ask for",
    "authentication failed": "authentication failed: check its user and password",
    "no password supplied": "it needs a password",
    "does not exist|not permitted|denied": "check its user and database",
    "enant.* not found": "check its user (postgres.PROJECT on a pooler) and host",
    "no pg_hba.conf entry": "the server refuses this user, address or a connection without TLS",
    "does not support SSL": "the server has no TLS; without it, say ?sslmode=disable",
    "could not parse network address": "its hostaddr is not an address in numbers",
}
"""Parts of libpq's messages on connections that will fail again, and what to say."""
PROJECT = "check host and port in SUPABASE_DB_URL, and that the project is not paused"
NOT_FOUND = "unreachable|No route|translate host"
UNREACHED = {
    "Connection refused": f"Connection refused; {PROJECT}",
    NOT_FOUND: "the host cannot be reached or has no address; check the host in SUPABASE_DB_URL",
    "timeout expired|timed out": f"timeout expired; {PROJECT}",
    "closed the connection|reset by peer|EOF": "the connection was cut",
    "starting up|shutting down|not accepting|recovery": "the database is starting or ending",
    "too many|connection slots|[Mm]ax ?[Cc]lient": "the database has no connection left",
}
"""Of those on connections that can be made later."""
IPV6 = (
    "the host cannot be reached; db.PROJECT.supabase.co has IPv6 only: from a network without IPv6 "
    "use the connection string of the pooler"
)
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

    address = _complete(url)
    batches = with_retries(lambda: _read(address, names), "Postgres")
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.Table.from_batches(batches, pa.schema([(name, text) for name in COLUMNS]))


def _complete(url: SecretStr) -> SecretStr:
    """Return the URL with defaults for the parameters that it does not set.

    Raises:
        SourceError: it is invalid.
    """
    complete, wrong = _look_at(url)
    if complete:
        return complete
    raise SourceError(f"SUPABASE_DB_URL {wrong}: {EXPECTED}")


def _look_at(url: SecretStr) -> tuple[SecretStr | None, str]:
    """Return the URL with defaults, or what is wrong with it.

    No error leaves this function: its traceback could show the password.
    """
    text = url.get_secret_value()
    if not re.match("postgres(ql)?://", text):
        return None, "does not begin with postgresql://"
    if "#" in text:
        return None, "has a '#', which is %23 in a password"
    try:
        parts = urlsplit(text)
        query = _parameters(parts.query)
        host, _ = parts.hostname or query.get("host"), parts.port
    except ValueError:
        return None, "is invalid"
    if "@" in parts.path or parts.netloc.count("@") > 1:
        return None, "has an '@' too many, which is %40 in a password"
    if not host:
        return None, "has no host"
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
    return SecretStr(urlunsplit(parts._replace(query=urlencode(given, quote_via=quote)))), ""


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters after the URL's '?'; a plus is a plus here, unlike in web forms.

    Raises:
        ValueError: they are not NAME=VALUE&...
    """
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
    return dict(pairs)


def _read(url: SecretStr, names: AppTable) -> list[pa.RecordBatch]:
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

    def __init__(self, url: SecretStr, names: AppTable) -> None:
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
            self.connection = dbapi.connect(self.url.get_secret_value())
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


def _explain_connection(said: str, url: SecretStr) -> Exception:
    """Describe in a line why the connection failed, without libpq's text.

    That quotes hosts, addresses, users and parameters, each of which can be a misplaced password.
    """
    said = " ".join(said.partition("Failed to connect: ")[2].split())
    found = re.search('invalid URI query parameter: "(.*)"', said)
    if found and found[1] in FOREIGN:
        return SourceError(f"SUPABASE_DB_URL has another client's parameter {found[1]}: remove it")
    if found:
        return SourceError(f"SUPABASE_DB_URL has a parameter that is not libpq's: {EXPECTED}")
    if UNUSABLE.search(said):
        return SourceError(f"SUPABASE_DB_URL is invalid: {EXPECTED}")
    said = re.sub('"[^"]*"', "", said)
    for text, advice in LASTING.items():
        if re.search(text, said):
            return SourceError(f"Postgres refused: SUPABASE_DB_URL: {advice}")
    host = urlsplit(url.get_secret_value()).hostname or ""
    if host.endswith(".supabase.co") and re.search(NOT_FOUND, said):
        return TryAgainError(IPV6)
    reasons = (reason for text, reason in UNREACHED.items() if re.search(text, said))
    return TryAgainError(next(reasons, "the connection failed; see the database's log"))


def _explain(error: Exception, names: AppTable) -> Exception:
    """Describe a failed statement, without the server's text, which can quote user ids."""
    code = getattr(error, "sqlstate", None) or ""
    advice = {
        "42501": (
            f"the user of SUPABASE_DB_URL may not read all of {names}: it needs select, and "
            "row-level security must not apply to it (the table's owner, or a role with bypassrls)"
        ),
        **dict.fromkeys(("42P01", "3F000", "42703"), names.expected),
    }.get(code)
    if advice:
        return SourceError(f"Postgres refused (code {code}): {advice}")
    if not code and "ERROR:" in str(error) and "cancel" not in str(error):
        return SourceError(
            f"Postgres failed while reading {names}: it has a value that cannot be read as text; "
            "see the database's log"
        )
    if not code or code.startswith(PASSING):
        what = f"code {code}" if code else "the connection broke"
        return TryAgainError(what, advice=ADVICE.get(code, ""))
    return SourceError(f"Postgres refused (code {code}): see the database's log")

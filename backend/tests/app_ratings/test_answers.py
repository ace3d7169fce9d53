"""One line says what Supabase answered, whether trying again helps, and what to do."""

from __future__ import annotations

import logging
from typing import LiteralString

import psycopg
import pytest
from postgrest_server import Garbage, Status, SupabaseServer
from pydantic import SecretStr

from ml.collaborative.app_ratings import rest, retries
from ml.collaborative.errors import SourceError
from ml.collaborative.settings import AppTable

pytestmark = pytest.mark.usefixtures("no_waiting")
WAITS = retries.WAITS
ROWS = [(f"user-{n:03}", 1 + n % 7, 3.0) for n in range(50)]


@pytest.fixture
def server(supabase_server: SupabaseServer) -> SupabaseServer:
    """A table of three pages."""
    supabase_server.insert(ROWS)
    supabase_server.max_rows = 20
    return supabase_server


def read(server: SupabaseServer, key: str = "", names: AppTable | None = None) -> int:
    key = key or server.service_key
    return len(rest.read_rows(server.url, SecretStr(key), names or AppTable())[0])


def said(server: SupabaseServer, key: str = "", names: AppTable | None = None) -> str:
    with pytest.raises(SourceError) as failed:
        read(server, key, names)
    return str(failed.value)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Status(401), "(HTTP 401): check SUPABASE_SERVICE_ROLE_KEY: it must be of this project"),
        (Status(402), "(HTTP 402): the project is over its quota or not paid for: see its usage"),
        (Status(403, html=True), "(HTTP 403): check SUPABASE_SERVICE_ROLE_KEY, and the project's "),
        (Status(404), "(HTTP 404): nothing answers at this path: check SUPABASE_URL, expected"),
        (Status(540), "(HTTP 540): the project is paused: restore it in Supabase's dashboard"),
        (Status(414, html=True), "(HTTP 414): a user id is too long for the address of a page"),
        (Status(431, html=True), "(HTTP 431): a user id is too long"),
        (Status(404, error=("PGRST125", "Invalid path")), "(code PGRST125): nothing answers at"),
        (Status(406, error=("PGRST106", "m")), "(code PGRST106): add the schema public to the"),
        (Status(418), "(HTTP 418): see the API log of the Supabase project"),
        (Status(400, error=("PGRST100", "m")), "(code PGRST100): see the API log of the Supabase"),
        (Status(500, error=("42P17", "m")), "(code 42P17): see the API log of the Supabase"),
    ],
    ids=repr,
)
def test_what_lasts_is_told_at_once_with_what_to_do(
    server: SupabaseServer, fault: Status, what: str
) -> None:
    server.faults = [None, None, fault]
    assert said(server).startswith(f"Supabase refused {what}")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Status(400, error=("", "")), "HTTP 400 Bad Request, an empty code (3 tries): see whether"),
        (Status(500, error=("57014", "m")), "code 57014 (3 tries): the database cancels a query "),
        (Status(500, error=("55P03", "m")), "code 55P03 (3 tries): the table is locked, perhaps "),
        (Status(504, error=("PGRST003", "m")), "code PGRST003 (3 tries): PostgREST has no conn"),
        (Status(503, error=("PGRST001", "m")), "code PGRST001 (3 tries): PostgREST cannot reach"),
        (Status(503, error=("PGRST002", "m")), "code PGRST002 (3 tries): PostgREST cannot read"),
        (Status(503, error=("53300", "m")), "code 53300 (3 tries): the database has no connection"),
        (Status(500, error=("40P01", "m")), "code 40P01 (3 tries)"),
        (Status(500, error=("XX000", "m")), "code XX000 (3 tries)"),
        (Status(408), "HTTP 408 Request Timeout (3 tries)"),
        (Status(429), "(3 tries): too many requests came from here or to the project"),
        (Status(522, html=True), "HTTP 522 (3 tries): the project does not answer: see its status"),
        (Status(530, html=True), "HTTP 530 (3 tries): no project is at this address"),
        (Status(544), "HTTP 544 (3 tries): the project is too slow: make user and film"),
    ],
    ids=repr,
)
def test_what_can_pass_is_borne_and_named_if_it_does_not(
    server: SupabaseServer, fault: Status, what: str
) -> None:
    server.faults = [fault, fault, None, fault]
    assert read(server) == 50
    server.faults = [fault] * 3
    assert what in said(server)


@pytest.mark.parametrize("away", [12, 60])
def test_a_database_that_is_away_for_a_minute_costs_nothing(
    supabase_server: SupabaseServer, away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that the waits move on: nothing sleeps here."""
    clock = [0.0]
    monkeypatch.setattr(retries, "WAITS", WAITS)
    monkeypatch.setattr(retries.time, "sleep", lambda wait: clock.append(clock[-1] + wait))
    gone = Status(503, error=("PGRST001", "Database client error. Retrying the connection."))
    supabase_server.fault_of = lambda number: gone if number > 3 and clock[-1] < away else None
    supabase_server.insert(ROWS)
    supabase_server.max_rows = 20
    assert read(supabase_server) == 50
    assert away <= clock[-1] < 2 * away + 10


def test_a_postgres_that_restarts_while_reading_costs_nothing(
    server: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    end = "select pg_terminate_backend(pid) from pg_stat_activity where pid = any(%s)"

    def restart(number: int) -> None:
        if number % 3 == 0:
            pids = [one.info.backend_pid for one in server.idle]
            server.database.execute(end, (pids,))

    server.before_request = restart
    with caplog.at_level(logging.INFO, "ml"):
        assert read(server) == 50
    assert [request.status for request in server.requests].count(400) > 1
    assert "HTTP 400 Bad Request, an empty code; trying again" in caplog.text


def test_a_real_lock_and_a_real_time_out_are_named(server: SupabaseServer) -> None:
    server.statement_timeout_ms = 50
    with psycopg.connect(server.database.info.dsn) as migration:
        migration.execute("lock table ratings in access exclusive mode")
        assert "code 57014 (3 tries): the database cancels a query that takes longer" in said(
            server
        )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            ["revoke all on ratings from service_role"],
            "its role may not read the table: grant select on public.ratings to service_role",
        ),
        (
            ["revoke usage on schema public from public, service_role"],
            "its role may not use the schema: grant usage on schema public to service_role",
        ),
    ],
)
def test_a_grant_that_is_missing_is_told_as_the_statement_that_gives_it(
    server: SupabaseServer, changes: list[LiteralString], what: str
) -> None:
    for change in changes:
        server.database.execute(change)
    try:
        assert said(server) == f"Supabase refused (code 42501): {what}"
    finally:
        server.database.execute("grant usage on schema public to public")
    server.database.execute(what.partition(": ")[2].encode())
    server.database.execute("grant select on ratings to service_role")
    assert read(server) == 50


def test_a_view_is_told_of_what_it_reads(server: SupabaseServer) -> None:
    run = server.database.execute
    run("create view stars with (security_invoker) as select * from ratings")
    try:
        run("grant select on stars to service_role; revoke all on ratings from service_role")
        text = said(server, names=AppTable(table="stars"))
        assert text.endswith("public.stars to service_role, or on what it reads if it is a view")
    finally:
        run("drop view stars")


def test_a_role_that_the_database_lacks_is_named(server: SupabaseServer) -> None:
    run = server.database.execute
    run("alter role service_role rename to gone")
    try:
        assert said(server) == (
            "Supabase refused (code 22023): the database has no role service_role, which the key "
            "names: check SUPABASE_SERVICE_ROLE_KEY"
        )
    finally:
        run("alter role gone rename to service_role")


def test_a_role_that_postgrest_may_not_take_is_named(server: SupabaseServer) -> None:
    server.faults = [Status(403, error=("42501", 'permission denied to set role "service_role"'))]
    assert said(server).endswith("not use the key's role: grant service_role to authenticator")


def test_a_table_newer_than_the_schema_cache_is_told_with_how_to_reload_it(
    server: SupabaseServer,
) -> None:
    text = said(server, names=AppTable(table="brand_new"))
    assert text.startswith("Supabase refused (code PGRST205): expected a table public.brand_new")
    assert text.endswith("reload PostgREST's schema cache: notify pgrst, 'reload schema'")


def test_a_type_without_an_order_is_told(server: SupabaseServer) -> None:
    server.create_table("user_id json, movie_id int, rating real")
    assert "has a type without an order: make a view with it as text" in said(server)


@pytest.mark.parametrize("letters", [1900, 4100, 40_000])
def test_a_very_long_user_id_is_read_or_told_in_one_line(
    supabase_server: SupabaseServer, letters: int
) -> None:
    supabase_server.create_table("user_id text, movie_id int, rating real")  # too long for a key
    supabase_server.insert([("abc" + "x" * letters, 11, 4), ("user", 11, 4)])
    supabase_server.max_rows = 1
    if letters < 2000:
        assert read(supabase_server) == 2
        return
    text = said(supabase_server)
    assert text.endswith(
        "a user id is too long for the address of a page over REST: use SUPABASE_DB_URL"
    )
    assert "\n" not in text
    assert "xx" not in text


@pytest.mark.parametrize(
    "fault", [Garbage(b"[" * 100_000), Garbage(b"[]", content_range="*/abc")], ids=["JSON", "range"]
)
def test_an_answer_that_cannot_be_read_is_borne_and_named_if_it_comes_again(
    server: SupabaseServer, fault: Garbage
) -> None:
    server.faults = [fault, fault]
    assert read(server) == 50
    server.faults = [fault] * 3
    assert said(server) == (
        "Supabase failed: its answer cannot be read; check SUPABASE_URL (3 tries)"
    )


def test_errors_quote_nothing_that_the_server_says(
    server: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    for code, status in (
        ("22P02", 400), ("42501", 400), ("57014", 500), ("anna", 400), ("PGRSTanna", 500)
    ):  # fmt: skip
        server.faults = [Status(status, error=(code, 'invalid input: "anna"'))] * 3
        with caplog.at_level(logging.DEBUG):
            assert "anna" not in said(server)
    assert "anna" not in caplog.text

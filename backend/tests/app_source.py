"""The settings point to the tests' database, over REST or straight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ml.collaborative.app_ratings import retries

if TYPE_CHECKING:
    import psycopg
    from postgrest_server import SupabaseServer

SETTINGS = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_DB_URL")


def socket_path(database: psycopg.Connection) -> str:
    """The Unix socket that the tests' database listens on."""
    return f"{database.info.host}/.s.PGSQL.{database.info.port}"


def direct_url(database: psycopg.Connection, user: str = "postgres") -> str:
    """Of the tests' database, over its Unix socket."""
    return f"postgresql://{user}@/postgres?host={database.info.host}&port={database.info.port}"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries, without waits between."""
    monkeypatch.setattr(retries, "WAITS", (0, 0))


@pytest.fixture(params=["rest", "postgres"])
def source(
    request: pytest.FixtureRequest,
    supabase_server: SupabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    no_waiting: None,
) -> SupabaseServer:
    """The database, configured in each of the two ways."""
    configure(request.param, supabase_server, monkeypatch)
    return supabase_server


def configure(way: str, server: SupabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the settings to the database, in one of the two ways."""
    found = (
        (server.url, server.service_key, "")
        if way == "rest"
        else ("", "", direct_url(server.database))
    )
    for name, value in zip(SETTINGS, found, strict=True):
        monkeypatch.setenv(name, value)

"""What is asked of Supabase is in nobody's log: its addresses hold the ids of users."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Iterator

import httpx
import pytest
from postgrest_server import Close, Status, SupabaseServer
from pydantic import SecretStr

from ml.collaborative.app_ratings import client, pages, rest
from ml.collaborative.errors import SourceError
from ml.collaborative.settings import AppTable

pytestmark = pytest.mark.usefixtures("no_waiting")


class Kept(logging.Handler):
    """Keeps every record as text, with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture
def logs() -> Iterator[Kept]:
    """An app that logs everything, of every library, also by a handler of the client's own."""
    kept = Kept()
    loggers = [logging.getLogger(name) for name in ("", "httpx", "httpcore", "httpcore.http11")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
        logger.addHandler(kept)
    try:
        yield kept
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.removeHandler(kept)


@pytest.fixture
def server(supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch) -> SupabaseServer:
    """A table that is read in four ranges of several pages."""
    monkeypatch.setattr(pages, "MIN_RANGE", 1)
    supabase_server.insert([(f"anna-{user:03}", 11, 4) for user in range(60)])
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = 9
    return supabase_server


def read(server: SupabaseServer) -> int:
    key = SecretStr(server.service_key)
    return len(rest.read_rows(server.url, key, AppTable())[0])


def test_no_id_is_in_any_log_at_any_level(server: SupabaseServer, logs: Kept) -> None:
    server.faults = [*[None] * 9, Status(503), *[None] * 5, Close(), *[None] * 5, Status(429)]
    assert read(server) == 60
    assert any("Supabase" in text for text in logs.texts)  # what this project says itself
    everything = "".join(logs.texts)
    assert "anna" not in everything
    assert server.service_key not in everything
    assert server.url not in everything


def test_no_id_is_in_the_logs_of_a_reading_that_fails(server: SupabaseServer, logs: Kept) -> None:
    def fail(number: int) -> Status | None:
        return Status(500, error=("57014", "anna-001")) if number > 9 else None

    server.fault_of = fail
    with pytest.raises(SourceError):
        read(server)
    for one in threading.enumerate():  # those that were asking when it failed
        if one.name.endswith("(read)"):
            one.join(10)
    with warnings.catch_warnings():  # a connection that was being opened when the client closed
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert "anna" not in "".join(logs.texts)


def test_the_app_s_own_requests_are_logged_as_before(server: SupabaseServer, logs: Kept) -> None:
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "")}

    def other() -> None:
        httpx.get(f"{server.url}/mine")

    def ask(number: int) -> None:
        if number == 5:
            mine = threading.Thread(target=other)
            mine.start()

    server.before_request = ask
    read(server)
    while not any("/mine" in text for text in logs.texts):
        threading.Event().wait(0.01)
    httpx.get(f"{server.url}/after")
    assert any("/after" in text for text in logs.texts)
    assert levels == {name: logging.getLogger(name).level for name in levels}


def test_the_libraries_loggers_get_one_filter_however_often_ratings_are_read(
    server: SupabaseServer,
) -> None:
    read(server)
    before = len(logging.getLogger("httpx").filters)
    read(server)
    assert len(logging.getLogger("httpx").filters) == before
    assert client.OURS == "ml.collaborative"
    assert not logging.getLogger("ml.collaborative.app_ratings.rest").filters

"""Each row that is there all the time comes exactly once, whatever is equal and who writes."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from typing import LiteralString

import pytest
from app_source import direct_url
from postgrest_server import SupabaseServer
from pydantic import SecretStr

from ml.collaborative.app_ratings import pages, postgres, rest
from ml.collaborative.errors import SourceError
from ml.collaborative.settings import AppTable

pytestmark = pytest.mark.usefixtures("no_waiting")


def over_rest(server: SupabaseServer) -> Counter[tuple[str | None, ...]]:
    table, _ = rest.read_rows(server.url, SecretStr(server.service_key), AppTable())
    return Counter(tuple(row.values()) for row in table.to_pylist())


def straight(server: SupabaseServer) -> Counter[tuple[str | None, ...]]:
    table = postgres.read_rows(SecretStr(direct_url(server.database)), AppTable())
    return Counter(tuple(row.values()) for row in table.to_pylist())


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are split too."""
    monkeypatch.setattr(pages, "MIN_RANGE", 1)


KINDS: dict[str, list[object]] = {
    "numeric": ["1", "1.0", "1.00", "1.000", "2", "2.0", "0", "-0.0", "10", "NaN"],
    "double precision": [0.0, -0.0, 1.5, "NaN", "Infinity", "-Infinity", 0.1, 1e300],
    "interval": ["1 day", "24 hours", "1440 minutes", "1 month", "30 days", "2 days"],
    "char(8)": ["a", "a ", "b", "B"],
    "timestamptz": ["2026-01-01 00:00+00", "2026-01-01 01:00+01", "infinity", "2026-01-02"],
    "jsonb": ["1", "1.0", "1.00", '"a"', '{"a": 1.0}', '{"a": 1.00}'],
    "numeric[]": ["{1,2}", "{1.0,2}", "{1.00,2.0}", "{}", "{NULL}"],
}
"""Users by the type of their column; some are equal to Postgres and written differently."""


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize(
    ("kind", "cap"), [*((kind, 6) for kind in KINDS), ("numeric", 7), ("numeric", 1000)]
)
def test_rows_that_are_equal_and_written_differently_all_come(
    supabase_server: SupabaseServer, kind: LiteralString, cap: int
) -> None:
    supabase_server.create_table(f"user_id {kind}, movie_id numeric, rating numeric")
    users = KINDS[kind]
    rows = [(user, film, stars) for user in users for film in (1, 2) for stars in (3, None)]
    random.Random(cap).shuffle(rows)
    supabase_server.insert(rows)
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = cap
    assert over_rest(supabase_server) == straight(supabase_server)


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("column", ["movie_id", "rating"])
def test_films_and_ratings_that_are_equal_all_come_too(
    supabase_server: SupabaseServer, column: str
) -> None:
    supabase_server.create_table("user_id text, movie_id numeric, rating numeric")
    texts = ["1", "1.0", "1.00", "1.000"] * 2
    fixed = {"user_id": "u", "movie_id": "11", "rating": "3"}
    more = [("a", 1, 2), ("z", 1, None)]
    supabase_server.insert([*(tuple((fixed | {column: text}).values()) for text in texts), *more])
    supabase_server.max_rows = 9
    assert over_rest(supabase_server) == straight(supabase_server)


@pytest.mark.parametrize("cap", [1, 3, 7])
def test_more_equal_rows_than_fit_on_a_page_are_an_error_and_not_fewer_rows(
    supabase_server: SupabaseServer, cap: int
) -> None:
    supabase_server.create_table("user_id text, movie_id numeric, rating numeric")
    texts = [f"1.{'0' * zeros}" for zeros in range(1, cap + 2)]
    supabase_server.insert([("a", "5", 3), *(("u", text, 3) for text in texts), ("z", "5", 3)])
    supabase_server.max_rows = cap
    with pytest.raises(SourceError) as failed:
        over_rest(supabase_server)
    assert str(failed.value) == (
        f"{cap + 1} rows of public.ratings are equal in user, film and rating, more than fit on a "
        "page over REST: make user and film its primary key, or use SUPABASE_DB_URL"
    )


@pytest.mark.usefixtures("split")
def test_rows_that_come_without_end_do_not_keep_a_read_from_ending(
    supabase_server: SupabaseServer,
) -> None:
    stay = [(f"{user:05}", film, 3.0) for user in range(20) for film in range(5)]
    supabase_server.insert(stay)
    supabase_server.max_rows = 10
    lock = threading.Lock()

    def write(number: int) -> None:
        if number > 2:  # the last row is known
            with lock:
                supabase_server.insert([(f"9{number:03}{more:04}", 1, 5) for more in range(12)])
                supabase_server.insert([("00019", 1000 * number + n, 5) for n in range(12)])

    supabase_server.before_request = write
    found = over_rest(supabase_server)
    assert all(found[(user, str(film), "3")] == 1 for user, film, _ in stay)
    assert len(supabase_server.requests) < 100


@pytest.mark.usefixtures("split")
def test_several_ranges_are_read_at_once_and_each_row_comes_once_while_others_come_and_go(
    supabase_server: SupabaseServer,
) -> None:
    stay = [(f"user-{user:03}", film, 3.0) for user in range(100) for film in (2, 4)]
    supabase_server.insert(stay)
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = 9
    draw = random.Random(0)
    lock = threading.Lock()
    at_once = threading.Barrier(pages.RANGES, timeout=30)
    first = pages.RANGES + 2  # after two requests and those for the limits between the ranges

    def write(number: int) -> None:
        if first <= number < first + pages.RANGES:
            at_once.wait()
        with lock:
            who = f"user-{draw.randrange(100):03}"
            run = supabase_server.database.execute
            run("insert into ratings values (%s, 3, 5) on conflict do nothing", (who,))
            run("delete from ratings where movie_id = 3 and user_id <> %s", (who,))

    supabase_server.before_request = write
    found = over_rest(supabase_server)
    assert {row: count for row, count in found.items() if row[1] != "3"} == {
        (user, str(film), "3"): 1 for user, film, _ in stay
    }
    assert not at_once.broken
    assert len(supabase_server.requests) > first + pages.RANGES


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("kind", ["text", "uuid", "double precision"])
def test_ranges_are_those_of_the_columns_type(
    supabase_server: SupabaseServer, kind: LiteralString
) -> None:
    supabase_server.create_table(f"user_id {kind}, movie_id int, rating real")
    user = "md5(n::text)::uuid" if kind == "uuid" else "(n * 7919 % 1000)"
    supabase_server.database.execute(
        f"insert into ratings select {user}::{kind}, mod(n, 9), 3 from generate_series(1, 300) n"
    )
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = 20
    found = over_rest(supabase_server)
    assert found == straight(supabase_server)
    ranges = {request.query["select"][:5] for request in supabase_server.requests}
    assert ranges >= {"user0", "user1", "user2", "user3"}


@pytest.mark.usefixtures("split")
def test_one_user_with_nearly_all_rows_is_read_too(supabase_server: SupabaseServer) -> None:
    supabase_server.insert([("m", film, 3.0) for film in range(90)])
    supabase_server.insert([(user, 1, 3.0) for user in "abxyz"])
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = 10
    assert over_rest(supabase_server) == straight(supabase_server)


@pytest.mark.usefixtures("split")
def test_an_error_in_one_range_ends_the_reading(supabase_server: SupabaseServer) -> None:
    supabase_server.insert([(f"u{user:03}", 1, 3.0) for user in range(100)])
    supabase_server.database.execute("analyze ratings")
    supabase_server.max_rows = 5

    def fail(number: int) -> None:
        if number == 12:
            supabase_server.database.execute("alter table ratings rename column rating to gone")

    supabase_server.before_request = fail
    with pytest.raises(SourceError, match=r"code 42703"):
        over_rest(supabase_server)


def test_a_slow_reading_says_how_it_would_be_faster(
    supabase_server: SupabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    supabase_server.create_table("user_id text, movie_id int, rating real")
    supabase_server.insert([(f"u{user:03}", 1, 3.0) for user in range(50)])
    supabase_server.max_rows = 10
    over_rest(supabase_server)
    assert caplog.text == ""
    monkeypatch.setattr(rest, "SLOW", 0.0)
    over_rest(supabase_server)
    (said,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "if user and film are not the table's primary key, each page searches" in said

"""`docs/ratings.sql` on a real PostgreSQL: whom it lets do what, and that pages are index scans."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from app_source import configure, direct_url
from helpers import BACKEND
from postgrest_server import SupabaseServer

from ml.collaborative.app_ratings import read_app_ratings
from ml.collaborative.app_ratings.pages import RANGES
from ml.collaborative.errors import SourceError

SQL = BACKEND / "docs" / "ratings.sql"
ANNA, BEN = (UUID(int=n) for n in (1, 2))


@pytest.fixture
def server(supabase_server: SupabaseServer) -> Iterator[SupabaseServer]:
    """A database as Supabase sets it up, with the file's table."""
    run = supabase_server.database.execute
    run("drop table public.ratings")
    run("create schema auth")
    run("create table auth.users (id uuid primary key)")
    run(
        "create function auth.uid() returns uuid stable language sql as "
        "$$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$"
    )
    run("create role authenticated")
    run("grant usage on schema auth to authenticated, anon, service_role")
    run("insert into auth.users values (%s), (%s)", (ANNA, BEN))
    for _ in range(2):
        run(SQL.read_text(encoding="utf-8").encode())
    try:
        yield supabase_server
    finally:
        run("reset role")
        run("drop table public.ratings")
        run("drop schema auth cascade")
        run("drop owned by authenticated")
        run("drop role authenticated")


def as_user(server: SupabaseServer, user: UUID) -> psycopg.Connection:
    """A connection of a signed-in user."""
    connection = psycopg.connect(server.database.info.dsn, autocommit=True)
    connection.execute("set role authenticated")
    connection.execute("select set_config('request.jwt.claim.sub', %s, false)", (str(user),))
    return connection


def test_users_change_and_see_their_own_ratings_alone(server: SupabaseServer) -> None:
    upsert = (
        "insert into ratings (user_id, movie_id, rating) values (%s, %s, %s) "
        "on conflict (user_id, movie_id) do update set rating = excluded.rating"
    )
    with as_user(server, ANNA) as anna, as_user(server, BEN) as ben:
        anna.execute(upsert, (ANNA, 11, 3.5))
        anna.execute(upsert, (ANNA, 11, 4.5))
        ben.execute(upsert, (BEN, 11, 1))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ben.execute(upsert, (ANNA, 862, 1))
        assert ben.execute("delete from ratings where user_id = %s", (ANNA,)).rowcount == 0
        assert anna.execute("select rating from ratings").fetchall() == [(4.5,)]
        for film, stars in ((0, 3), (11, 0.4), (11, 5.5), (None, 3), (11, None)):
            with pytest.raises(psycopg.errors.IntegrityError):
                anna.execute(upsert, (ANNA, film, stars))
        anna.execute("reset role; set role anon")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            anna.execute("select * from ratings")


@pytest.mark.parametrize("way", ["rest", "postgres"])
def test_the_view_of_the_docs_makes_ratings_of_another_table(
    server: SupabaseServer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.database.execute
    page = (BACKEND / "docs" / "app-database.md").read_text(encoding="utf-8")
    run("drop table ratings")
    run("create table films (id text, tmdb_id int)")
    run("create table ratings (user_id uuid, film_id text, stars text, percent int, mark text)")
    try:
        run("insert into films values ('tt0076759', 11), ('tt0114709', 862)")
        rows = [(ANNA, "tt0076759", "3,5"), (ANNA, "tt0114709", "0"), (BEN, "tt0114709", "4"),
                (UUID(int=0), "tt0114709", "5"), (BEN, "tt0076759", None)]  # fmt: skip
        for row in rows:
            run("insert into ratings values (%s, %s, %s)", row)
        run(page.split("```sql")[1].split("```")[0].encode())
        configure(way, server, monkeypatch)
        monkeypatch.setenv("APP_RATINGS_TABLE", "build_ratings")
        found = read_app_ratings().values.tolist()
        assert found == [[str(ANNA), 11, 3.5], [str(BEN), 862, 4.0]]
    finally:
        run("drop view if exists build_ratings")
        run("drop table films")


@pytest.mark.parametrize("way", ["rest", "postgres"])
def test_the_build_reads_all_and_a_deleted_user_is_gone(
    server: SupabaseServer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(way, server, monkeypatch)
    server.insert([(ANNA, 11, 4.5), (ANNA, 862, 3), (BEN, 11, 1)])
    assert len(read_app_ratings()) == 3
    server.database.execute("delete from auth.users where id = %s", (ANNA,))
    assert read_app_ratings().values.tolist() == [[str(BEN), 11, 1.0]]


def test_the_role_of_the_files_last_lines_reads_all_and_no_more(
    server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.insert([(ANNA, 11, 4.5), (BEN, 11, 1)])
    lines = SQL.read_text(encoding="utf-8").splitlines()[-3:]
    server.database.execute("\n".join(line.removeprefix("--") for line in lines).encode())
    url = direct_url(server.database, "ratings_reader")
    try:
        configure("postgres", server, monkeypatch)
        monkeypatch.setenv("SUPABASE_DB_URL", url)
        assert len(read_app_ratings()) == 2
        monkeypatch.setenv("APP_RATINGS_SCHEMA", "auth")
        monkeypatch.setenv("APP_RATINGS_TABLE", "users")
        with pytest.raises(SourceError, match="42501"):
            read_app_ratings()
        with psycopg.connect(url) as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("delete from ratings")
    finally:
        server.database.execute("drop owned by ratings_reader")
        server.database.execute("drop role ratings_reader")


def test_each_page_is_read_from_the_primary_keys_index(
    server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = server.database.execute
    run("insert into auth.users select md5(n::text)::uuid from generate_series(1, 1000) n")
    run(
        "insert into ratings select md5(n::text)::uuid, film, 0.5 + mod(film, 10) / 2.0 "
        "from generate_series(1, 1000) n, generate_series(1, 50) film"
    )
    run("analyze ratings")
    configure("rest", server, monkeypatch)
    server.plans = []
    assert len(read_app_ratings()) == 50_000
    assert not [plan for plan in server.plans if "Seq Scan" in plan]
    pages = [plan for plan in server.plans if "Presorted Key" in plan]
    assert len(pages) > 30
    for plan in pages:
        assert "Scan using ratings_pkey" in plan or "Scan Backward using ratings_pkey" in plan
        assert "Presorted Key: pgrst_table.user_id, pgrst_table.movie_id" in plan
        assert "Index Cond: " in plan or plan == pages[0]  # the search for the last row
    # The last page or two of each range can be fetched and sorted at once.
    assert len([plan for plan in server.plans if "Bitmap" in plan]) <= 5 * RANGES


def test_a_table_that_was_there_without_a_key_is_reported_and_left_as_it_was(
    server: SupabaseServer,
) -> None:
    run = server.database.execute
    run("drop table ratings")
    run("create table ratings (user_id uuid, movie_id int, rating real)")
    with pytest.raises(psycopg.errors.RaiseException, match="without a primary key: alter table"):
        run(SQL.read_text(encoding="utf-8").encode())
    run("rollback")
    assert run("select count(*) from pg_indexes where tablename = 'ratings'").fetchone() == (0,)
    run("alter table ratings add primary key (user_id, movie_id)")
    run(SQL.read_text(encoding="utf-8").encode())

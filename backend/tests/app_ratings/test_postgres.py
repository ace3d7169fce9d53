"""Ratings come straight from a real PostgreSQL, whole and of one moment, whatever is in the way."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import trustme
from app_source import direct_url, socket_path
from helpers import BACKEND
from postgres_relay import Relay
from postgrest_server import SupabaseServer
from pydantic import SecretStr

from benchmarks.service_load import wait_until
from ml.collaborative.app_ratings import postgres as postgres_ratings
from ml.collaborative.app_ratings.cleaning import clean_app_ratings
from ml.collaborative.errors import SourceError
from ml.collaborative.release import ReleaseStore
from ml.collaborative.settings import AppTable

pytestmark = pytest.mark.usefixtures("no_waiting")
PASSWORD = "s3cret-p@ss/word"
ROWS = 60_000
"""Some megabytes: more than lies in buffers on the way."""


@pytest.fixture
def path(database: psycopg.Connection) -> str:
    """The database's Unix socket."""
    return socket_path(database)


@pytest.fixture
def many(supabase_server: SupabaseServer) -> SupabaseServer:
    """A table of `ROWS` rows."""
    supabase_server.database.execute(
        "insert into ratings select 'user-' || mod(n, 600), n, 0.5 + mod(n, 10) / 2.0 "
        "from generate_series(1, %s) n",
        (ROWS,),
    )
    return supabase_server


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def read(url: str) -> list[tuple[str, int, float]]:
    rows = postgres_ratings.read_rows(SecretStr(url), AppTable())
    table, dropped = clean_app_ratings(rows, "0.5-5")
    assert dropped == {}
    return list(table.itertuples(index=False, name=None))


def test_every_row_comes(many: SupabaseServer) -> None:
    found = read(direct_url(many.database))
    assert len(found) == len(set(found)) == ROWS
    assert set(found) == {(f"user-{n % 600}", n, 0.5 + n % 10 / 2) for n in range(1, ROWS + 1)}


def test_what_is_written_while_reading_is_not_half_read(many: SupabaseServer, path: str) -> None:
    before = read(direct_url(many.database))
    with Relay(path, after=200_000, then="stall") as relay:

        def write() -> None:
            relay.stalled.wait(30)
            with many.database.transaction():
                many.database.execute("delete from ratings where movie_id % 2 = 0")
                many.database.execute(
                    "update ratings set rating = 0.5, movie_id = movie_id + 90000"
                )
            relay.go_on.set()

        writing = threading.Thread(target=write)
        writing.start()
        found = read(relay.url())
        writing.join()
    assert found == before
    assert len(read(direct_url(many.database))) == ROWS // 2


@pytest.mark.parametrize("after", [0, 100, 100_000])
def test_after_a_cut_connection_all_is_read_again(
    many: SupabaseServer, path: str, after: int
) -> None:
    with Relay(path, after=after, times=2) as relay:
        assert len(read(relay.url())) == ROWS
        assert relay.connections > 2


@pytest.mark.parametrize("after", [0, 100, 100_000])
def test_a_connection_that_is_always_cut_is_a_source_error(
    many: SupabaseServer, path: str, after: int
) -> None:
    with Relay(path, after=after) as relay, pytest.raises(SourceError, match=r"\(3 tries\)"):
        read(relay.url())


def test_what_is_given_up_ends_in_the_database_too(
    supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = supabase_server.database.execute
    run("drop table ratings")
    run(
        "create view ratings as select 'u' as user_id, 11 as movie_id, 4 as rating "
        "from pg_sleep(60)"
    )
    monkeypatch.setattr(postgres_ratings, "SILENCE", 0.5)
    try:
        with pytest.raises(SourceError, match=r"nothing came for 0.5 s"):
            read(direct_url(supabase_server.database))
        asleep = (
            "select count(*) from pg_stat_activity where query like 'COPY%' and state = 'active'"
        )
        wait_until(lambda: run(asleep).fetchone() == (0,), "the end of the query")
    finally:
        run("drop view ratings")


def test_a_million_rows_come_in_memory_in_step_with_the_columns(
    supabase_server: SupabaseServer, script_env: dict[str, str]
) -> None:
    supabase_server.database.execute(
        "insert into ratings select md5((n / 100)::text), 1 + mod(n, 100), 0.5 + mod(n, 10) / 2.0 "
        "from generate_series(0, 999999) n"
    )
    read_and_measure = (
        "import resource, adbc_driver_postgresql.dbapi, pandas, pyarrow\n"
        "from ml.collaborative.app_ratings import read_app_ratings\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "table = read_app_ratings()\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(len(table), len(table.drop_duplicates(['user_id', 'movie_id'])), peak)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", read_and_measure],
        env=script_env | {"SUPABASE_DB_URL": direct_url(supabase_server.database)},
        cwd=BACKEND, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows, pairs, peak = map(int, done.stdout.split())
    assert rows == pairs == 1_000_000
    # The table itself has 20 MB; its rows as tuples of Python's objects would have over 250.
    assert peak < 180_000


def test_a_silent_server_is_given_up(
    many: SupabaseServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ratings, "SILENCE", 0.5)
    stalled = Relay(path, after=100_000, then="stall")
    with stalled, pytest.raises(SourceError, match=r"nothing came for 0.5 s \(3 tries\)"):
        read(stalled.url())


def test_a_server_that_does_not_accept_is_given_up(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ratings, "CONNECT_TIMEOUT", 2)  # libpq's shortest
    monkeypatch.setattr("ml.collaborative.app_ratings.retries.WAITS", ())
    with Relay(path, accepting=False) as relay, pytest.raises(SourceError, match="timeout expired"):
        read(relay.url())


def test_a_refused_connection_is_tried_again_and_reported() -> None:
    with pytest.raises(SourceError, match=r"Connection refused.*\(3 tries\)"):
        read("postgresql://postgres@127.0.0.1:9/postgres")


def test_a_statement_timeout_of_the_role_does_not_end_the_reading(
    many: SupabaseServer, path: str
) -> None:
    many.database.execute("create role hasty login superuser")
    try:
        many.database.execute("alter role hasty set statement_timeout = '200ms'")
        with Relay(path, after=100_000, then="stall") as relay:
            # Longer than the role's statement may take, from when the relay has stalled.
            go_on = threading.Timer(0.5, relay.go_on.set)
            threading.Thread(target=lambda: (relay.stalled.wait(30), go_on.start())).start()
            assert len(read(relay.url("hasty"))) == ROWS
    finally:
        many.database.execute("drop role hasty")


def test_a_locked_table_is_waited_for_and_then_reported(
    many: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ratings, "LOCK_TIMEOUT", 0.1)
    with psycopg.connect(many.database.info.dsn) as migration:
        migration.execute("lock table ratings in access exclusive mode")
        with pytest.raises(SourceError, match=r"code 55P03 \(3 tries\): the table is locked"):
            read(direct_url(many.database))
    assert len(read(direct_url(many.database))) == ROWS


@pytest.fixture
def reader(supabase_server: SupabaseServer) -> Iterator[str]:
    """A role that may connect, and no more."""
    supabase_server.database.execute("create role reader login")
    try:
        yield "reader"
    finally:
        supabase_server.database.execute("drop owned by reader")
        supabase_server.database.execute("drop role reader")


def test_rows_hidden_by_policies_are_an_error_and_not_fewer_rows(
    supabase_server: SupabaseServer, reader: str
) -> None:
    supabase_server.insert([("anna", 11, 4), ("ben", 11, 4)])
    run = supabase_server.database.execute
    url = direct_url(supabase_server.database, reader)
    with pytest.raises(SourceError, match=r"code 42501.*needs select, and row-level security"):
        read(url)
    run("grant select on ratings to reader")
    run("create policy own on ratings for select using (user_id = 'anna')")
    with pytest.raises(SourceError, match="row-level security must not apply"):
        read(url)
    # Also for its owner where that is forced, and for a view of one that policies apply to.
    run("alter table ratings owner to reader; alter table ratings force row level security")
    with pytest.raises(SourceError, match="row-level security must not apply"):
        read(url)
    run("alter table ratings owner to postgres; alter table ratings no force row level security")
    run("grant select on ratings to reader; alter table ratings rename to kept")
    run("create view ratings as select * from kept")
    try:
        run("alter view ratings owner to reader")
        with pytest.raises(SourceError, match="row-level security must not apply"):
            read(direct_url(supabase_server.database))
    finally:
        run("drop view ratings; alter table kept rename to ratings")
    run("alter role reader bypassrls")
    assert len(read(url)) == 2


def test_an_error_that_quotes_ids_is_not_repeated(
    supabase_server: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    run = supabase_server.database.execute
    run("drop table ratings")
    run("create table rows as select 'anna-secret' as user_id, 11 as movie_id, 4 as rating")
    run("create view ratings as select (user_id::int)::text as user_id, movie_id, rating from rows")
    try:
        with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as failed:
            read(direct_url(supabase_server.database))
        assert "it has a value that cannot be read as text" in str(failed.value)
        assert "anna-secret" not in str(failed.value) + caplog.text
    finally:
        run("drop view ratings")
        run("drop table rows")


# Who connects, and where to


@pytest.fixture
def with_password(database: psycopg.Connection) -> Iterator[str]:
    """A role that the server asks for its password."""
    row = database.execute("show hba_file").fetchone()
    assert row is not None
    hba = Path(row[0])
    before = hba.read_text(encoding="utf-8")
    database.execute(f"create role careful login superuser password '{PASSWORD}'")
    hba.write_text(f"local all careful scram-sha-256\n{before}", encoding="utf-8")
    database.execute("select pg_reload_conf()")
    try:
        yield "careful"
    finally:
        hba.write_text(before, encoding="utf-8")
        database.execute("select pg_reload_conf()")
        database.execute("drop role careful")


def test_a_password_is_used_and_never_printed(
    supabase_server: SupabaseServer, with_password: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    supabase_server.insert([("anna", 11, 4)])
    with Relay(path) as relay, caplog.at_level(logging.DEBUG):
        good = relay.url(f"{with_password}:s3cret-p%40ss%2Fword")
        assert len(read(good)) == 1
        said = []
        for bad in (
            relay.url(with_password),
            relay.url(f"{with_password}:other-s3cret"),
            relay.url(f"nobody:{PASSWORD.split('@')[0]}"),
            good.replace("%40", "@").replace("%2F", "/"),
            good.replace("/postgres", "/s3cret-db"),
            good + "?s3cret=x",
            good.replace("%40", "#"),
            good.replace("s3cret-p%40ss%2Fword", "12/s3cret"),
            good.replace("%40", " "),
            relay.url(with_password, "?password=s3cret%00"),
            good.replace(f":{relay.port}", ":s3cret"),
            good.replace("postgresql", "mysql"),
            "s3cret",
            "postgresql://%zz:s3cret@[::/x",
            "host=127.0.0.1 password=s3cret",
            f"{good}?connect_timeout=s3cret",
            f"{good}?hostaddr=s3cret",
        ):
            with pytest.raises(SourceError) as failed:
                read(bad)
            said.append(str(failed.value))
    assert "s3cret" not in caplog.text + "".join(said)
    assert "needs a password" in said[0]
    assert "check its user and password" in said[1]
    assert "check its user and database" in said[4]
    assert "hostaddr is not an address" in said[-1]
    assert all("expected postgresql://USER:PASSWORD@" in line for line in said[5:-1])
    assert all("\n" not in line for line in said)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@h/d?pgbouncer=true", "has another client's parameter pgbouncer"),
        ("postgresql://u:s3cret@h/d?sslmode=require&connection_limit=1", "parameter connection_l"),
        ("postgresql://u:s3cret@h/d?s3cret=x", "has a parameter that is not libpq's: expected"),
        ("postgresql+psycopg2://u:s3cret@h/d", "does not begin with postgresql://: expected"),
        ("jdbc:postgresql://h/d?password=s3cret", "does not begin with postgresql://: expected"),
        ("https://s3cret.supabase.co", "does not begin with postgresql://: expected"),
        ("postgresql://u:s3cret#x@h/d", "has a '#', which is %23 in a password: expected"),
        ("postgresql://u:s3cret@x@h/d", "has an '@' too many, which is %40 in a password: expec"),
        ("postgresql://u:s3cret@/d", "has no host: expected"),
        ("postgresql://u:s3cret/x@h/d", "is invalid: expected"),
    ],
)
def test_a_fault_in_the_string_is_named_without_its_values(url: str, said: str) -> None:
    with pytest.raises(SourceError) as failed:
        read(url)
    assert str(failed.value).startswith("SUPABASE_DB_URL ")
    assert said in str(failed.value)
    assert "s3cret" not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://postgres:x@db.abc.supabase.co:5432/postgres", "require"),
        ("postgres://u:x@pooler.supabase.com:6543/postgres?sslmode=verify-full", "verify-full"),
        ("postgresql://u:x@127.0.0.1/postgres", "prefer"),
        ("postgresql://u@/postgres?host=/run/postgresql", "prefer"),
        ("postgresql://u@localhost/postgres?host=db.example.org", "require"),
        ("postgresql://u@localhost/postgres?hostaddr=203.0.113.4", "require"),
    ],
)
def test_tls_is_required_but_on_this_machine(url: str, mode: str) -> None:
    complete = postgres_ratings._complete(SecretStr(url)).get_secret_value()
    assert f"sslmode={mode}&" in complete + "&"


@pytest.fixture
def tls(ca: trustme.CA) -> ssl.SSLContext:
    """Of a server whose certificate is for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def test_tls_is_spoken_and_the_server_verified_where_asked_for(
    supabase_server: SupabaseServer, path: str, tls: ssl.SSLContext, ca: trustme.CA, tmp_path: Path
) -> None:
    supabase_server.insert([("anna", 11, 4)])
    tmp_path = tmp_path / "a +b%20c"
    tmp_path.mkdir()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    folder = str(tmp_path).replace("%", "%25").replace(" ", "%20")
    with Relay(path, tls=tls) as relay:
        assert len(read(relay.url(more="?sslmode=require"))) == 1
        verified = f"?sslmode=verify-full&sslrootcert={folder}/ca.pem"
        assert len(read(relay.url(more=verified))) == 1
        with pytest.raises(SourceError, match="certificate is not what sslmode"):
            read(relay.url(more=f"?sslmode=verify-full&sslrootcert={folder}/other.pem"))
        with pytest.raises(SourceError, match="certificate is not what sslmode"):
            read(relay.url(more=f"?sslmode=verify-full&sslrootcert={folder}/nowhere.pem"))
    with Relay(path) as relay, pytest.raises(SourceError, match="the server has no TLS"):
        read(relay.url(more="?sslmode=require"))


def test_a_host_with_ipv6_is_reached(supabase_server: SupabaseServer, path: str) -> None:
    supabase_server.insert([("anna", 11, 4)])
    try:
        relay = Relay(path, host="::1").__enter__()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with relay:
        assert len(read(relay.url())) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://u@db.nowhere.supabase.co/postgres",
            "IPv6 only.* connection string of the pooler",
        ),
        ("postgresql://u@nowhere.invalid/postgres", "check the host in SUPABASE_DB_URL"),
    ],
)
def test_a_host_that_cannot_be_reached_is_reported_with_the_fix(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.collaborative.app_ratings.retries.WAITS", ())
    monkeypatch.setattr(postgres_ratings, "CONNECT_TIMEOUT", 2)
    with pytest.raises(SourceError, match=said):
        read(url)


@pytest.mark.skipif(not shutil.which("pgbouncer"), reason="no pgbouncer: the pooler is not tried")
def test_a_pooler_in_transaction_mode_is_read_through(
    many: SupabaseServer, path: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    (tmp_path / "users.txt").write_text('"postgres" ""\n', encoding="utf-8")
    with Relay(path) as relay:
        (tmp_path / "pgbouncer.ini").write_text(
            f"""[databases]
postgres = host=127.0.0.1 port={relay.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {tmp_path}/users.txt
pool_mode = transaction
default_pool_size = 1
""",
            encoding="utf-8",
        )
        as_other = ["-u", "nobody"] if os.getuid() == 0 else []
        command = ["pgbouncer", *as_other, str(tmp_path / "pgbouncer.ini")]
        pooler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(port), "the pooler")
            for _ in range(3):  # over one and the same connection to the database
                assert len(read(url)) == ROWS
            assert relay.connections == 1
            with psycopg.connect(url, prepare_threshold=None, connect_timeout=5) as other:
                # What was set for one reading is not left to the next who gets the connection.
                row = other.execute("select current_setting('row_security')").fetchone()
                assert row == ("on",)
        finally:
            pooler.terminate()
            pooler.wait(10)


# The build as a process


@pytest.fixture
def app_build(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, movielens_archives: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A small build on ML-100K with the app's ratings from a database."""

    def build(url: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(
            "ml.build_collaborative", "--catalog", "all", "--data-dir", tmp_path / "data",
            "--models-dir", tmp_path / "models", "--epochs", "2", "--factors", "5",
            "--force-publish", *args,
            SUPABASE_DB_URL=url, MOVIELENS_BASE_URL=str(movielens_archives), **env,
        )  # fmt: skip

    return build


def test_a_build_reads_them_and_on_a_bad_day_leaves_what_is_live(
    app_build: Callable[..., subprocess.CompletedProcess[str]],
    many: SupabaseServer, path: str, tmp_path: Path,
) -> None:  # fmt: skip
    done = app_build(direct_url(many.database))
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,} from the app" in done.stdout
    live = ReleaseStore(tmp_path / "models").live_id()
    with Relay(path, after=100_000) as cut:
        lost = app_build(cut.url())
    assert lost.returncode == 4
    last = lost.stderr.splitlines()[-1]
    assert last.startswith("error: Postgres failed: ")
    assert "(8 tries). The published model knows 600 app users and is kept" in last
    assert ReleaseStore(tmp_path / "models").live_id() == live
    assert "Traceback" not in lost.stderr

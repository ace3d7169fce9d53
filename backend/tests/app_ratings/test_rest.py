"""Every rating of the app is read, exactly once, whatever the server does."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import joblib
import pytest
from postgres_relay import Relay
from postgrest_server import (
    Again,
    Close,
    CutBody,
    Garbage,
    Html200,
    Slow,
    Status,
    SupabaseServer,
    api_key,
)  # fmt: skip
from pydantic import SecretStr

from ml.build_collaborative import get_real_user_ratings, save_models, train_svd_model
from ml.collaborative.app_ratings import answers, client, retries
from ml.collaborative.app_ratings import rest as supabase_ratings
from ml.collaborative.app_ratings.cleaning import clean_app_ratings
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import SourceError
from ml.collaborative.ratings import combine, empty_ratings, make_ratings, sources_of
from ml.collaborative.settings import AppTable

Run = Callable[..., subprocess.CompletedProcess[str]]
KEY = SecretStr(api_key("service_role"))
LOOSE = "user_id text, movie_id numeric, rating double precision"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (0, 0))


@pytest.fixture
def configured(supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch) -> SupabaseServer:
    """The settings point to the test server, with the right key."""
    monkeypatch.setenv("SUPABASE_URL", supabase_server.url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", supabase_server.service_key)
    return supabase_server


def grid(users: int, films: int) -> list[tuple[str, int, float]]:
    """Ratings of every film by every user."""
    return [
        (f"user-{user:04}", film, 0.5 + (user + film) % 10 / 2)
        for user in range(users)
        for film in range(1, films + 1)
    ]


def read(server: SupabaseServer) -> tuple[list[tuple[str, int, float]], dict[str, int]]:
    rows, nulls = supabase_ratings.read_rows(server.url, SecretStr(server.service_key), AppTable())
    table, dropped = clean_app_ratings(rows, "0.5-5", nulls)
    return list(table.itertuples(index=False, name=None)), dropped


def test_every_row_comes_whatever_the_servers_row_cap(supabase_server: SupabaseServer) -> None:
    rows = grid(823, 15)
    supabase_server.insert(rows)
    supabase_server.max_rows = 1000
    kept, dropped = read(supabase_server)
    assert len(kept) == 12_345
    assert kept == rows
    assert dropped == {}
    pages = [request for request in supabase_server.requests if request.method == "GET"]
    # First the rows without a user or film and the last row, at the end that there are no more.
    assert len(pages) == 2 + 13 + 3
    assert pages[-1].rows == 0


@pytest.mark.parametrize("cap", [1, 7, 60])
def test_a_cap_that_divides_the_rows_loses_none(supabase_server: SupabaseServer, cap: int) -> None:
    supabase_server.insert(grid(6, 10))
    supabase_server.max_rows = cap
    assert read(supabase_server) == (grid(6, 10), {})


def test_ids_that_mean_something_to_postgrest_are_quoted(supabase_server: SupabaseServer) -> None:
    users = ["a,b", 'say "hi"', "back\\slash", "(x)", "a.b", "é", "null", "x=y&z", "%25", "'"]
    rows = sorted((user, film, 3.0) for user in users for film in (1, 2))
    supabase_server.insert(rows)
    supabase_server.max_rows = 1
    kept, dropped = read(supabase_server)
    assert sorted(kept) == rows
    assert dropped == {}


@pytest.mark.parametrize("kind", ["uuid", "bigint"])
def test_users_of_other_types_are_read_as_text(supabase_server: SupabaseServer, kind: str) -> None:
    supabase_server.create_table(
        "user_id uuid, movie_id int, rating real, primary key (user_id, movie_id)"
        if kind == "uuid"
        else "user_id bigint, movie_id int, rating real, primary key (user_id, movie_id)"
    )
    users = (
        [f"00000000-0000-4000-8000-00000000000{n}" for n in range(5)]
        if kind == "uuid"
        else ["10", "100", "2", "9", "9007199254740993"]
    )
    supabase_server.insert([(user, film, 4.5) for user in users for film in (2, 10)])
    supabase_server.max_rows = 3
    kept, _ = read(supabase_server)
    assert kept == [(user, film, 4.5) for user in users for film in (2, 10)]


def test_rows_that_cannot_be_ratings_are_counted_by_reason(supabase_server: SupabaseServer) -> None:
    supabase_server.create_table(LOOSE)
    supabase_server.insert(
        [
            (None, 1, 3), ("u", None, 3), ("u", 1, None), ("u", 2, "NaN"), ("u", 3, 5.5),
            ("u", 4.5, 3), ("", 5, 3), ("ml_1", 6, 3), ("u", 7, 2), ("u", 7, 4), ("u", 8, 0.5),
        ]
    )  # fmt: skip
    supabase_server.max_rows = 2
    kept, dropped = read(supabase_server)
    assert kept == [("u", 7, 4.0), ("u", 8, 0.5)]
    assert dropped == {
        "second rating of a film": 1,
        "user or film is null": 2,
        "user is empty": 1,
        "user id begins with the reserved 'ml_'": 1,
        "film is not a positive integer": 1,
        "rating is not a number": 2,
        "rating outside 0.5 to 5": 1,
    }


@pytest.mark.parametrize("cap", [1, 2, 3, 100])
@pytest.mark.parametrize("other", [1, None, "NaN", 9, -1])
def test_of_two_ratings_the_highest_stays_wherever_pages_are_cut(
    supabase_server: SupabaseServer, cap: int, other: object
) -> None:
    supabase_server.create_table(LOOSE)
    supabase_server.insert([("a", 1, 2), ("b", 1, 3), ("b", 1, 5), ("b", 1, other), ("c", 1, 4)])
    supabase_server.max_rows = cap
    kept, _ = read(supabase_server)
    assert kept == [("a", 1, 2.0), ("b", 1, 5.0), ("c", 1, 4.0)]


def test_rows_that_stay_are_read_once_while_others_come_and_go(
    supabase_server: SupabaseServer,
) -> None:
    stay = grid(40, 10)
    supabase_server.insert(stay)
    supabase_server.max_rows = 37

    def write(number: int) -> None:
        supabase_server.insert([(f"aaa-{number}", 1, 5), (f"zzz-{number}", 1, 5)])
        supabase_server.database.execute(
            "delete from ratings where user_id = %s", (f"aaa-{number - 1}",)
        )

    supabase_server.before_request = write
    kept, _ = read(supabase_server)
    assert [row for row in kept if row[0].startswith("user-")] == stay


@pytest.mark.parametrize(
    "fault",
    [
        Status(500), Status(502, html=True), Status(503), Status(429), Status(429, retry_after=0),
        CutBody(), Close(), Html200(), Garbage(), Slow(1.0), Again(),
    ],
    ids=repr,
)  # fmt: skip
def test_a_fault_that_passes_costs_nothing(
    supabase_server: SupabaseServer, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT", 0.5)
    supabase_server.insert(grid(5, 10))
    supabase_server.max_rows = 20
    supabase_server.faults = [None, fault, None, fault, fault]
    assert read(supabase_server) == (grid(5, 10), {})
    assert supabase_server.faults == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(500), "HTTP 500"),
        (Status(429), "HTTP 429"),
        (Close(), "disconnected"),
        (Html200(), "JSON list of rows"),
        (Slow(1.0), "timed out"),
        (CutBody(), "closed connection"),
        (Again(), "the same page twice"),
    ],
    ids=repr,
)
def test_a_fault_that_stays_is_a_source_error(
    supabase_server: SupabaseServer, fault: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT", 0.5)
    supabase_server.insert(grid(5, 10))
    supabase_server.max_rows = 20
    supabase_server.faults = [None, None, *[fault] * 9]
    with pytest.raises(SourceError, match=rf"{said}.* \(3 tries\)"):
        read(supabase_server)


def test_a_server_that_does_not_accept_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.3)
    with Relay("", accepting=False) as relay, pytest.raises(SourceError, match=r"timed out"):
        supabase_ratings.read_rows(f"http://127.0.0.1:{relay.port}", KEY, AppTable())


def test_a_refused_connection_is_tried_again_and_reported() -> None:
    with pytest.raises(SourceError, match=r"Connection refused.*\(3 tries\)"):
        supabase_ratings.read_rows("http://127.0.0.1:9", KEY, AppTable())


def test_retry_after_is_waited_for(
    supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    supabase_server.faults = [Status(429, retry_after=7), Status(503, retry_after=99_999)]
    read(supabase_server)
    assert waited == [7.0, answers.LONGEST_WAIT]


@pytest.mark.parametrize(
    ("after", "wait"),
    [
        ("7", 7), ("99999", 60), ("Tue, 24 Nov 2026 10:00:09 GMT", 9),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0), ("Wed, 25 Nov 2026 10:00:00 GMT", 60),
        ("soon", 0), ("", 0), ("-5", 0),
    ],
)  # fmt: skip
def test_a_date_to_wait_for_is_by_the_servers_clock(after: str, wait: float) -> None:
    headers = httpx.Headers({"Retry-After": after, "Date": "Tue, 24 Nov 2026 10:00:00 GMT"})
    assert answers.asked_wait(headers) == wait


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("wrong_key", "check SUPABASE_SERVICE_ROLE_KEY"),
        ("expired_key", "the key has expired.*: check SUPABASE_SERVICE_ROLE_KEY"),
        ("early_key", "is not valid yet by the server's clock: check SUPABASE_SERVICE_ROLE_KEY"),
    ],
)
def test_a_wrong_key_is_reported_and_never_printed(
    supabase_server: SupabaseServer, key: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = getattr(supabase_server, key)
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError, match=said) as failed:
        supabase_ratings.read_rows(supabase_server.url, SecretStr(secret), AppTable())
    assert secret not in str(failed.value) + caplog.text


@pytest.mark.parametrize("ending", ["\n", " ", "ü", "\x00"])
def test_a_key_that_cannot_be_sent_is_reported_and_never_printed(
    supabase_server: SupabaseServer, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = SecretStr(f"eyJsecret{ending}x")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SourceError, match=r"is not a key") as failed,
    ):
        supabase_ratings.read_rows(supabase_server.url, key, AppTable())
    assert "eyJsecret" not in str(failed.value) + caplog.text


def test_a_redirect_is_not_followed_with_the_key(supabase_server: SupabaseServer) -> None:
    supabase_server.faults = [Status(302)]
    with pytest.raises(SourceError, match="SUPABASE_URL redirects"):
        read(supabase_server)
    assert len(supabase_server.requests) == 1


def test_an_error_that_quotes_user_ids_is_not_repeated(supabase_server: SupabaseServer) -> None:
    supabase_server.create_table("user_id int, movie_id int, rating real")
    supabase_server.insert([(1, 1, 3)])
    supabase_server.before_request = lambda number: (
        supabase_server.create_table("user_id uuid, movie_id int, rating real")
        if number == 3
        else None
    )
    with pytest.raises(SourceError) as failed:
        read(supabase_server)
    assert str(failed.value).startswith("Supabase refused (code 22P02)")
    assert '"1"' not in str(failed.value)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "SSL_CERT_FILE"])
def test_network_settings_that_are_wrong_are_a_source_error(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "foo://nowhere")
    with pytest.raises(SourceError, match="proxy or TLS settings"):
        supabase_ratings.read_rows("http://127.0.0.1:9", KEY, AppTable())


@pytest.mark.parametrize(
    ("columns", "said"),
    [(None, "PGRST205"), ("user_id text, movie_id int", "42703")],
)
def test_a_table_that_is_not_there_or_lacks_a_column_is_reported(
    supabase_server: SupabaseServer, columns: str | None, said: str
) -> None:
    if columns:
        supabase_server.create_table(columns)
    else:
        supabase_server.database.execute("drop table ratings")
    with pytest.raises(SourceError, match=said) as failed:
        read(supabase_server)
    expected = "expected a table public.ratings with the columns user_id, movie_id, rating"
    assert expected in str(failed.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "http://", "http://127.0.0.1:9", "http://[", "ftp://x"]
)
def test_a_url_that_leads_nowhere_is_a_source_error(url: str) -> None:
    with pytest.raises(SourceError, match=r"SUPABASE_URL|Supabase failed|cannot be"):
        supabase_ratings.read_rows(url, KEY, AppTable())


def test_not_configured_is_an_empty_table_and_one_info_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SUPABASE_URL", "")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "")
    with caplog.at_level(logging.INFO, logger="ml"):
        table = get_real_user_ratings()
    assert table.dtypes.equals(empty_ratings().dtypes)
    assert sources_of(table) == ()
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_half_configured_is_a_warning_and_an_empty_table(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "")
    assert len(get_real_user_ratings()) == 0
    assert "SUPABASE_SERVICE_ROLE_KEY is not set" in caplog.text


def test_the_plans_function_reads_them_all_and_says_what_it_left_out(
    configured: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    configured.create_table(LOOSE)
    configured.insert([("u", 99, 99), *(("u", film, 3) for film in range(1, 11))])
    expected = [["u", film, 3.0] for film in range(1, 11)]
    assert get_real_user_ratings().values.tolist() == expected
    assert "left out 1 app ratings: rating outside 0.5 to 5" in caplog.text


def test_failing_is_a_warning_and_an_empty_table(
    configured: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    configured.faults = [Status(500)] * 3
    assert len(get_real_user_ratings()) == 0
    assert "HTTP 500" in caplog.text


# The build as a process


@pytest.fixture
def app_build(
    run: Run, supabase_server: SupabaseServer, tmp_path: Path, movielens_archives: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real build on ML-100K, small, with the app's ratings; keywords change the environment."""

    def build(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "SUPABASE_URL": supabase_server.url,
            "SUPABASE_SERVICE_ROLE_KEY": supabase_server.service_key,
            "MOVIELENS_BASE_URL": str(movielens_archives),
        }
        return run(
            "ml.build_collaborative", "--catalog", "all", "--data-dir", tmp_path / "data",
            "--models-dir", tmp_path, "--epochs", "1", "--factors", "5", "--force-publish",
            *args, **settings | env,
        )  # fmt: skip

    return build


def test_app_ratings_are_trained_on_and_never_lost_quietly(
    app_build: Run, supabase_server: SupabaseServer, tmp_path: Path
) -> None:
    supabase_server.insert([("anna", 11, 5), ("anna", 862, 4.5), ("ben", 11, 1)])
    done = app_build()
    assert done.returncode == 0, done.stderr
    assert "99,645 from MovieLens (ml-100k); 3 from the app" in done.stdout
    assert "Users     945; 2 of the app" in done.stdout
    assert "scale 0.5 to 5" in done.stderr
    assert "anna" not in done.stdout + done.stderr
    before = (tmp_path / "cf_trainset.pkl").read_bytes()
    assert joblib.load(tmp_path / "cf_trainset.pkl").knows_user(943)

    losses = {
        "a wrong key": {"SUPABASE_SERVICE_ROLE_KEY": supabase_server.wrong_key},
        "an anon key": {"SUPABASE_SERVICE_ROLE_KEY": supabase_server.anon_key},
        "no server": {"SUPABASE_URL": "http://127.0.0.1:9"},
        "no settings": {"SUPABASE_URL": "", "SUPABASE_SERVICE_ROLE_KEY": ""},
    }
    for loss, env in losses.items():
        lost = app_build(**env)
        assert lost.returncode == 4, (loss, lost.stderr)
        last = lost.stderr.splitlines()[-1]
        assert last.startswith("error: "), loss
        assert "knows 2 app users and is kept" in last, loss
        assert "--allow-missing-app-ratings" in last, loss
        assert "Traceback" not in lost.stderr, loss
        assert (tmp_path / "cf_trainset.pkl").read_bytes() == before, loss

    allowed = app_build("--allow-missing-app-ratings", SUPABASE_URL="http://127.0.0.1:9")
    assert allowed.returncode == 0, allowed.stderr
    assert "going on without app ratings" in allowed.stderr
    assert "; 0 from the app" in allowed.stdout


def test_where_no_app_users_are_published_a_database_that_fails_is_a_warning(
    app_build: Run, supabase_server: SupabaseServer
) -> None:
    for env, said in (
        ({"SUPABASE_SERVICE_ROLE_KEY": supabase_server.wrong_key}, "WARNING: Supabase refused"),
        ({"SUPABASE_SERVICE_ROLE_KEY": ""}, "SUPABASE_SERVICE_ROLE_KEY is not set; going on"),
    ):
        done = app_build(**env)
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        assert "going on without app ratings, as none are published" in done.stderr
        assert "; 0 from the app" in done.stdout
    supabase_server.insert([("u", film, 40) for film in range(1, 12)])
    assert app_build().returncode == 3


def test_the_sample_does_not_ask_supabase(
    run: Run, supabase_server: SupabaseServer, tmp_path: Path
) -> None:
    save_models(*train_svd_model(sample_ratings().head(100), epochs=1), str(tmp_path))
    done = run(
        "ml.build_collaborative", "--dataset", "sample", "--models-dir", tmp_path,
        SUPABASE_URL=supabase_server.url, SUPABASE_SERVICE_ROLE_KEY=supabase_server.service_key,
    )  # fmt: skip
    assert done.returncode == 0
    assert supabase_server.requests == []


def test_a_sample_with_app_users_in_it_is_not_a_sample(tmp_path: Path) -> None:
    from ml.collaborative.ratings import Counts
    from ml.collaborative.release import ReleaseStore, counts_of, read_manifest

    both = combine(sample_ratings().head(100), make_ratings(["anna"], [11], [5]))
    save_models(*train_svd_model(both, epochs=1), str(tmp_path))
    counts = counts_of(read_manifest(ReleaseStore(tmp_path).live_folder()))
    users, films = both["user_id"].nunique(), both["movie_id"].nunique()
    assert counts == Counts(101, users, films, app_ratings=1, app_users=1, is_sample=False)

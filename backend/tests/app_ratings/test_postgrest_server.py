"""The test server keeps the promises of PostgREST on Supabase that the reader rests on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from postgrest import APIError, CountMethod
from postgrest_server import (
    Close,
    CutBody,
    Garbage,
    Html200,
    Slow,
    Status,
    SupabaseServer,
    api_key,
)
from supabase import Client, ClientOptions, create_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Get = Callable[..., httpx.Response]

AWKWARD = ["", " ", "a,b", 'say "hi"', "back\\slash", '\\"', "(x)", "a)b", "{a,b}", "{", "d.o.t"]
AWKWARD += ["null", "NULL", "not.eq.1", "and(a.eq.1)", "é", "日本", "😀", "a%b", "a+b", "a&b=c"]
AWKWARD += ["*", "'; drop table ratings; --", "new\nline", "tab\t", ":", "a b", "%28", "$1", "%s"]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture
def client(supabase_server: SupabaseServer, http: httpx.Client) -> Client:
    return connect(supabase_server.url, supabase_server.service_key, http)


@pytest.fixture
def get(supabase_server: SupabaseServer, http: httpx.Client) -> Get:
    """Ask the server plainly: a query string, then a key and headers."""

    def ask(query: str = "", key: str = "", method: str = "GET", **headers: str) -> httpx.Response:
        key = key or supabase_server.service_key
        headers = {"apikey": key, "Authorization": f"Bearer {key}"} | headers
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.request(
            method, f"{supabase_server.url}/rest/v1/ratings?{query}", headers=headers
        )

    return ask


def connect(url: str, key: str, http: httpx.Client, *, retry: bool = False) -> Client:
    return create_client(url, key, ClientOptions(httpx_client=http, postgrest_client_retry=retry))


def quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def users(rows: Any) -> list[Any]:
    return [row["user_id"] for row in rows]


def grid(count: int) -> list[tuple[str, int, float]]:
    return [(f"u{n // 100:04}", n % 100, (n % 10 + 1) / 2) for n in range(count)]


def test_every_answer_holds_at_most_the_row_cap_and_says_200(
    supabase_server: SupabaseServer, client: Client, get: Get
) -> None:
    supabase_server.insert(grid(12_345))
    assert len(client.table("ratings").select("*").execute().data) == 1000
    assert len(client.table("ratings").select("*").limit(10_000).execute().data) == 1000
    assert len(client.table("ratings").select("*").limit(7).execute().data) == 7
    answer = get("limit=5000")
    assert (answer.status_code, answer.headers["Content-Range"]) == (200, "0-999/*")
    supabase_server.max_rows = 3
    assert len(client.table("ratings").select("*").execute().data) == 3
    assert [request.rows for request in supabase_server.requests] == [1000, 1000, 7, 1000, 3]


def test_keyset_pages_read_every_row_once_and_in_order(
    supabase_server: SupabaseServer, client: Client
) -> None:
    rows = grid(12_345)
    supabase_server.insert(reversed(rows))
    assert read_by_keyset(client) == rows
    assert len(supabase_server.requests) == 14


def read_by_keyset(client: Client) -> list[tuple[str, int, float]]:
    read: list[tuple[str, int, float]] = []
    while True:
        query = client.table("ratings").select("user_id", "movie_id", "rating")
        if read:
            user, movie = quote(read[-1][0]), read[-1][1]
            query = query.or_(f"user_id.gt.{user},and(user_id.eq.{user},movie_id.gt.{movie})")
        page: Any = query.order("user_id").order("movie_id").execute().data
        if not page:
            return read
        read += [(row["user_id"], row["movie_id"], row["rating"]) for row in page]


def test_keyset_pages_hold_with_awkward_user_ids(
    supabase_server: SupabaseServer, client: Client
) -> None:
    supabase_server.max_rows = 1
    rows = sorted((user, movie, 3.5) for user in AWKWARD for movie in (1, 2))
    supabase_server.insert(rows)
    assert read_by_keyset(client) == rows


@pytest.mark.parametrize("user", AWKWARD)
def test_each_awkward_user_id_is_found_in_every_kind_of_filter(
    supabase_server: SupabaseServer, client: Client, user: str
) -> None:
    supabase_server.insert([(user, 1, 1.0), ("someone else", 1, 1.0)])
    table = client.table("ratings")
    assert users(table.select("*").eq("user_id", user).execute().data) == [user]
    assert users(table.select("*").neq("user_id", user).execute().data) == ["someone else"]
    inside = table.select("*").or_(f"and(user_id.eq.{quote(user)})").execute()
    assert users(inside.data) == [user]
    listed = table.select("*").in_("user_id", ["nobody", user]).execute()
    assert users(listed.data) == [user]


def test_unquoted_values_in_a_tree_end_at_a_comma_or_a_bracket(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.insert([('a"b(c', 1, 1.0), ("{x,y}", 1, 2.0), ("z", 1, 3.0)])
    assert users(get('or=(user_id.eq.a"b(c,user_id.eq.{x,y})&order=user_id').json()) == [
        'a"b(c',
        "{x,y}",
    ]
    assert get("or=(user_id.eq.a)b,user_id.eq.z)").status_code == 400


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("movie_id=eq.2", [2]),
        ("movie_id=neq.2", [1, 3, 4]),
        ("movie_id=gt.2", [3, 4]),
        ("movie_id=gte.2", [2, 3, 4]),
        ("movie_id=lt.2", [1]),
        ("movie_id=lte.2", [1, 2]),
        ("movie_id=not.gt.2", [1, 2]),
        ("movie_id=gt.1&movie_id=lt.4", [2, 3]),
        ("movie_id=in.(1,3)", [1, 3]),
        ("movie_id=not.in.(1,3)", [2, 4]),
        ("movie_id=in.()", []),
        ("rating=is.null", [4]),
        ("rating=not.is.null", [1, 2, 3]),
        ("seen=is.true", [1]),
        ("seen=is.false", [2]),
        ("seen=not.is.true", [2, 3, 4]),
        ("or=(movie_id.eq.1,movie_id.eq.4)", [1, 4]),
        ("or=( movie_id.eq.1 , and( movie_id.gt.2,rating.not.is.null) )", [1, 3]),
        ("not.or=(movie_id.eq.1,movie_id.eq.4)", [2, 3]),
        ("and=(movie_id.gt.1,not.or(movie_id.eq.2,movie_id.in.(4,5)))", [3]),
        ('or=("movie_id".eq."1",user_id.eq."u4")', [1, 4]),
    ],
)
def test_filters_choose_the_rows_postgrest_would(
    supabase_server: SupabaseServer, get: Get, query: str, found: list[int]
) -> None:
    supabase_server.create_table("user_id text, movie_id int, rating float8, seen boolean")
    rows = [
        ("u1", 1, 1.0, True),
        ("u2", 2, 2.0, False),
        ("u3", 3, 3.0, None),
        ("u4", 4, None, None),
    ]
    supabase_server.insert(rows, ("user_id", "movie_id", "rating", "seen"))
    answer = get(f"select=movie_id&order=movie_id&{query}")
    assert answer.json() == [{"movie_id": movie} for movie in found]


def test_order_follows_each_column_its_way_and_its_place_for_nulls(
    supabase_server: SupabaseServer, client: Client
) -> None:
    supabase_server.create_table("user_id text, movie_id int, rating float8")
    supabase_server.insert([("b", 1, 1), ("a", 2, None), ("a", 2, 5), ("a", 1, 3), (None, 9, 2)])

    def read(*order: tuple[str, bool, bool | None]) -> list[Any]:
        query = client.table("ratings").select("user_id", "rating")
        for column, desc, nullsfirst in order:
            query = query.order(column, desc=desc, nullsfirst=nullsfirst)
        return [tuple(row.values()) for row in query.execute().data]  # type: ignore[union-attr]

    assert read(("user_id", False, None), ("movie_id", False, None), ("rating", True, None)) == [
        ("a", 3), ("a", None), ("a", 5), ("b", 1), (None, 2),
    ]  # fmt: skip
    assert read(("user_id", False, True), ("movie_id", True, None), ("rating", True, False)) == [
        (None, 2), ("a", 5), ("a", None), ("a", 3), ("b", 1),
    ]  # fmt: skip


def test_user_ids_are_ordered_by_code_point_whatever_the_locale(
    supabase_server: SupabaseServer, client: Client
) -> None:
    supabase_server.insert([(user, 1, 1.0) for user in AWKWARD])
    read = client.table("ratings").select("user_id").order("user_id").execute()
    assert users(read.data) == sorted(AWKWARD)


def test_limit_offset_and_range_header_choose_the_page(
    supabase_server: SupabaseServer, client: Client, get: Get
) -> None:
    supabase_server.insert(grid(10))
    page = client.table("ratings").select("movie_id").order("movie_id").range(2, 4).execute()
    assert page.data == [{"movie_id": 2}, {"movie_id": 3}, {"movie_id": 4}]
    ranged = get("select=movie_id&order=movie_id", Range="8-20", Range_Unit="items")
    assert (ranged.status_code, ranged.headers["Content-Range"]) == (200, "8-9/*")
    assert ranged.json() == [{"movie_id": 8}, {"movie_id": 9}]
    assert get("offset=50").headers["Content-Range"] == "*/*"
    assert get("limit=0").json() == []
    for answer in (get(Range="5-2"), get("limit=-1"), get("offset=11", Prefer="count=exact")):
        assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")


def test_count_exact_gives_the_total_and_206_when_partial(
    supabase_server: SupabaseServer, client: Client, get: Get
) -> None:
    supabase_server.insert(grid(1234))
    for method in ("GET", "HEAD"):
        part = get(method=method, Prefer="count=exact")
        assert (part.status_code, part.headers["Content-Range"]) == (206, "0-999/1234")
        whole = get("movie_id=eq.0", method=method, Prefer="count=exact")
        assert (whole.status_code, whole.headers["Content-Range"]) == (200, "0-12/13")
        none = get("movie_id=eq.-1", method=method, Prefer="count=exact")
        assert (none.status_code, none.headers["Content-Range"]) == (200, "*/0")
    assert get(method="HEAD").content == b""
    counted = client.table("ratings").select("*", count=CountMethod.exact, head=True).execute()
    assert (counted.count, counted.data) == (1234, [])


def test_json_is_what_postgres_makes_of_each_type(
    supabase_server: SupabaseServer, client: Client
) -> None:
    supabase_server.create_table("user_id uuid, movie_id bigint, rating float8, price numeric")
    user = "0b0e7c0e-5f0e-4b1e-9d3a-000000000001"
    supabase_server.insert(
        [(user, 2**60, float("nan"), "NaN"), (user.upper(), 1, float("inf"), "1.50")],
        ("user_id", "movie_id", "rating", "price"),
    )
    read = client.table("ratings").select("*").eq("user_id", user).order("movie_id").execute()
    assert read.data == [
        {"user_id": user, "movie_id": 1, "rating": "Infinity", "price": 1.5},
        {"user_id": user, "movie_id": 2**60, "rating": "NaN", "price": "NaN"},
    ]


def test_a_column_chosen_by_name_comes_alone_and_in_the_order_asked(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.insert([("u1", 7, 4.0)])
    assert list(get("select=rating,user_id").json()[0].items()) == [
        ("rating", 4),
        ("user_id", "u1"),
    ]


def test_an_anon_key_reads_no_rows_and_no_error_under_row_level_security(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.insert(grid(5))
    answer = get(key=supabase_server.anon_key)
    assert (answer.status_code, answer.json()) == (200, [])
    assert len(get().json()) == 5
    supabase_server.database.execute("create policy open on ratings for select using (true)")
    assert len(get(key=supabase_server.anon_key).json()) == 5


def test_a_role_without_the_grant_is_refused(supabase_server: SupabaseServer, get: Get) -> None:
    supabase_server.database.execute("revoke all on ratings from anon, service_role")
    for key, status in ((supabase_server.anon_key, 401), (supabase_server.service_key, 403)):
        answer = get(key=key)
        assert (answer.status_code, answer.json()["code"]) == (status, "42501")


def test_a_key_that_is_invalid_gets_the_answer_of_postgrest(
    supabase_server: SupabaseServer, http: httpx.Client, get: Get
) -> None:
    bad = {"code": "PGRST301", "details": None, "hint": None}
    bad["message"] = "JWSError JWSInvalidSignature"
    for key in (supabase_server.wrong_key, "a.b.c"):
        answer = get(key=key)
        assert (answer.status_code, answer.json()) == (401, bad)
    assert get(key="garbage").json()["message"].endswith("Expected 3 parts; got 1)")
    expired = get(key=supabase_server.expired_key)
    assert expired.status_code == 401
    assert (expired.json()["code"], expired.json()["message"]) == ("PGRST303", "JWT expired")
    assert get(key=api_key("service_role", expires_in=-10)).status_code == 200
    wrong = connect(supabase_server.url, supabase_server.wrong_key, http).table("ratings")
    for query in (wrong.select("*"), wrong.select("*", head=True)):
        with pytest.raises(APIError) as raised:
            query.execute()
        assert raised.value.code == "PGRST301"


def test_a_request_without_apikey_stops_at_the_gateway(
    supabase_server: SupabaseServer, http: httpx.Client
) -> None:
    answer = http.get(f"{supabase_server.url}/rest/v1/ratings")
    assert answer.status_code == 401
    assert answer.json()["message"] == "No API key found in request"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("select=nothing", 400, "42703"),
        ("nothing=eq.1", 400, "42703"),
        ("order=nothing", 400, "42703"),
        ("movie_id=eq.many", 400, "22P02"),
        ("user_id=eq.%00", 400, "22021"),
        ("offset=9223372036854775808", 400, "22003"),
        ("or=(movie_id.eq.1", 400, "PGRST100"),
        ("or=()", 400, "PGRST100"),
        ("or=(movie_id.eq.1,)", 400, "PGRST100"),
        ('or=(user_id.eq."a"b",movie_id.eq.1', 400, "PGRST100"),
        ("movie_id=in.(1)2", 400, "PGRST100"),
        ("movie_id=is.nullable", 400, "PGRST100"),
        ("movie_id=5", 400, "PGRST100"),
        ("movie_id=about.5", 400, "PGRST100"),
        ("movie_id=is.5", 400, "PGRST100"),
        ("movie_id=in.5", 400, "PGRST100"),
        ("order=movie_id.up", 400, "PGRST100"),
        ("select=movie_id,", 400, "PGRST100"),
    ],
)
def test_a_query_that_is_wrong_is_refused_with_its_code(
    supabase_server: SupabaseServer, get: Get, query: str, status: int, code: str
) -> None:
    supabase_server.insert(grid(1))
    answer = get(query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "details", "hint", "message"}
    assert get(query, method="HEAD").headers["Proxy-Status"] == f"PostgREST; error={code}"


def test_an_unknown_table_is_404_and_a_dropped_one_too(
    supabase_server: SupabaseServer, client: Client, get: Get
) -> None:
    with pytest.raises(APIError) as raised:
        client.table("rating").select("*").execute()
    assert raised.value.code == "PGRST205"
    assert raised.value.message == "Could not find the table 'public.rating' in the schema cache"
    supabase_server.database.execute("drop table ratings")
    assert (get().status_code, get().json()["code"]) == (404, "PGRST205")


def test_a_statement_that_takes_too_long_is_cancelled_by_the_database(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.statement_timeout_ms = 20
    dsn = supabase_server.database.info.dsn
    with psycopg.connect(dsn) as other:
        other.execute("lock table ratings in access exclusive mode")
        answer = get()
    assert (answer.status_code, answer.json()["code"]) == (500, "57014")
    assert get().status_code == 200


def test_faults_come_in_order_and_none_lets_a_request_through(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.insert(grid(2))
    supabase_server.faults = [Status(503), None, Status(429, retry_after=0), Status(500, html=True)]
    answers = [get() for _ in range(5)]
    assert [answer.status_code for answer in answers] == [503, 200, 429, 500, 200]
    assert answers[2].headers["Retry-After"] == "0"
    assert answers[3].headers["Content-Type"] == "text/html"
    assert [request.rows for request in supabase_server.requests] == [None, 2, None, None, 2]
    assert [request.status for request in supabase_server.requests] == [503, 200, 429, 500, 200]


def test_a_cut_body_and_a_closed_connection_are_broken_connections_to_a_client(
    supabase_server: SupabaseServer, get: Get
) -> None:
    supabase_server.insert(grid(50))
    supabase_server.faults = [CutBody(), Close()]
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        get()
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        get()
    assert len(get().json()) == 50


def test_a_slow_answer_is_right_and_passes_the_patience_of_a_client(
    supabase_server: SupabaseServer, http: httpx.Client, get: Get
) -> None:
    supabase_server.insert(grid(3))
    supabase_server.faults = [Slow(0.01), Slow(60)]
    assert len(get().json()) == 3
    http.timeout = httpx.Timeout(5, read=0.05)
    with pytest.raises(httpx.ReadTimeout):
        get()


@pytest.mark.parametrize("fault", [Html200(), Garbage()])
def test_the_client_hands_on_a_200_that_is_no_json_as_text(
    supabase_server: SupabaseServer, client: Client, fault: Html200 | Garbage
) -> None:
    supabase_server.faults = [fault]
    data = client.table("ratings").select("*").execute().data
    assert isinstance(data, str)
    with pytest.raises(json.JSONDecodeError):
        json.loads(data)


def test_the_client_on_its_own_tries_again_three_times_after_503_but_not_after_429(
    supabase_server: SupabaseServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postgrest._sync.request_builder.get_retry_delay", lambda _: 0)
    client = connect(supabase_server.url, supabase_server.service_key, http, retry=True)
    supabase_server.faults = [Status(503), Close(), CutBody(), None]
    assert client.table("ratings").select("*").execute().data == []
    assert len(supabase_server.requests) == 4
    supabase_server.faults = [Status(429)]
    with pytest.raises(APIError):
        client.table("ratings").select("*").execute()
    assert len(supabase_server.requests) == 5


def test_a_hook_can_change_the_table_before_each_query(
    supabase_server: SupabaseServer, get: Get
) -> None:
    def grow(number: int) -> None:
        supabase_server.insert([(f"u{number}", 1, 1.0)])

    supabase_server.before_request = grow
    supabase_server.faults = [None, Status(503)]
    assert [len(get().json()) for _ in range(3)][::2] == [1, 2]
    assert users(get("order=user_id").json()) == ["u1", "u3", "u4"]


def test_an_error_in_a_hook_fails_the_test_that_set_it(database: psycopg.Connection) -> None:
    server = SupabaseServer(database)

    def fail(number: int) -> None:
        raise ValueError(f"request {number}")

    server.before_request = fail
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/rest/v1/ratings")
    with pytest.raises(ValueError, match="request 1"):
        server.close()


def test_a_closed_server_refuses_connections_and_may_be_closed_again(
    supabase_server: SupabaseServer, get: Get
) -> None:
    assert get().status_code == 200
    supabase_server.close()
    with pytest.raises(httpx.ConnectError):
        get()


def test_many_connections_are_served_at_once(supabase_server: SupabaseServer, get: Get) -> None:
    supabase_server.faults = [Slow(60)]
    supabase_server.insert(grid(5))
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(get)
        while not supabase_server.requests:
            assert not slow.done()
        assert len(get().json()) == 5
        supabase_server.close()
        assert isinstance(slow.exception(), httpx.TransportError)


def test_requests_are_recorded_as_they_were_asked(
    supabase_server: SupabaseServer, client: Client
) -> None:
    supabase_server.insert(grid(4))
    client.table("ratings").select("user_id").gt("movie_id", 1).or_("user_id.gt.a").execute()
    request = supabase_server.requests[0]
    assert (request.method, request.path, request.rows) == ("GET", "/rest/v1/ratings", 2)
    assert dict(request.query) == {
        "select": "user_id", "movie_id": "gt.1", "or": "(user_id.gt.a)",
    }  # fmt: skip
    assert request.headers["apikey"] == supabase_server.service_key


def test_one_connection_serves_many_requests_and_says_nothing(
    supabase_server: SupabaseServer, get: Get, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = [get(), get(method="HEAD"), get("or=("), get(key="garbage"), get()]
    streams = {
        answer.extensions["network_stream"].get_extra_info("client_addr") for answer in answers
    }
    assert len(streams) == 1
    assert all(int(answer.headers["Content-Length"]) > 0 for answer in answers)
    assert capfd.readouterr() == ("", "")
    assert len(supabase_server.requests) == 5

"""What holds however the app's ratings are read: over REST, or straight from Postgres."""

from __future__ import annotations

import random
import re
from typing import LiteralString

import pandas as pd
import pytest
from app_source import configure
from postgrest_server import SupabaseServer
from psycopg import sql

from ml.collaborative.app_ratings import read_app_ratings
from ml.collaborative.errors import InputError, SourceError
from ml.collaborative.ratings import sources_of

LOOSE = "user_id text, movie_id numeric, rating double precision"
MESSY: list[tuple[object, object, object]] = [
    (None, 1, 3), ("u", None, 3), ("u", 1, None), ("u", 2, "NaN"), ("u", 3, 5.5), ("u", 4.5, 3),
    ("", 5, 3), ("ml_1", 6, 3), ("u", 7, 2), ("u", 7, 4), ("u", 8, 0.5), ("u", 9, "Infinity"),
    (" u", 1, 3), ("a,b", 1, 3), ('say "hi"', 1, 3), ("back\\slash", 1, 3), ("é", 1, 3),
    ("null", 1, 3), ("x=y&z", 1, 3), ("\U0001f3ac", 1, 3), ("tab\tand\nline", 1, 3),
]  # fmt: skip
"""Valid and invalid rows."""


def read() -> tuple[list[list[object]], dict[str, int]]:
    table = read_app_ratings()
    (source,) = sources_of(table)
    assert (source.name, source.kept) == ("app", len(table))
    assert source.rows == source.kept + sum(source.dropped.values())
    return table.values.tolist(), dict(source.dropped)


@pytest.mark.parametrize(
    "columns",
    [
        "user_id text, movie_id int, rating real, primary key (user_id, movie_id)",
        "user_id uuid, movie_id bigint, rating numeric(2, 1), primary key (user_id, movie_id)",
        "user_id bigint, movie_id text, rating text",
        'user_id text collate "C", movie_id smallint, rating double precision',
        "user_id numeric, movie_id double precision, rating numeric",
        LOOSE,
    ],
)
def test_both_ways_give_the_same_table_row_for_row(
    columns: LiteralString, supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    supabase_server.create_table(columns)
    draw = random.Random(0)
    users = [
        f"{draw.getrandbits(128):032x}" if "uuid" in columns else str(draw.getrandbits(60))
        for _ in range(300)
    ]
    pairs = {(draw.choice(users), draw.randrange(1, 3000)) for _ in range(5000)}
    rows = [(*pair, draw.choice([0.5, 1, 2.7, 3.3, 4.5, 5])) for pair in sorted(pairs)]
    draw.shuffle(rows)
    supabase_server.insert([*rows, *MESSY] if columns == LOOSE else rows)
    found = []
    for way in ("rest", "postgres"):
        configure(way, supabase_server, monkeypatch)
        found.append(read_app_ratings())
    over_rest, straight = found
    pd.testing.assert_frame_equal(over_rest, straight, check_exact=True)
    assert sources_of(over_rest) == sources_of(straight)
    assert len(straight) == len(rows) + (11 if columns == LOOSE else 0)
    assert bool(supabase_server.requests)


def test_rows_that_cannot_be_ratings_are_counted_by_reason(source: SupabaseServer) -> None:
    source.create_table(LOOSE)
    good = [["v", film, 3.0] for film in range(1, 40)]
    source.insert([*MESSY[:12], *good])
    assert read() == (
        [["u", 7, 4.0], ["u", 8, 0.5], *good],
        {
            "user or film is null": 2,
            "user is empty": 1,
            "user id begins with the reserved 'ml_'": 1,
            "film is not a positive integer": 1,
            "rating is not a number": 3,
            "rating outside 0.5 to 5": 1,
            "second rating of a film": 1,
        },
    )


def test_a_rating_that_is_text_is_read_as_a_number_where_it_is_one(source: SupabaseServer) -> None:
    source.create_table("user_id text, movie_id text, rating text")
    source.insert(
        [("u", "11", "4.5"), ("u", "862", "great"), ("v", "12e5", "3"), ("v", " 12", "3"),
         ("v", "12.0", "3"), ("v", "11", "")]
    )  # fmt: skip
    assert read() == (
        [["u", 11, 4.5], ["v", 12, 3.0]],
        {"film is not a positive integer": 2, "rating is not a number": 2},
    )


@pytest.mark.parametrize(
    ("scale", "kind", "rows", "expected"),
    [
        ("1-10", "int", [("u", 1, 10), ("u", 2, 7), ("u", 3, 0)], [5.0, 3.5]),
        ("thumbs", "boolean", [("u", 1, True), ("u", 2, False)], [4.5, 2.5]),
        (
            "thumbs",
            "smallint",
            [("u", 1, 1), ("u", 2, -1), ("u", 3, 0), ("u", 4, 2)],
            [4.5, 2.5, 2.5],
        ),
    ],
)
def test_the_scale_is_as_declared(
    source: SupabaseServer,
    monkeypatch: pytest.MonkeyPatch,
    scale: str,
    kind: LiteralString,
    rows: list[tuple[str, int, object]],
    expected: list[float],
) -> None:
    monkeypatch.setenv("APP_RATINGS_SCALE", scale)
    source.create_table("user_id text, movie_id int, rating " + kind)
    more = [("v", film, rows[0][2]) for film in range(1, 30)]
    source.insert([*rows, *more])
    table = read_app_ratings()
    assert table["rating"].tolist() == expected + [expected[0]] * len(more)


@pytest.mark.parametrize(
    ("kind", "given", "scale"),
    [
        ("int", range(1, 11), "1-10"),
        ("smallint", [1, -1], "thumbs"),
        ("boolean", [True, False], "thumbs"),
    ],
)
def test_ratings_on_another_scale_than_declared_are_not_trained_on(
    source: SupabaseServer, kind: LiteralString, given: list[object], scale: str
) -> None:
    source.create_table("user_id text, movie_id int, rating " + kind)
    source.insert([(f"u{n}", 11, stars) for n in range(20) for stars in given])
    with pytest.raises(InputError, match=rf"outside the scale .*set APP_RATINGS_SCALE to {scale}$"):
        read()


@pytest.mark.parametrize(
    ("ratings", "stars"),
    [
        (["0", "1", "2", "5"], [1, 2, 5]),
        (["-1", "3.5", "5"], [3.5, 5]),
        (["3,5", "4,5", "5"], [3.5, 4.5, 5]),
        (["4/5", "2.5/5"], [2.5, 4]),
        (["7 / 10", "10 / 10"], [3.5, 5]),
        (["0", "60", "100"], [0.5, 3, 5]),
        (["80%", "92,5 %"], [4, 4.625]),
        (["900", "1000"], [4.5, 5]),
    ],
)
def test_the_view_that_is_advised_makes_stars(
    supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch,
    ratings: list[str], stars: list[float],
) -> None:  # fmt: skip
    run = supabase_server.database.execute
    configure("postgres", supabase_server, monkeypatch)
    supabase_server.create_table("user_id text, movie_id int, rating text")
    rows = [(f"u{n}", film, text) for n in range(12) for film, text in enumerate(ratings, 1)]
    supabase_server.insert(rows)
    with pytest.raises(InputError) as failed:
        read()
    said = str(failed.value)
    if scale := re.search("set APP_RATINGS_SCALE to ([0-9.-]+)", said):
        monkeypatch.setenv("APP_RATINGS_SCALE", scale[1])
    (advised,) = re.findall(r" \(((?:where|greatest|replace).*)\) and set APP_RATINGS_TABLE", said)
    rating, where = ("rating", advised) if advised.startswith("where") else (advised, "")
    view = f"create view stars as select user_id, movie_id, {rating} as rating from ratings {where}"
    run(view.encode())
    try:
        monkeypatch.setenv("APP_RATINGS_TABLE", "stars")
        assert sorted({found for _, _, found in read()[0]}) == stars
    finally:
        run("drop view stars")


def test_ids_that_are_not_tmdb_s_are_not_trained_on(source: SupabaseServer) -> None:
    source.create_table("user_id text, movie_id text, rating real")
    source.insert([(f"u{n}", "tt0114709", 4) for n in range(11)])
    with pytest.raises(InputError, match=r"11 of 11 .* found IMDb ids such as 'tt0114709'"):
        read()


def test_an_account_with_most_ratings_is_warned_of_without_its_id(
    source: SupabaseServer, caplog: pytest.LogCaptureFixture
) -> None:
    source.insert([("importer", film, 3) for film in range(1, 1002)])
    source.insert([(f"u{n}", 11, 4) for n in range(999)])
    assert len(read_app_ratings()) == 2000
    assert "one account has 50% of the app's ratings (1,001 of 2,000)" in caplog.text
    assert "one account has 1,001 ratings of 3 stars, 50% of the app's ratings" in caplog.text
    assert "importer" not in caplog.text


@pytest.mark.parametrize(
    ("schema", "table", "user", "movie", "rating"),
    [
        ("app", "votes", "userId", "tmdb", "stars"),
        ("my-app", "Rated films", "user.id", "film id", "select"),
        ('odd"schema', "it's; drop table x --", "user,id", "f(il)m", 'say: "x"'),
        ("public", "a?c=d#e &é", "user_id::text", "movie\\id", "rating.desc"),
    ],
)
def test_names_of_ones_own_are_quoted(
    source: SupabaseServer, monkeypatch: pytest.MonkeyPatch,
    schema: str, table: str, user: str, movie: str, rating: str,
) -> None:  # fmt: skip
    names = {"schema": schema, "table": table, "user": user, "movie": movie, "rating": rating}
    for name, value in names.items():
        monkeypatch.setenv(f"APP_RATINGS_{name.upper()}", value)
    place = sql.Identifier(schema, table)
    columns = [sql.Identifier(name) for name in (user, movie, rating)]
    source.schemas.append(schema)
    source.max_rows = 2
    run = source.database.execute
    run(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    run(sql.SQL("grant usage on schema {} to service_role").format(sql.Identifier(schema)))
    run(sql.SQL("create table {} ({} text, {} int, {} real)").format(place, *columns))
    try:
        run(sql.SQL("grant select on {} to service_role").format(place))
        rows = [[f"u{n}", film, 2.5] for n in range(3) for film in (11, 862)]
        for row in rows:
            values = map(sql.Literal, row)
            run(sql.SQL("insert into {} values ({}, {}, {})").format(place, *values))
        assert read() == (rows, {})
    finally:
        run(sql.SQL("drop table {}").format(place))


@pytest.mark.parametrize(
    "change",
    [
        "alter table ratings drop column rating",
        "alter table ratings rename column user_id to userid",
        "drop table ratings",
    ],
)
def test_a_table_or_column_that_is_missing_is_reported(
    source: SupabaseServer, change: LiteralString
) -> None:
    source.database.execute(change)
    with pytest.raises(SourceError) as failed:
        read()
    assert (
        "expected a table public.ratings with the columns user_id, movie_id, rating; "
        "APP_RATINGS_TABLE and its kind set other names"
    ) in str(failed.value)


def test_a_schema_that_is_missing_is_reported(
    source: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_RATINGS_SCHEMA", "nowhere")
    with pytest.raises(SourceError, match="nowhere"):
        read()


def test_postgres_goes_before_rest_where_both_are_set(
    supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("rest", supabase_server, monkeypatch)
    url, key = supabase_server.url, supabase_server.service_key
    configure("postgres", supabase_server, monkeypatch)
    monkeypatch.setenv("SUPABASE_URL", url)
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", key)
    supabase_server.insert([("u", 11, 4)])
    assert read() == ([["u", 11, 4.0]], {})
    assert supabase_server.requests == []

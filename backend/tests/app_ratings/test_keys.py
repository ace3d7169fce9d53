"""A key that row-level security could hide rows from is refused before anything is asked."""

from __future__ import annotations

import base64
import json
import logging

import pytest
from postgrest_server import SupabaseServer, api_key
from pydantic import SecretStr

from ml.collaborative.app_ratings import read_app_ratings, rest
from ml.collaborative.app_ratings.client import address_of
from ml.collaborative.errors import SourceError
from ml.collaborative.settings import AppTable

pytestmark = pytest.mark.usefixtures("no_waiting")


def token(claims: object) -> str:
    """What looks like a signed token with these claims."""
    parts = (json.dumps(part).encode() for part in ({"alg": "HS256"}, claims))
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    return text + ".c2lnbmF0dXJl"


def read(server: SupabaseServer, key: str, role: str = "service_role") -> int:
    return len(rest.read_rows(server.url, SecretStr(key), AppTable(), role)[0])


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (api_key("anon"), "is of the role anon, which row-level security can hide rows from"),
        (api_key("authenticated"), "is of the role authenticated, which row-level"),
        (api_key("my_reader"), "is of the role my_reader, which row-level"),
        (api_key("Anna Smith"), "is of no known role, which row-level"),
        (api_key("Service_Role"), "is of no known role, which row-level"),
        (token({"sub": "anna"}), "is of no known role"),
        (token({"role": None}), "is of no known role"),
        (token({"role": ["service_role"]}), "is of no known role"),
        (token(["service_role"]), "is of no known role"),
        ("sb_publishable_s3cret", "is a publishable key"),
        ("sbp_s3cret", "is not a key: expected the project's service_role key"),
        ("s3cret", "is not a key"),
        ("e30.s3cret", "is not a key"),
        ("a.s3cret!.c", "is not a key"),
        (f"a.{'W1tb' * 20000}.c", "is not a key"),
    ],
)
def test_a_key_of_another_role_is_refused_before_anything_is_asked(
    supabase_server: SupabaseServer, key: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    supabase_server.insert([("anna", 11, 4)])
    supabase_server.database.execute("create policy good on ratings for select using (rating > 4)")
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as failed:
        read(supabase_server, key)
    assert str(failed.value).startswith(f"SUPABASE_SERVICE_ROLE_KEY {said}")
    for part in ("s3cret", "anna", "Anna", *key.split(".")):
        assert len(part) < 4 or part not in str(failed.value) + caplog.text
    assert supabase_server.requests == []


def test_keys_of_the_service_role_are_taken(supabase_server: SupabaseServer) -> None:
    supabase_server.insert([("anna", 11, 4)])
    assert read(supabase_server, supabase_server.service_key) == 1
    assert read(supabase_server, supabase_server.secret_key) == 1
    assert read(supabase_server, supabase_server.secret_key, role="reader") == 1
    with pytest.raises(
        SourceError, match=r"Supabase refused \(HTTP 401\).*must be of this project"
    ):
        read(supabase_server, "sb_secret_other")


def test_a_role_of_the_app_s_own_is_taken_where_a_setting_says_so(
    supabase_server: SupabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = supabase_server.database.execute
    run("create role reader bypassrls")
    try:
        run("grant select on ratings to reader")
        supabase_server.insert([("anna", 11, 4)])
        monkeypatch.setenv("SUPABASE_URL", supabase_server.url)
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", api_key("reader"))
        monkeypatch.setenv("SUPABASE_DB_URL", "")
        with pytest.raises(SourceError, match=r"of the role reader.*set APP_RATINGS_ROLE"):
            read_app_ratings()
        monkeypatch.setenv("APP_RATINGS_ROLE", "reader")
        assert len(read_app_ratings()) == 1
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", supabase_server.service_key)
        assert len(read_app_ratings()) == 1
    finally:
        run("drop owned by reader")
        run("drop role reader")


@pytest.mark.parametrize(
    "ending",
    ["//", "/rest/v1", "/rest/v1/ratings/", "/auth/v1"],
)
def test_what_follows_the_address_of_a_project_is_cut_off(
    supabase_server: SupabaseServer, ending: str
) -> None:
    supabase_server.insert([("anna", 11, 4)])
    key = SecretStr(supabase_server.service_key)
    assert len(rest.read_rows(supabase_server.url + ending, key, AppTable())[0]) == 1
    assert address_of(f"https://host/supabase{ending}") == "https://host/supabase/rest/v1"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("abc.supabase.co", "does not begin with https:// or http://"),
        ("s3cret", "does not begin with https://"),
        ("postgresql://u:s3cret@h/d", "is the database's address, which is for SUPABASE_DB_URL"),
        ("https://u:s3cret@abc.supabase.co", "has a user or a password in it"),
        ("https://abc.supabase.co:s3cret", "is not an address"),
        ("https://[s3cret", "is not an address"),
        ("https://s3 cret", "is not an address"),
        ("https://", "is not an address"),
        ("https://s3..cret", "is not an address"),
        ("https://-xn--s3cret-é", "is not an address"),
        ("https://h:99999", "is not an address"),
        ("https://abc.supabase.co?apikey=s3cret", "has a '?' or '#' in it"),
        ("https://supabase.com/dashboard/project/abc", "is the address of Supabase's dashboard"),
        ("https://db.abc.supabase.co", "names the database's host"),
        ("ftp://abc.supabase.co", "does not begin with https://"),
    ],
)
def test_what_is_no_project_s_address_is_refused_without_its_value(url: str, said: str) -> None:
    with pytest.raises(SourceError) as failed:
        rest.read_rows(url, SecretStr(api_key("service_role")), AppTable())
    end = "expected https://PROJECT.supabase.co"
    assert str(failed.value).startswith(f"SUPABASE_URL {said}")
    assert str(failed.value).endswith(end)
    assert "s3" not in str(failed.value)

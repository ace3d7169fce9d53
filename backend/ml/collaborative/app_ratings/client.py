"""Open the client that asks Supabase: its address, its key, and its silence in others' logs."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx
    from postgrest import SyncPostgrestClient
    from pydantic import SecretStr

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds."""
SERVICE_ROLE = "service_role"
"""The role on Supabase that row-level security does not apply to."""
ENDS = re.compile(r"(/(rest|auth|storage|realtime|functions|graphql)/v\d+(/.*)?)?/*$")
"""What a project's address is given with, and not part of it: the path of one of its services."""
DASHBOARD = {"supabase.com", "www.supabase.com", "app.supabase.com"}
EXPECTED_URL = "expected https://PROJECT.supabase.co"
KEY = "SUPABASE_SERVICE_ROLE_KEY"
EXPECTED_KEY = "expected the project's service_role key (eyJ...) or a secret key (sb_secret_...)"
OURS = __name__.partition(".app_ratings")[0]


def address_of(url: str) -> str:
    """Return the address of a project's REST interface; `url` is its base, or ends in /rest/v1.

    Raises:
        SourceError: it is not one. The value is not in the error: it could be a secret.
    """
    import httpx

    wrong = None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")  # what the name is looked up as
    except ValueError:
        raise SourceError(f"SUPABASE_URL is not an address: {EXPECTED_URL}") from None
    if parts.scheme in {"postgres", "postgresql"}:
        wrong = "is the database's address, which is for SUPABASE_DB_URL"
    elif parts.scheme not in {"http", "https"}:
        wrong = "does not begin with https:// or http://"
    elif "@" in parts.netloc:
        wrong = "has a user or a password in it"
    elif not re.fullmatch(r"[\w.:-]+", host) or not url.isprintable() or " " in url:
        wrong = "is not an address"
    elif parts.query or parts.fragment:
        wrong = "has a '?' or '#' in it"
    elif host in DASHBOARD:
        wrong = "is the address of Supabase's dashboard"
    elif re.fullmatch(r"db\.\w+\.supabase\.co", host):
        wrong = "names the database's host"
    address = ENDS.sub("", parts.geturl()) + "/rest/v1"
    try:
        httpx.URL(address)
    except httpx.InvalidURL:
        wrong = wrong or "is not an address"
    if wrong:
        raise SourceError(f"SUPABASE_URL {wrong}: {EXPECTED_URL}")
    return address


def role_of(key: SecretStr, role: str) -> str:
    """Return the database role that a key stands for, without asking the server.

    Args:
        key: the key; it is not in the errors.
        role: the role that its token must name, if not service_role. A secret key, which is no
            token, is service_role's.

    Raises:
        SourceError: it is not a key, or one of another role: row-level security could hide rows
            from that role, and no error would say so.
    """
    named, wrong = _look_at(key, {SERVICE_ROLE, role})
    if wrong:
        raise SourceError(f"{KEY} is {wrong}")
    return named


def _look_at(key: SecretStr, roles: set[str]) -> tuple[str, str | None]:
    """Return the role of a key, and what is wrong with it, or None.

    No error leaves this function: its traceback could show the key.
    """
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        return "", "not a key: it has blanks or unusual characters"
    if text.startswith("sb_publishable_"):
        return "", f"a publishable key, which row-level security hides rows from: {EXPECTED_KEY}"
    if text.startswith("sb_secret_"):
        return SERVICE_ROLE, None
    try:
        _, claims, _ = text.split(".")
        named = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["role"]
    except (KeyError, TypeError):
        named = None
    except (ValueError, RecursionError):  # of the parts, the encoding or the JSON
        return "", f"not a key: {EXPECTED_KEY}"
    if isinstance(named, str) and named in roles:
        return named, None
    known = isinstance(named, str) and re.fullmatch(r"[a-z]{1,20}(_[a-z]{1,20}){0,2}", named)
    return "", (
        f"of {f'the role {named}' if known else 'no known role'}, which row-level security can "
        f"hide rows from: {EXPECTED_KEY}; for a role of your own that sees every row set "
        "APP_RATINGS_ROLE"
    )


@contextmanager
def open_client(
    url: str, key: SecretStr, schema: str, check: Callable[[httpx.Response], None]
) -> Iterator[SyncPostgrestClient]:
    """Open supabase's client for reading tables; it follows no redirect, and can be shared.

    A redirect would send the key to another host. The client is the same in all its versions: those
    before 2.16 take no HTTP client.

    Args:
        url: see `address_of`.
        key: see `role_of`.
        schema: where the tables are.
        check: is called with each answer, and raises if it is an error.

    Raises:
        SourceError: the URL, or a proxy or certificate of the environment, is not usable.
    """
    import httpx
    from postgrest import SyncPostgrestClient

    address = address_of(url)
    try:
        client = SyncPostgrestClient(address, schema=schema, headers=_headers(key))
        client.session.close()
        client.retry_enabled = False
        client.session = httpx.Client(
            base_url=client.session.base_url,
            headers=client.session.headers,
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            event_hooks={"response": [check]},
        )
    except (ValueError, ImportError, OSError, httpx.InvalidURL):  # their texts can quote a password
        raise SourceError(
            "the environment's proxy or TLS settings are not usable: check HTTPS_PROXY, ALL_PROXY, "
            "SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None
    with client.session:
        yield client


def _headers(key: SecretStr) -> dict[str, str]:
    """Return the headers with the key. A secret key is no token: the gateway makes one of it."""
    text = key.get_secret_value()
    token = {} if text.startswith("sb_") else {"Authorization": f"Bearer {text}"}
    return {"apikey": text} | token


class _Silence(logging.Filter):
    """Drops the records of threads that ask; those of the app's other threads pass."""

    here = threading.local()

    def filter(self, _: logging.LogRecord) -> bool:
        return not getattr(self.here, "asks", False)


_SILENCE = _Silence()


@contextmanager
def silenced() -> Iterator[None]:
    """Keep what this thread asks out of the libraries' logs, at any level: URLs hold users' ids.

    The loggers get a filter and keep it. Their levels stay as the app has set them, and what other
    threads log passes.
    """
    import httpcore  # noqa: F401  its loggers are there from now on

    for name, one in [("", logging.root), *logging.root.manager.loggerDict.items()]:
        if isinstance(one, logging.Logger) and not f"{name}.".startswith(f"{OURS}."):
            one.addFilter(_SILENCE)
    before = getattr(_Silence.here, "asks", False)
    _Silence.here.asks = True
    try:
        yield
    finally:
        _Silence.here.asks = before

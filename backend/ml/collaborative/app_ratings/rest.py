"""Read every rating of the app from Supabase over REST (PostgREST), by keyset pages."""

from __future__ import annotations

import logging
import re
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..progress import progress_bar
from ..ratings import COLUMNS
from .retries import TryAgainError, with_retries

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    import pyarrow as pa
    from postgrest import SyncPostgrestClient, SyncSelectRequestBuilder
    from pydantic import SecretStr

    from ..settings import AppTable

logger = logging.getLogger(__name__)

PAGE = 10_000
"""Rows asked for at a time; the server may cap them lower (1,000 on a Supabase project)."""
LONGEST_WAIT = 60.0
"""Upper bound on the wait that a server's Retry-After asks for, in seconds."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds."""
NOT_ROWS = "its answer is not a JSON list of rows; check SUPABASE_URL"


def read_rows(url: str, key: SecretStr, names: AppTable) -> tuple[pa.Table, int]:
    """Read every row of the app's ratings.

    Pages are ordered by user and film. Each starts after the last row of the page before, until one
    is empty. So the server's row limit does not matter, and a row that exists all the time is read
    exactly once, also while users are writing. (Rows that are equal in all three columns, which a
    table without a key can have, may be counted less often than they occur.)

    Args:
        url: base URL of the Supabase project.
        key: the service-role key; never printed.
        names: the table and its columns.

    Returns:
        Columns user_id, movie_id and rating as Postgres writes them, dictionary-encoded strings;
        and the number of rows without a user or film: they have no place in that order and are
        left out.

    Raises:
        SourceError: Supabase cannot be reached, refuses the key, or its answer is invalid.
    """
    import pyarrow as pa

    with _open_http() as http:
        client = _connect(url, key, names, http)
        nulls = _count_nulls(client, names)
        pages = _read_pages(client, names)
    return pa.Table.from_batches(pages, pages[0].schema), nulls


def _open_http() -> httpx.Client:
    """Return an HTTP client that follows no redirect, which would send the key to another host."""
    import httpx

    try:
        return httpx.Client(
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            event_hooks={"response": [_check_response]},
        )
    except (ValueError, ImportError, OSError) as error:  # an invalid proxy or certificate setting
        raise SourceError(
            f"the environment's proxy or TLS settings are not usable: {error}"
        ) from None


def _connect(url: str, key: SecretStr, names: AppTable, http: httpx.Client) -> SyncPostgrestClient:
    """Return supabase's client for reading tables, with `http` in place of its own connection.

    The same in all its versions: those before 2.16 take no HTTP client.
    """
    from httpx import InvalidURL
    from postgrest import SyncPostgrestClient

    secret = key.get_secret_value()
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise SourceError(
            "SUPABASE_SERVICE_ROLE_KEY is not a key: it has blanks or unusual characters"
        )
    headers = {"apikey": secret, "Authorization": f"Bearer {secret}"}
    try:
        if not re.match("https?://.", url):
            raise ValueError("Invalid URL")
        client = SyncPostgrestClient(
            f"{url.rstrip('/')}/rest/v1", schema=names.schema, headers=headers
        )
    except (InvalidURL, ValueError) as error:
        raise SourceError(
            f"SUPABASE_URL is not usable ({error}): expected https://PROJECT.supabase.co"
        ) from None
    client.retry_enabled = False
    http.base_url, http.headers = client.session.base_url, client.session.headers
    client.session.close()
    client.session = http
    return client


def _check_response(response: httpx.Response) -> None:
    """Raise on answers that the client accepts, or reports like any other error."""
    if response.status_code == 429 or response.status_code >= 500:
        raise TryAgainError(
            f"HTTP {response.status_code} {response.reason_phrase}", _asked_wait(response.headers)
        )
    if response.is_redirect:
        raise SourceError("SUPABASE_URL redirects: set it to the address that it redirects to")
    if response.is_success and response.request.method == "GET" and not response.read():
        raise TryAgainError("an empty answer")  # the client would treat it as a page without rows


def _asked_wait(headers: httpx.Headers) -> float:
    """Return the seconds that Retry-After asks for, bounded; a date is by the server's clock."""
    after = headers.get("Retry-After", "")
    if after.isdecimal():
        wait = float(after)
    else:
        try:
            until, now = (parsedate_to_datetime(text) for text in (after, headers["Date"]))
            wait = (until - now).total_seconds()
        except (KeyError, ValueError, TypeError):
            return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT)


def _select(
    client: SyncPostgrestClient, names: AppTable, *columns: str, **how: Any
) -> SyncSelectRequestBuilder:
    return client.from_(names.table).select(*columns, **how)


def _count_nulls(client: SyncPostgrestClient, names: AppTable) -> int:
    """Return the number of rows without a user or film: they have no key to page by."""
    user, movie, _ = map(_quote, names.columns)
    query = (
        _select(client, names, f"user_id:{user}::text", count="exact")
        .or_(f"{user}.is.null,{movie}.is.null")
        .limit(1)  # not a HEAD request: its answer could not say what is wrong
    )
    return int(_ask(query.execute, names).count or 0)


def _read_pages(client: SyncPostgrestClient, names: AppTable) -> list[pa.RecordBatch]:
    """Return all pages; the last one is empty.

    The rating is the last part of the key, so that all of a user's ratings of a film are read if a
    page ends between them.
    """
    user, movie, rating = map(_quote, names.columns)
    columns = (f"user_id:{user}::text", f"movie_id:{movie}::text", f"rating:{rating}::text")
    pages: list[pa.RecordBatch] = []
    last: tuple[str | None, ...] | None = None
    seen = set[object]()
    with progress_bar("app ratings", " rows") as bar:
        while not pages or pages[-1].num_rows:
            query = _select(client, names, *columns)
            end = _select(client, names, *columns, count="exact").limit(1)
            for rest in (query, end):
                rest.or_(f"and({user}.not.is.null,{movie}.not.is.null)")
                if last is not None:
                    rest.or_(_after(names, *last))
            query.order(user).order(movie).order(rating).limit(PAGE)
            page, last = _ask(partial(_read_page, query, end, seen), names)
            seen.add(last)
            pages.append(page)
            bar.update(page.num_rows)
    return pages


def _after(names: AppTable, user: str | None, movie: str | None, rating: str | None) -> str:
    """Return PostgREST's condition for the rows after this one."""
    users, movies, ratings = map(_quote, names.columns)
    user, movie = _quote(user), _quote(movie)
    terms = [f"{users}.gt.{user}", f"and({users}.eq.{user},{movies}.gt.{movie})"]
    if rating is not None:  # nulls are last
        rest = f"or({ratings}.gt.{_quote(rating)},{ratings}.is.null)"
        terms.append(f"and({users}.eq.{user},{movies}.eq.{movie},{rest})")
    # The second condition implies the first, which lets Postgres use the index.
    return f"and({users}.gte.{user},or({','.join(terms)}))"


def _quote(text: object) -> str:
    """Quote a name or value for PostgREST, where punctuation has a meaning."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _read_page(
    query: SyncSelectRequestBuilder, end: SyncSelectRequestBuilder, seen: set[object]
) -> tuple[pa.RecordBatch, tuple[str | None, ...] | None]:
    """Return one page of rows, and its last row.

    Args:
        query: asks for the page.
        end: counts the rows that are left, so that a wrong empty page is not taken for the end.
        seen: the last rows of the pages before.
    """
    import pyarrow as pa

    rows: Any = query.execute().data
    # The client returns an answer that is not JSON as text.
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TryAgainError(NOT_ROWS)
    try:
        texts = [pa.array([row[name] for row in rows], pa.string()) for name in COLUMNS]
    except KeyError:
        raise TryAgainError("its answer lacks a column") from None
    except (pa.ArrowException, TypeError, UnicodeError):
        raise TryAgainError("its answer has other types than requested") from None
    if not rows and end.execute().count != 0:
        raise TryAgainError("an empty page before the end")
    last = tuple(rows[-1][name] for name in COLUMNS) if rows else None
    if last in seen:
        raise TryAgainError("it sent the same page twice: it ignores filters, or a cache answers")
    return pa.record_batch([text.dictionary_encode() for text in texts], COLUMNS), last


def _ask(execute: Callable[[], Any], names: AppTable) -> Any:
    """Run a request; try again after 429, 5xx and broken or silent connections.

    Raises:
        SourceError: every attempt failed, or the request was refused for a lasting reason.
    """
    import httpx
    from postgrest import APIError

    def attempt() -> Any:
        try:
            return execute()
        except httpx.LocalProtocolError:  # its text can hold the key
            raise SourceError(
                "the request to Supabase is malformed: check SUPABASE_URL and its key"
            ) from None
        except httpx.TransportError as error:
            raise TryAgainError(str(error) or type(error).__name__) from None
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise SourceError(f"the request to Supabase failed: {error}") from None
        except APIError as error:
            if str(error.code) == "200":  # how older clients report an answer that is not JSON
                raise TryAgainError(NOT_ROWS) from None
            raise SourceError(_explain(error, names)) from None

    return with_retries(attempt, "Supabase")


def _explain(error: Any, names: AppTable) -> str:
    """Describe an error that PostgREST sent, without its text, which can quote user ids."""
    check = "check SUPABASE_SERVICE_ROLE_KEY"
    advice = {
        "PGRST106": f"add the schema {names.schema} to the project's exposed schemas",
        "PGRST301": check,
        "PGRST303": f"the key has expired, or is not valid yet by the server's clock: {check}",
        "401": check,
        "403": check,
        "42501": f"the key may not read {names}: use the service-role key",
        "PGRST205": names.expected,
        "42P01": names.expected,
        "42703": names.expected,
    }.get(str(error.code), "see the API log of the Supabase project")
    return f"Supabase refused (code {error.code}): {advice}"

"""Every rating of the app, read from Supabase over REST (PostgREST) by keyset pages."""

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
"""Bound on what a server's Retry-After can make us wait, in seconds."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds."""


def read_rows(url: str, key: SecretStr, names: AppTable) -> tuple[pa.Table, int]:
    """Read every row of the app's ratings.

    Pages follow the order of (user, film) and start after the last row of the page before, until
    one comes back empty: right whatever the server's row cap, and neither repeats nor loses a row
    that is there throughout, also while users are writing. (Of rows that are the same in all three,
    which a table without a key can have, as many may be counted as pages show.)

    Args:
        url: base URL of the Supabase project.
        key: the service-role key; it is never printed.
        names: of the table and its columns.

    Returns:
        Columns user_id, movie_id and rating, as Postgres's own text, dictionary-encoded; and the
        number of rows without a user or film, which have no place in that order and are left out.

    Raises:
        SourceError: Supabase cannot be reached, refuses the key, or answers what is no ratings.
    """
    import pyarrow as pa

    with _open_http() as http:
        client = _connect(url, key, names, http)
        nulls = _count_nulls(client, names)
        pages = _read_pages(client, names)
    return pa.Table.from_batches(pages, pages[0].schema), nulls


def _open_http() -> httpx.Client:
    """An HTTP client that follows no redirect: it would hand the key to wherever that leads."""
    import httpx

    try:
        return httpx.Client(
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            follow_redirects=False,
            event_hooks={"response": [_check_response]},
        )
    except (ValueError, ImportError, OSError) as error:  # a proxy or certificates set wrongly
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
            "SUPABASE_SERVICE_ROLE_KEY is no key: it has blanks or unusual characters"
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
    """Stop what the client lets pass, or would not let us tell from other errors."""
    if response.status_code == 429 or response.status_code >= 500:
        raise TryAgainError(
            f"HTTP {response.status_code} {response.reason_phrase}", _asked_wait(response.headers)
        )
    if response.is_redirect:
        raise SourceError("SUPABASE_URL redirects: use the address it leads to")
    if response.is_success and response.request.method == "GET" and not response.read():
        raise TryAgainError("an empty answer")  # the client would take it for a page of no rows


def _asked_wait(headers: httpx.Headers) -> float:
    """Seconds that Retry-After asks for, bounded; a date is by the server's clock."""
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
    """Rows without a user or film: no key to page by, and no ratings."""
    user, movie, _ = map(_quote, names.columns)
    query = (
        _select(client, names, f"user_id:{user}::text", count="exact")
        .or_(f"{user}.is.null,{movie}.is.null")
        .limit(1)  # a HEAD request would do, but has no room for what is wrong
    )
    return int(_ask(query.execute, names).count or 0)


def _read_pages(client: SyncPostgrestClient, names: AppTable) -> list[pa.RecordBatch]:
    """All pages, the last of them empty.

    The rating is the last part of the key, so that a user's several ratings of a film are all
    read where a page ends between them.
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
    """PostgREST's condition for the rows that come after this one."""
    users, movies, ratings = map(_quote, names.columns)
    user, movie = _quote(user), _quote(movie)
    terms = [f"{users}.gt.{user}", f"and({users}.eq.{user},{movies}.gt.{movie})"]
    if rating is not None:  # nulls are last
        rest = f"or({ratings}.gt.{_quote(rating)},{ratings}.is.null)"
        terms.append(f"and({users}.eq.{user},{movies}.eq.{movie},{rest})")
    # The first condition follows from the second; it lets Postgres use the index.
    return f"and({users}.gte.{user},or({','.join(terms)}))"


def _quote(text: object) -> str:
    """A name or value for PostgREST, where commas, dots, colons and brackets have a meaning."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _read_page(
    query: SyncSelectRequestBuilder, end: SyncSelectRequestBuilder, seen: set[object]
) -> tuple[pa.RecordBatch, tuple[str | None, ...] | None]:
    """One page of rows, and the last of them.

    Where it is empty, `end` counts what is left, so that a wrong answer is not taken for the end;
    `seen` are the last rows of the pages before.
    """
    import pyarrow as pa

    rows: Any = query.execute().data
    # What is no JSON the client hands on as text.
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TryAgainError("its answer is no rows as JSON; check SUPABASE_URL")
    try:
        texts = [pa.array([row[name] for row in rows], pa.string()) for name in COLUMNS]
    except KeyError:
        raise TryAgainError("its answer lacks a column") from None
    except (pa.ArrowException, TypeError, UnicodeError):
        raise TryAgainError("its answer has other types than asked for") from None
    if not rows and end.execute().count != 0:
        raise TryAgainError("an empty page before the end")
    last = tuple(rows[-1][name] for name in COLUMNS) if rows else None
    if last in seen:
        raise TryAgainError("it gave the same page twice: filters are not applied, or a cache is")
    return pa.record_batch([text.dictionary_encode() for text in texts], COLUMNS), last


def _ask(execute: Callable[[], Any], names: AppTable) -> Any:
    """Run a request; try again after 429, 5xx and broken or silent connections.

    Raises:
        SourceError: it still fails, or was refused for a reason that will not pass.
    """
    import httpx
    from postgrest import APIError

    def attempt() -> Any:
        try:
            return execute()
        except httpx.LocalProtocolError:  # its text can hold the key
            raise SourceError("Supabase cannot be asked: the request is malformed") from None
        except httpx.TransportError as error:
            raise TryAgainError(str(error) or type(error).__name__) from None
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise SourceError(f"Supabase cannot be asked: {error}") from None
        except APIError as error:
            if str(error.code) == "200":  # so older clients call what is no JSON
                raise TryAgainError("its answer is no rows as JSON; check SUPABASE_URL") from None
            raise SourceError(_explain(error, names)) from None

    return with_retries(attempt, "Supabase")


def _explain(error: Any, names: AppTable) -> str:
    """One line on an error that PostgREST sent, without its text, which can quote user ids."""
    check = "check SUPABASE_SERVICE_ROLE_KEY"
    advice = {
        "PGRST106": f"add the schema {names.schema} to the project's exposed schemas",
        "PGRST301": check,
        "PGRST303": f"the key has expired, or is of a time to come by the server's clock: {check}",
        "401": check,
        "403": check,
        "42501": f"the key may not read {names}: use the service-role key",
        "PGRST205": names.expected,
        "42P01": names.expected,
        "42703": names.expected,
    }.get(str(error.code), "see the API log of the Supabase project")
    return f"Supabase refused (code {error.code}): {advice}"

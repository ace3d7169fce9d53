"""Every rating of the app, read from Supabase over REST (PostgREST) by keyset pages."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import SourceError
from .progress import progress_bar
from .ratings import COLUMNS, clean_app_ratings

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    import pandas as pd
    from pydantic import SecretStr
    from supabase import Client

logger = logging.getLogger("ml.supabase_ratings")

TABLE = "ratings"
PAGE = 10_000
"""Rows asked for at a time; the server may cap them lower (1,000 on a Supabase project)."""
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before the second try of a request, the third, and so on."""
LONGEST_WAIT = 60.0
"""Bound on what a server's Retry-After can make us wait, in seconds."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds."""


class _TryAgainError(Exception):
    """The server is busy or unwell: 429, 5xx, or an answer that is no rows."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """What the server asked for, in seconds."""


def read_ratings(url: str, key: SecretStr) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read and clean every row of the table `ratings`.

    Pages follow the order of (user_id, movie_id) and start after the last row of the page before,
    until one comes back empty: right whatever the server's row cap, and neither repeats nor loses
    a row that is there throughout, also while users are writing.

    Args:
        url: base URL of the Supabase project.
        key: the service-role key; it is never printed.

    Returns:
        The ratings table (see `ratings.clean_app_ratings`), and the rows left out by reason.

    Raises:
        SourceError: Supabase cannot be reached, refuses the key, or answers what is no ratings.
    """
    import pandas as pd

    logger.info("reading the app's ratings from Supabase")
    with _open_http() as http:
        client = _connect(url, key, http)
        nulls = _count_nulls(client)
        pages = _read_pages(client)
    rows = pd.DataFrame(
        {name: [value for page in pages for value in page[name]] for name in COLUMNS}, dtype=object
    )
    if not len(rows) + nulls:
        logger.warning(
            "Supabase gave 0 rows of %s: either nobody has rated yet, or the key is an anon key "
            "under row-level security, which looks just the same. Use the service-role key",
            TABLE,
        )
    ratings, dropped = clean_app_ratings(rows)
    if nulls:
        dropped = {"user or film is null": nulls, **dropped}
    logger.info(
        "read %s rows from Supabase, kept %s", f"{len(rows) + nulls:,}", f"{len(ratings):,}"
    )
    return ratings, dropped


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


def _connect(url: str, key: SecretStr, http: httpx.Client) -> Client:
    from supabase import ClientOptions, SupabaseException, create_client

    options = ClientOptions(httpx_client=http, postgrest_client_retry=False)
    secret = key.get_secret_value()
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise SourceError(
            "SUPABASE_SERVICE_ROLE_KEY is no key: it has blanks or unusual characters"
        )
    try:
        return create_client(url, secret, options)
    except (SupabaseException, ValueError) as error:
        raise SourceError(
            f"SUPABASE_URL is not usable ({error}): expected https://PROJECT.supabase.co"
        ) from None


def _check_response(response: httpx.Response) -> None:
    """Stop what the client lets pass, or would not let us tell from other errors."""
    if response.status_code == 429 or response.status_code >= 500:
        after = response.headers.get("Retry-After", "")
        wait = min(float(after), LONGEST_WAIT) if after.isdecimal() else 0.0
        raise _TryAgainError(f"HTTP {response.status_code} {response.reason_phrase}", wait)
    if response.is_redirect:
        raise SourceError("SUPABASE_URL redirects: use the address it leads to")
    if response.is_success and response.request.method == "GET" and not response.read():
        raise _TryAgainError("an empty answer")  # the client would take it for a page of no rows


def _count_nulls(client: Client) -> int:
    """Rows without a user or film: no key to page by, and no ratings."""
    query = (
        client.table(TABLE)
        .select("user_id", count="exact")  # type: ignore[arg-type]
        .or_("user_id.is.null,movie_id.is.null")
        .limit(1)  # a HEAD request would do, but has no room for what is wrong
    )
    return int(_with_retries(query.execute).count or 0)


def _read_pages(client: Client) -> list[dict[str, list[Any]]]:
    """All pages, each as a list of values per column.

    The rating is the last part of the key, so that a user's several ratings of a film are all
    read where a page ends between them.
    """
    pages: list[dict[str, list[Any]]] = []
    last: tuple[Any, ...] | None = None
    with progress_bar("app ratings", " rows") as bar:
        while True:
            query = client.table(TABLE).select(*COLUMNS)
            query = query.not_.is_("user_id", "null").not_.is_("movie_id", "null")
            if last is not None:
                # The first condition follows from the second; it lets Postgres use the index.
                query = query.gte("user_id", last[0]).or_(_after(*last))
            query = query.order("user_id").order("movie_id")
            query = query.order("rating", desc=True, nullsfirst=False).limit(PAGE)
            page = _with_retries(partial(_read_page, query))
            if not page["user_id"]:
                return pages
            after = tuple(page[name][-1] for name in COLUMNS)
            if after == last:
                raise SourceError("Supabase gave the same page twice: its filters are not applied")
            last = after
            pages.append(page)
            bar.update(len(page["user_id"]))


def _after(user: object, movie: object, rating: object) -> str:
    """PostgREST's condition for the rows that come after this one."""
    user, movie = _quote(user), _quote(movie)
    terms = [f"user_id.gt.{user}", f"and(user_id.eq.{user},movie_id.gt.{movie})"]
    if rating is not None:  # nulls are last
        rest = f"or(rating.lt.{_quote(rating)},rating.is.null)"
        terms.append(f"and(user_id.eq.{user},movie_id.eq.{movie},{rest})")
    return ",".join(terms)


def _quote(value: object) -> str:
    """A value inside PostgREST's `or=(...)`, where commas, dots and brackets have a meaning."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _read_page(query: Any) -> dict[str, list[Any]]:
    """One page of rows, as a list of values per column."""
    rows = query.execute().data
    # What is no JSON the client hands on as text.
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _TryAgainError("its answer is no rows as JSON; check SUPABASE_URL")
    try:
        return {name: [row[name] for row in rows] for name in COLUMNS}
    except KeyError:
        raise _TryAgainError("its answer lacks a column") from None


def _with_retries(execute: Callable[[], Any]) -> Any:
    """Run a request; try again after 429, 5xx and broken or silent connections.

    Raises:
        SourceError: it still fails, or was refused for a reason that will not pass.
    """
    import httpx
    from postgrest import APIError

    for wait in (*WAITS, None):
        asked = 0.0
        try:
            return execute()
        except _TryAgainError as error:
            reason, asked = str(error), error.wait
        except httpx.LocalProtocolError:  # its text can hold the key
            raise SourceError("Supabase cannot be asked: the request is malformed") from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise SourceError(f"Supabase cannot be asked: {error}") from None
        except APIError as error:
            raise SourceError(_explain(error)) from None
        if wait is not None:
            wait = max(wait, asked)
            logger.debug("Supabase: %s; trying again in %.1f s", reason, wait)
            time.sleep(wait)
    raise SourceError(f"Supabase failed: {reason} ({len(WAITS) + 1} tries)")


def _explain(error: Any) -> str:
    """One line on an error that PostgREST sent, without its text, which can quote user ids."""
    advice = {
        "PGRST301": "check SUPABASE_SERVICE_ROLE_KEY",
        "PGRST303": "the key has expired: check SUPABASE_SERVICE_ROLE_KEY",
        "401": "check SUPABASE_SERVICE_ROLE_KEY",
        "403": "check SUPABASE_SERVICE_ROLE_KEY",
        "42501": f"the key may not read {TABLE}: use the service-role key",
        "PGRST205": f"the project needs a table {TABLE} (user_id, movie_id, rating)",
        "42P01": f"the project needs a table {TABLE} (user_id, movie_id, rating)",
        "42703": f"the table {TABLE} needs the columns {', '.join(COLUMNS)}",
    }.get(str(error.code), "see the API log of the Supabase project")
    return f"Supabase refused (code {error.code}): {advice}"

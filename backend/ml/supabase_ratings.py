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
    import httpx
    import pandas as pd

    logger.info("reading the app's ratings from Supabase")
    timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    with httpx.Client(
        timeout=timeout, follow_redirects=True, event_hooks={"response": [_check_response]}
    ) as http:
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


def _connect(url: str, key: SecretStr, http: httpx.Client) -> Client:
    from supabase import ClientOptions, SupabaseException, create_client

    options = ClientOptions(httpx_client=http, postgrest_client_retry=False)
    try:
        return create_client(url, key.get_secret_value(), options)
    except (SupabaseException, ValueError) as error:
        raise SourceError(
            f"SUPABASE_URL or the key is not usable ({error}): "
            "expected https://PROJECT.supabase.co and the service-role key"
        ) from None


def _check_response(response: httpx.Response) -> None:
    """Stop what the client lets pass, or would not let us tell from other errors."""
    if response.status_code == 429 or response.status_code >= 500:
        after = response.headers.get("Retry-After", "")
        wait = min(float(after), LONGEST_WAIT) if after.isdecimal() else 0.0
        raise _TryAgainError(f"HTTP {response.status_code} {response.reason_phrase}", wait)
    if response.is_success and response.request.method == "GET" and not response.read():
        raise _TryAgainError("an empty answer")  # the client would take it for a page of no rows


def _count_nulls(client: Client) -> int:
    """Rows without a user or film: no key to page by, and no ratings."""
    query = (
        client.table(TABLE)
        .select("user_id", count="exact", head=True)  # type: ignore[arg-type]
        .or_("user_id.is.null,movie_id.is.null")
    )
    return int(_with_retries(query.execute).count or 0)


def _read_pages(client: Client) -> list[dict[str, list[Any]]]:
    """All pages, each as a list of values per column."""
    pages: list[dict[str, list[Any]]] = []
    last: tuple[Any, Any] | None = None
    with progress_bar("app ratings", " rows") as bar:
        while True:
            query = client.table(TABLE).select(*COLUMNS)
            query = query.not_.is_("user_id", "null").not_.is_("movie_id", "null")
            if last is not None:
                user, movie = map(_quote, last)
                # The first condition follows from the second; it lets Postgres use the index.
                query = query.gte("user_id", last[0]).or_(
                    f"user_id.gt.{user},and(user_id.eq.{user},movie_id.gt.{movie})"
                )
            query = query.order("user_id").order("movie_id").order("rating", desc=True).limit(PAGE)
            page = _with_retries(partial(_read_page, query))
            if not page["user_id"]:
                return pages
            after = page["user_id"][-1], page["movie_id"][-1]
            if after == last:
                raise SourceError("Supabase gave the same page twice: its filters are not applied")
            last = after
            pages.append(page)
            bar.update(len(page["user_id"]))


def _quote(value: object) -> str:
    """A value inside PostgREST's `or=(...)`, where commas, dots and brackets have a meaning."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _read_page(query: Any) -> dict[str, list[Any]]:
    """One page of rows, as a list of values per column."""
    rows = query.execute().data
    if not isinstance(rows, list):  # the client hands on what is no JSON as text
        raise _TryAgainError("something else than rows as JSON; is SUPABASE_URL the project's?")
    return {name: [row[name] for row in rows] for name in COLUMNS}


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
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise SourceError(f"Supabase cannot be asked: {error}") from None
        except APIError as error:
            raise SourceError(_explain(error)) from None
        if wait is not None:
            wait = max(wait, asked)
            logger.info("Supabase: %s; trying again in %.1f s", reason, wait)
            time.sleep(wait)
    raise SourceError(f"Supabase cannot be reached: {reason} ({len(WAITS) + 1} tries)")


def _explain(error: Any) -> str:
    """One line on an error that PostgREST sent, without what it says of the data."""
    advice = {
        "PGRST301": "check SUPABASE_SERVICE_ROLE_KEY",
        "PGRST303": "the key has expired: check SUPABASE_SERVICE_ROLE_KEY",
        "401": "check SUPABASE_SERVICE_ROLE_KEY",
        "PGRST205": f"the project needs a table {TABLE} (user_id, movie_id, rating)",
        "42703": f"the table {TABLE} needs the columns {', '.join(COLUMNS)}",
    }.get(str(error.code), "see the API log of the Supabase project")
    return f"Supabase refused: {error.message} ({error.code}); {advice}"

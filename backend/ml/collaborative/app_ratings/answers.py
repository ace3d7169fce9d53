"""Read Supabase's answers: rows, or an error that passes or lasts, and what to do about it.

The gateway before PostgREST answers without a code. PostgREST gives its own (PGRST...) or
Postgres's (SQLSTATE) in the body and in the header Proxy-Status. No text of theirs is repeated: it
can quote users' ids. See docs.postgrest.org, "Errors", and Supabase's "HTTP status codes".
"""

from __future__ import annotations

import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SourceError
from . import retries
from .retries import TryAgainError, with_retries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from ..settings import AppTable

LONGEST_WAIT = 60.0
"""Upper bound on the wait that a server's Retry-After asks for, in seconds."""
LONG_URL = 4000
"""Characters; a gateway may refuse a URL that is longer as a bad request."""
CODE = re.compile("[0-9A-Z]{5}|PGRST[0-9A-Z]{2,4}")
CHECK_KEY = "check SUPABASE_SERVICE_ROLE_KEY"
LOG = "see the API log of the Supabase project"
DIRECT = "use SUPABASE_DB_URL"
TOO_LONG = f"a user id is too long for the address of a page over REST: {DIRECT}"
STATUS = {
    400: "check SUPABASE_URL, and " + LOG,
    401: f"{CHECK_KEY}: it must be of this project, complete, and not disabled",
    402: "the project is over its quota or not paid for: see its usage and billing in Supabase's "
    "dashboard",
    403: f"{CHECK_KEY}, and the project's network restrictions",
    404: "nothing answers at this path: check SUPABASE_URL, expected https://PROJECT.supabase.co "
    "with nothing behind it",
    407: "the proxy in HTTPS_PROXY wants a user and a password",
    414: TOO_LONG,
    431: TOO_LONG,
    540: "the project is paused: restore it in Supabase's dashboard",
}
"""What to do about answers without a code, by HTTP status."""
LASTING = {501, 505, 540}
"""The HTTP statuses from 500 that do not pass."""
PASSING = {408, 425, 429}
"""Those below 500 that do."""
SILENT = {
    429: "too many requests came from here or to the project: build again later",
    503: "the project's API is not available: see its status in Supabase's dashboard",
    504: f"the project is too slow: build again later, or {DIRECT}",
    522: "the project does not answer: see its status in Supabase's dashboard",
    530: "no project is at this address: check SUPABASE_URL, and that the project was not deleted",
    544: f"the project is too slow: make user and film the table's primary key, or {DIRECT}",
} | dict.fromkeys((500, 502, 520, 521), "see the project's status in Supabase's dashboard")
"""What to do about answers without a code that can pass and did not."""
POOL = {
    "PGRST000": "PostgREST cannot reach its database: see whether it runs",
    "PGRST001": "PostgREST cannot reach its database: see whether it runs",
    "PGRST002": "PostgREST cannot read its database's schema: see whether the database runs",
    "PGRST003": "PostgREST has no connection left: build again when fewer requests come, or "
    + DIRECT,
}
"""What to do about PostgREST's errors that can pass and did not."""


SUPABASE = "Supabase"
NOT_ROWS = "its answer is not a JSON list of rows; check SUPABASE_URL"


class Row(NamedTuple):
    """A row as Postgres writes it; the rating can be null."""

    user: str
    movie: str = ""
    rating: str | None = None


def answered(request: Any, names: Sequence[str]) -> tuple[list[dict[str, object]], int | None]:
    """Send a request, again after a failure that can pass.

    Args:
        request: of supabase's client.
        names: of the columns that each row must have.

    Returns:
        The rows, and how many there are, if the request asks that.
    """

    def attempt() -> tuple[list[dict[str, object]], int | None]:
        answer = _in_words(request.execute)
        rows: Any = answer.data
        # The client returns an answer that is not JSON as text.
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TryAgainError(NOT_ROWS)
        if not all(name in row for row in rows for name in names):
            raise TryAgainError("its answer lacks a column: it is not the one to this request")
        return rows, answer.count

    return with_retries(attempt, SUPABASE)


def rows_of(request: Any, names: Sequence[str]) -> tuple[list[Row], int | None]:
    """Send a request for user, film and rating; see `answered`. The rating can be null."""
    rows, count = answered(request, names)
    texts = [[row[name] for row in rows] for name in names]
    wrong = [set[type](map(type, column)) - {str} for column in texts]
    if any(wrong[:2]) or (any(wrong) and wrong[2] != {type(None)}):
        raise SourceError(f"{SUPABASE} failed: its answer has other types than requested")
    return list(map(Row, *texts)), count


def _in_words(attempt: Callable[[], Any]) -> Any:
    """Call what sends requests; a failure of the network or client is said without its values."""
    import httpx
    from postgrest import APIError

    try:
        return attempt()
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol):
        raise SourceError(
            "the request to Supabase is malformed: check SUPABASE_URL and its key"
        ) from None
    except httpx.TransportError as error:
        said = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            raise SourceError(
                "Supabase's certificate cannot be verified: set SSL_CERT_FILE to the one of its "
                "authority"
            ) from None
        if isinstance(error, httpx.ProxyError):
            said = "the proxy in the environment failed"
        elif not said or "b'" in said or 'b"' in said:  # what came in place of an answer
            said = type(error).__name__
        raise TryAgainError(said) from None
    except httpx.InvalidURL:  # longer than the client takes
        raise SourceError(f"the request to Supabase failed: {TOO_LONG}") from None
    except httpx.HTTPError as error:
        raise SourceError(f"the request to Supabase failed: {type(error).__name__}") from None
    except APIError:  # how older clients report an answer that is not JSON
        raise TryAgainError(NOT_ROWS) from None
    except (ValueError, RecursionError):  # of a number in its headers, or JSON that is nested deep
        raise TryAgainError("its answer cannot be read; check SUPABASE_URL") from None


def check_response(response: httpx.Response, names: AppTable, role: str) -> None:
    """Return if an answer has rows.

    Raises:
        TryAgainError: it is an error that can pass.
        SourceError: it is one that lasts; with what to do.
    """
    if response.is_success:
        if response.request.method == "GET" and not response.read():
            raise TryAgainError("an empty answer")  # the client would treat it as no rows
        return
    status = response.status_code
    if response.is_redirect:
        raise SourceError("SUPABASE_URL redirects: set it to the address that it redirects to")
    code, said = _read_error(response)
    if code == "" or (code is None and status in PASSING) or _passes(status, code):
        named = {None: "", "": ", an empty code"}.get(code, f", code {code}")
        raise TryAgainError(
            f"HTTP {status} {response.reason_phrase}".rstrip() + named,
            asked_wait(response.headers),
            _advise_waiting(status, code),
        )
    what = f"code {code}" if code else f"HTTP {status}"
    raise SourceError(f"Supabase refused ({what}): {_advise(response, code, said, names, role)}")


def _read_error(response: httpx.Response) -> tuple[str | None, str]:
    """Return the code of an error, and its text. The code is None if there is none.

    It is "" where PostgREST gives an empty one: Postgres ended in the middle of a query.
    """
    try:
        body: Any = json.loads(response.read())
    except (ValueError, RecursionError):
        body = None
    body = body if isinstance(body, dict) else {}
    header = re.search(r"PostgREST; *error=(\w*)", response.headers.get("Proxy-Status", ""))
    given = [body.get("code"), *([header[1]] if header else [])]
    code = next((one for one in given if isinstance(one, str) and CODE.fullmatch(one)), None)
    if code is None and "" in given:
        code = ""
    said = body.get("message")
    return code, said if isinstance(said, str) else ""


def _passes(status: int, code: str | None) -> bool:
    """Return whether an error can pass."""
    if code is None:
        return status >= 500 and status not in LASTING
    # XX is Postgres's own fault, and X0 PostgREST's.
    return code in POOL or code.startswith((*retries.PASSING, "XX", "PGRSTX"))


def _advise_waiting(status: int, code: str | None) -> str:
    """Return what to do about an error that can pass and did not."""
    if code:
        return POOL.get(code) or retries.ADVICE.get(code, "")
    return "see whether the database restarts" if code == "" else SILENT.get(status, "")


def _advise(
    response: httpx.Response, code: str | None, said: str, names: AppTable, role: str
) -> str:
    """Return what to do about an error that lasts."""
    if code is None:
        long = len(str(response.request.url)) > LONG_URL and response.status_code == 400
        return TOO_LONG if long else STATUS.get(response.status_code, LOG)
    if code == "42501":
        return _advise_grant(said, names, role)
    if code == "22023" and re.fullmatch('role ".*" does not exist', said):
        return f"the database has no role {role}, which the key names: {CHECK_KEY}"
    if code == "42883" and "ordering operator" in said:
        return f"a column of {names} has a type without an order: make a view with it as text"
    advice = {
        "PGRST106": f"add the schema {names.shown.schema} to the project's exposed schemas",
        "PGRST125": STATUS[404],
        "PGRST300": "the server has no JWT secret: see its configuration",
        "PGRST301": CHECK_KEY,
        "PGRST302": CHECK_KEY,
        "PGRST303": f"the key has expired, or is not valid yet by the server's clock: {CHECK_KEY}",
        "PGRST205": f"{names.expected}; if the table is new, reload PostgREST's schema cache: "
        "notify pgrst, 'reload schema'",
    }
    missing = dict.fromkeys(("42P01", "3F000", "42703", "PGRST204"), names.expected)
    return (advice | missing).get(code, LOG)


def _advise_grant(said: str, names: AppTable, role: str) -> str:
    """Return the statement that gives the role what it may not do."""
    if "to set role" in said:
        return f"PostgREST may not use the key's role: grant {role} to authenticator"
    if "for schema" in said:
        schema, _ = names.in_sql
        return f"its role may not use the schema: grant usage on schema {schema} to {role}"
    behind = "" if said.endswith(f" {names.table}") else ", or on what it reads if it is a view"
    place = ".".join(names.in_sql)
    return f"its role may not read the table: grant select on {place} to {role}{behind}"


def asked_wait(headers: httpx.Headers) -> float:
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

"""Ask PostgREST for a table's rows page by page, by their keys, so that each comes exactly once.

Pages are ordered by user, film and rating. Rows can be equal to Postgres and written differently (1
and 1.0, two cases in some collations), and a page can end between them. So each page starts with
the last row of the page before and all its equals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from .answers import SUPABASE, Row, answered, rows_of
from .retries import TryAgainError, with_retries

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from postgrest import SyncPostgrestClient

    from ..settings import AppTable

PAGE = 10_000
"""Rows asked for at a time; the server may cap them lower (1,000 on a Supabase project)."""
RANGES = 6
"""Ranges that a table is split into. PostgREST has ten connections to its database, or more."""
MIN_RANGE = 5000
"""Rows, as the database estimates them; a smaller table is not split."""
COUNTED, FIRST, LAST = ["counted"], ["first"], ["last_user", "last_movie", "last_rating"]
TWICE = "it sent the same page twice: it ignores filters, or a cache answers"


@dataclass(frozen=True)
class Table:
    """A table with ratings, asked over REST. It may be asked from several threads."""

    client: SyncPostgrestClient
    names: AppTable

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of user, film and rating, quoted."""
        return tuple(map(_quote, self.names.columns))

    def select(self, names: Sequence[str], conditions: Sequence[str], **how: Any) -> Any:
        """Return a request for columns, under `names`, of the rows that meet all conditions.

        Each kind of request has its own names: so an answer to another one, which a wrong cache
        gives, is not taken for its own.
        """
        wanted = [f"{name}:{own}::text" for name, own in zip(names, self.columns, strict=False)]
        request = self.client.from_(self.names.table).select(*wanted, **how)
        return request.or_(f"and({','.join(conditions)})")

    def count(self, *conditions: str) -> int:
        """Return the number of rows that all conditions hold for, exactly."""
        # Not a HEAD request: its answer could not say what is wrong.
        request = self.select(COUNTED, conditions, count="exact").limit(1)
        rows, count = answered(request, COUNTED)
        if count is None or len(rows) != min(count, 1):
            raise TryAgainError("its answer is not the count that was asked for")
        return count

    def count_without_key(self) -> int:
        """Return the number of rows without a user or film, which are on no page."""
        user, movie, _ = self.columns
        condition = f"or({user}.is.null,{movie}.is.null)"
        return with_retries(partial(self.count, condition), SUPABASE)

    def split(self) -> list[Range]:
        """Return ranges of users, up to the last row as it is now. Each row is in exactly one."""
        user, movie, rating = self.columns
        start = [f"{user}.not.is.null", f"{movie}.not.is.null"]
        request = self.select(LAST, start, count="planned").order(user, desc=True)
        request.order(movie, desc=True).order(rating, desc=True, nullsfirst=True).limit(1)
        last, estimate = rows_of(request, LAST)
        if not last:
            return [Range(self, start, 0)]  # reading it makes sure that it is empty
        step = (estimate or 0) // RANGES
        ranges: list[Range] = []
        while step >= MIN_RANGE and len(ranges) < RANGES - 1:
            request = self.select(FIRST, start).order(user).limit(1).offset(step)
            first, _ = rows_of(request, FIRST)
            if not first:
                break
            limit = _quote(first[0].user)
            ranges.append(Range(self, [*start, f"{user}.lte.{limit}"], len(ranges)))
            start = [*start[:2], f"{user}.gt.{limit}"]
        return [*ranges, Range(self, [*start, self.until(last[0])], len(ranges))]

    def since(self, row: Row, sign: str) -> str:
        """Return the condition for the rows behind this one; with "gte" its equals too.

        Nulls are last. PostgREST has no comparison of whole rows; Postgres plans this one as well:
        from the index, up to the last page.
        """
        user, movie, rating = self.columns
        first, second = _quote(row.user), _quote(row.movie)
        before = f"{rating}.not.is.null"
        if row.rating is not None:
            less = "lt" if sign == "gte" else "lte"
            before = f"{rating}.{less}.{_quote(row.rating)},{before}"
        elif sign == "gt":
            before = f"{movie}.eq.{second}"  # all ratings of the film
        before = f"or({movie}.lt.{second},and({movie}.eq.{second},{before}))"
        return f"{user}.gte.{first},not.and({user}.eq.{first},{before})"

    def until(self, row: Row) -> str:
        """Return the condition for this row, its equals and those before it."""
        user, movie, rating = self.columns
        first, second = _quote(row.user), _quote(row.movie)
        behind = f"{movie}.gt.{second}"
        if row.rating is not None:
            more = f"or({rating}.gt.{_quote(row.rating)},{rating}.is.null)"
            behind = f"or({behind},and({movie}.eq.{second},{more}))"
        return f"{user}.lte.{first},not.and({user}.eq.{first},{behind})"

    def equal(self, row: Row) -> list[str]:
        """Return the conditions for the rows that are equal to this one to Postgres."""
        user, movie, rating = self.columns
        value = "is.null" if row.rating is None else f"eq.{_quote(row.rating)}"
        return [
            f"{user}.eq.{_quote(row.user)}",
            f"{movie}.eq.{_quote(row.movie)}",
            f"{rating}.{value}",
        ]


@dataclass(frozen=True)
class Range:
    """A part of a table: the rows that all conditions hold for."""

    table: Table
    conditions: list[str]
    number: int

    def read(self) -> Iterator[list[Row]]:
        """Yield the rows in pages."""
        held: list[Row] = []
        seen = dict[Row, None]()
        at_end = False
        while not at_end:
            last = next(reversed(seen), None)
            rows, at_end = with_retries(partial(self._next, last, seen), SUPABASE)
            again = set(rows)
            yield [row for row in held if row not in again]
            held = rows
            if rows:
                seen[rows[-1]] = None
        yield held

    def _next(self, last: Row | None, seen: Container[Row]) -> tuple[list[Row], bool]:
        """Return the rows from `last` on, its equals included, as many as fit on a page.

        If no other row comes, those of the page behind it follow.

        Returns:
            The rows, and whether they are the last ones.
        """
        rows, _ = self._page([self.table.since(last, "gte")] if last else [])
        if last and last not in rows:
            self._check_equal(last, rows, expected=0)  # it was deleted meanwhile
        if rows and rows[-1] not in seen:
            return rows, False
        if rows:
            last = rows[-1]
            self._check_equal(last, rows, expected=len(rows))
        more, count = self._page([self.table.since(last, "gt")] if last else [], count="exact")
        if not more and count != 0:
            raise TryAgainError("an empty page before the end")
        if more and more[-1] in seen:
            raise TryAgainError(TWICE)
        return rows + more, not more

    def _page(self, behind: list[str], **how: Any) -> tuple[list[Row], int | None]:
        """Return a page of rows, and the number of rows that are left, if it asks that."""
        user, movie, rating = self.table.columns
        names = [f"{name}{self.number}" for name in ("user", "movie", "rating")]
        request = self.table.select(names, self.conditions + behind, **how)
        return rows_of(request.order(user).order(movie).order(rating).limit(PAGE), names)

    def _check_equal(self, row: Row, page: list[Row], expected: int) -> None:
        """Raise unless as many rows as expected are equal to this one."""
        count = self.table.count(*self.table.equal(row))
        if count > len(page) > 0:
            raise SourceError(
                f"{count:,} rows of {self.table.names} are equal in user, film and rating, more "
                "than fit on a page over REST: make user and film its primary key, or use "
                "SUPABASE_DB_URL"
            )
        if count != expected:
            raise TryAgainError(TWICE)


def _quote(text: object) -> str:
    """Quote a name or value for PostgREST, where punctuation has a meaning."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

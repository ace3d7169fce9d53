"""PostgREST's query grammar: select, order, filters and logic trees, as parameterised SQL."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

QUOTED = r'"(?:[^"\\]|\\.)*"'
ITEM = QUOTED + r"(?![^,)])|[^,)]*"  # a value in a list
NESTED = QUOTED + r"(?![^,)])|\{[^{}]*\}|[^,)]*"  # a value in a logic tree
WHOLE = r".*"  # a value that is a parameter of its own: quotes and commas stand for themselves
OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class RestError(Exception):
    """An error as PostgREST tells it."""

    def __init__(self, status: int, code: str, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "details": details, "hint": None, "message": message}


class Parser:
    """PostgREST's grammar over one query parameter; filter values are collected in `values`."""

    def __init__(self, what: str, text: str, values: dict[str, str]) -> None:
        self.what, self.text, self.values, self.at = what, text, values, 0

    def error(self) -> RestError:
        """What PostgREST says of a parameter it cannot parse, with the place."""
        message = f'"failed to parse {self.what} ({self.text})" (line 1, column {self.at + 1})'
        return RestError(400, "PGRST100", message, f"unexpected {self.text[self.at :][:1]!r}")

    def maybe(self, pattern: str) -> str | None:
        """The text that matches here, taken; None when it does not match."""
        found = re.compile(pattern, re.DOTALL).match(self.text, self.at)
        if found:
            self.at = found.end()
        return found and found[0]

    def take(self, pattern: str) -> str:
        """The text that must match here."""
        found = self.maybe(pattern)
        if found is None:
            raise self.error()
        return found

    def whole(self, parse: Callable[[], sql.Composable]) -> sql.Composable:
        """What `parse` reads, which must be the whole parameter."""
        found = parse()
        self.take(r"\Z")
        return found

    def listed(self, parse: Callable[[], sql.Composable], joint: str = ", ") -> sql.Composable:
        """One or more of what `parse` reads, with commas between them, put together in SQL."""
        found = [parse()]
        while self.maybe(r"\s*,\s*") is not None:
            found.append(parse())
        return sql.SQL(joint).join(found)

    def column(self) -> sql.Composable:
        """A column name, quoted or not, qualified with the table as PostgREST does."""
        name = self.take(r'"(?:[^"\\]|\\.)*"|[\w $]+(?:-[\w $]+)*')
        return sql.Identifier("pgrst_table", unescape(name).strip())

    def selected(self) -> sql.Composable:
        """One `[alias:]column[::type]`, under its alias or its own name."""
        alias = self.maybe(r"\w+:(?!:)")
        found = name = self.column()
        if kind := self.maybe(r"::\w+"):
            found = sql.SQL("cast({} as {})").format(found, sql.Identifier(kind[2:]))
        named = sql.Identifier(alias[:-1] if alias else name._obj[-1])
        return sql.SQL("{} as {}").format(found, named)

    def columns(self) -> sql.Composable:
        """The list of `select`."""
        return sql.SQL("*") if self.maybe(r"\*") else self.listed(self.selected)

    def order_term(self) -> sql.Composable:
        """One `column[.asc|.desc][.nullsfirst|.nullslast]`."""
        term = self.column()
        if way := self.maybe(r"\.(asc|desc)"):
            term += sql.SQL(" desc" if way == ".desc" else " asc")
        if nulls := self.maybe(r"\.nulls(first|last)"):
            term += sql.SQL(" nulls first" if nulls == ".nullsfirst" else " nulls last")
        return term

    def order(self) -> sql.Composable:
        """The list of `order`."""
        return sql.SQL("order by ") + self.listed(self.order_term)

    def condition(self, column: sql.Composable, value: str) -> sql.Composable:
        """One `[not.]op.value` on a column; `value` is the pattern of a plain value here."""
        negated = self.maybe(r"not\.")
        name = self.take(rf"({'|'.join(OPERATORS)}|is|in)\.")[:-1]
        if name == "is":
            word = self.take(r"null|true|false")
            test = sql.SQL("{} is {}").format(column, sql.SQL(word))
        elif name == "in":
            test = sql.SQL("{} = any({})").format(column, self.bind(self.array()))
        else:
            found = self.take(value)
            bound = self.bind(found if value == WHOLE else unescape(found))
            test = sql.SQL("{} {} {}").format(column, sql.SQL(OPERATORS[name]), bound)
        return sql.SQL("not ({})").format(test) if negated else test

    def array(self) -> str:
        """The list of `in`, as the array literal PostgREST hands to PostgreSQL."""
        self.take(r"\s*\(\s*")
        items = [unescape(self.take(ITEM))]
        while self.maybe(","):
            items.append(unescape(self.take(ITEM)))
        self.take(r"\s*\)\s*")
        escaped = (re.sub(r'(["\\])', r"\\\1", item) for item in items)
        return "{}" if items == [""] else "{" + ",".join(f'"{item}"' for item in escaped) + "}"

    def tree(self) -> sql.Composable:
        """One filter of a logic tree, or a nested `[not.]and(...)` or `or(...)`."""
        group = self.maybe(r"(not\.)?(and|or)(?=\s*\()")
        if group is None:
            column = self.column()
            self.take(r"\.")
            return self.condition(column, NESTED)
        self.take(r"\s*\(\s*")
        parts = self.listed(self.tree, " and " if group.endswith("and") else " or ")
        self.take(r"\s*\)\s*")
        return sql.SQL("not ({})" if group.startswith("not") else "({})").format(parts)

    def bind(self, value: str) -> sql.Composable:
        """The placeholder of a value; it has no type, so PostgreSQL gives it the column's."""
        name = f"v{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name)


def unescape(value: str) -> str:
    """A value without its double quotes and backslash escapes; unquoted ones stay as they are."""
    quoted = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', value, re.DOTALL)
    return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL) if quoted else value


def where_clause(query: httpx.QueryParams, values: dict[str, str]) -> sql.Composable:
    """The SQL of all filters of a query, and-ed; their values go to `values`."""
    filters: list[sql.Composable] = [sql.SQL("true")]
    for key, value in query.multi_items():
        if re.fullmatch(r"(not\.)?(and|or)", key):
            tree = Parser("logic tree", key + value, values)
            filters.append(tree.whole(tree.tree))
        elif key not in {"select", "order", "limit", "offset"}:
            name = Parser("filter", key, values)
            column = name.whole(name.column)
            test = Parser("filter", value, values)
            filters.append(test.whole(partial(test.condition, column, WHOLE)))
    return sql.SQL(" and ").join(filters)


def page_bounds(query: httpx.QueryParams, range_header: str) -> tuple[int, float]:
    """The offset and limit asked for by the parameters and the `Range` header together."""
    limit = float(query["limit"]) if query.get("limit", "").lstrip("-").isdecimal() else math.inf
    first = int(query["offset"]) if query.get("offset", "").isdecimal() else 0
    end = first + limit
    if found := re.fullmatch(r"(\d+)-(\d*)", range_header):
        first, end = max(first, int(found[1])), min(end, float(found[2] or "inf") + 1)
    if first > end or (first == end and limit != 0):
        raise unsatisfiable("The lower boundary must be lower than or equal to the upper boundary.")
    return first, end - first


def unsatisfiable(details: str) -> RestError:
    """What PostgREST says of a page that is not there."""
    return RestError(416, "PGRST103", "Requested range not satisfiable", details)

"""Say what is wrong with the app's ratings as a whole, and what to do. No user id is ever in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ratings import NOT_APP_PREFIX
from . import scales
from .cleaning import NO_FILM, NO_NUMBER, NO_USER, NULL, RESERVED, film_ids, off_scale, take_apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    import pyarrow as pa

    from ..settings import AppTable

MAX_LEFT_OUT = 0.1
"""Share of the app's rows that may be left out for one reason: with more, a setting is wrong."""
TOLERATED_LEFT_OUT = 10
"""Number of them that may be left out whatever their share."""
MAX_SHARE, MIN_LARGE = 0.1, 100
"""An account with a larger share of the app's ratings, and more of them, is warned of."""
MAX_IDENTICAL = 1000
"""Ratings of one value that an account may have without a warning."""
IMDB = "IMDb ids"
KINDS = {
    IMDB: "tt[0-9]+",
    "UUIDs": "[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}",
    "numbers": "[-+]?[0-9]+([.,][0-9]*)?",
}
"""Patterns of values by what they are called in messages, which show only values that cannot be a
person's: where a setting is wrong, its column can have users' ids, addresses or what they wrote."""
NUMBER = "[-+]?(1000|[0-9]{1,3}([.,][0-9]{1,2})?)"
WORDS = (
    "yes|no|true|false|(dis)?liked?|loved?|hated?|good|great|ok|okay|bad|(thumbs[ _-]?)?(up|down)"
    "|positive|negative|neutral|null|none|nan|n/?a|(un|not )rated"
)
CAN_BE_RATING = rf"(?i: *({NUMBER}( ?/ ?{NUMBER}| ?%)?|{WORDS}|\W{{1,5}}) *)"
"""What a rating looks like that can be shown."""
MAX_DISTINCT = 200
"""Distinct numbers in a column of ratings; in one with more they could be users' ids."""
VIEW = "make a view that {} and set APP_RATINGS_TABLE to it, see docs/app-database.md"
READINGS = {
    "^ *([0-9]+,[0-9]+|[0-9.]+) *$": "replace({}, ',', '.')::real",
    "^ *([0-9]+[.,]?[0-9]*)": "replace(substring({} from '[0-9]+[.,]?[0-9]*'), ',', '.')::real",
}
"""How numbers can be read of a column of texts, and the SQL for it: with decimal commas; the first
number, as in 4/5."""
ADVICE = {
    NULL: "have no user or no film: set APP_RATINGS_USER and APP_RATINGS_MOVIE to columns without "
    f"nulls, or {VIEW.format('leaves these rows out')}",
    NO_USER: "have an empty user id: set APP_RATINGS_USER to the column with the users' ids, or "
    f"{VIEW.format('leaves these rows out')}",
    RESERVED: f"have a user id that begins with {NOT_APP_PREFIX!r}, as MovieLens's users: "
    f"{VIEW.format('puts another prefix before the ids')}",
}
"""What is wrong with too many rows, by the reason that they are left out."""


def explain_left_out(
    rows: pa.Table, dropped: Mapping[str, int], scale: str, names: AppTable, found: int
) -> str | None:
    """Return what is wrong where too many rows are left out for one reason, else None.

    Args:
        rows: see `cleaning.clean_app_ratings`.
        dropped: number of rows left out, by reason.
        scale: a key of `scales.BOUNDS`.
        names: where the rows are from.
        found: number of rows, those without a user or film included.

    Returns:
        What was found, what was expected and what to do.
    """
    limit = max(TOLERATED_LEFT_OUT, MAX_LEFT_OUT * found)
    invalid = dropped.get(NO_NUMBER, 0) + dropped.get(off_scale(scale), 0)
    said = ""
    if invalid > limit:
        count, said = invalid, _explain_ratings(rows, scale, names)
    elif dropped.get(NO_FILM, 0) > limit:
        count, said = dropped[NO_FILM], _explain_films(rows, names)
    else:
        for reason, advice in ADVICE.items():
            if dropped.get(reason, 0) > limit:
                count, said = dropped[reason], advice
    return f"{count:,} of {found:,} app ratings {said}" if said else None


def _explain_films(rows: pa.Table, names: AppTable) -> str:
    """Return what the film ids look like, and how they can become TMDB's."""
    texts, counts, _ = _count(rows, "movie_id")
    wrong = counts * film_ids(texts).isna().to_numpy()
    kind = _kind_of(texts[wrong > 0], wrong[wrong > 0])
    shown = f" such as {texts[int(wrong.argmax())]!r}" if kind == IMDB else ""
    return (
        f"have no TMDB id: expected positive integers, found {kind}{shown}; set APP_RATINGS_MOVIE "
        f"(now {names.shown.movie}) to the column with them, or "
        + VIEW.format("maps these to TMDB ids")
    )


def _explain_ratings(rows: pa.Table, scale: str, names: AppTable) -> str:
    """Return what the ratings look like, and how they can become stars."""
    texts, counts, nulls = _count(rows, "rating")
    if texts.empty:
        return (
            f"have no rating: set APP_RATINGS_RATING (now {names.shown.rating}) to another column"
        )
    given = scales.ratings_of(texts, scale)
    invalid = texts[~scales.are_on(given, scale)]
    shown = invalid[_may_be_shown(invalid, rows) & (len(texts) <= MAX_DISTINCT)]
    often = sorted(shown.index, key=lambda place: (-counts[place], texts[place]))[:3]
    found = ", ".join([*(repr(texts[place]) for place in often), *(["null"] if nulls else [])])
    if not found:
        found = _kind_of(invalid, counts[invalid.index])
    said = f"are outside the scale {scale} (found {found}): "
    column = names.shown.rating
    whole = np.ones(len(texts), dtype=np.bool_)
    nulls_out = VIEW.format(f"leaves out nulls (where {column} is not null)") if nulls else ""
    where = f"{column}::real > 0" if given.notna().all() else "it is a number above 0"
    views = [
        VIEW.format(f"makes numbers of them ({expression.format(column)})")
        for expression in READINGS.values()
    ]
    comma, first = (_read(texts, pattern) for pattern in READINGS)
    for read, rated, view in (
        (texts, whole, nulls_out),
        (comma, whole, views[0]),
        # A number for "not rated", or a word for it, between valid ratings.
        (texts, (scales.numbers(texts) > 0).to_numpy(),
         VIEW.format(f"leaves out what is no rating (where {where})")),
        (first, whole, views[1]),
    ):  # fmt: skip
        if fits := _fitting_scale(read[rated], counts[rated], scale):
            declare = f"set APP_RATINGS_SCALE to {fits}" if fits != scale else ""
            return said + ", and ".join(filter(None, (declare, view)))
    stars = f"makes stars of them, 0.5 to 5 ({_to_stars(texts, counts, column)})"
    return f"{said}no scale of APP_RATINGS_SCALE fits: {VIEW.format(stars)}"


def _read(texts: pd.Series, pattern: str) -> pd.Series:
    """Return the number that a pattern finds in each text, with a decimal point."""
    found: pd.Series = texts.str.extract(pattern, expand=False).str.replace(",", ".")
    return found


def _to_stars(texts: pd.Series, counts: np.ndarray, column: str) -> str:
    """Return what makes stars of ratings on no scale that is known, in SQL."""
    for pattern, expression in {"^(-?[0-9.]+)$": "{}::real", **READINGS}.items():
        read = scales.numbers(_read(texts, pattern))
        if counts[read.notna().to_numpy()].sum() >= (1 - MAX_LEFT_OUT) * counts.sum():
            top = next((str(top) for top in (5, 10, 20, 100, 1000) if read.max() <= top), "...")
            return f"greatest(0.5, {expression.format(column)} * 5.0 / {top})"
    return f"case {column} when ... then 4.5 when ... then 2.5 end"


def _may_be_shown(texts: pd.Series, rows: pa.Table) -> pd.Series:
    """Return for each rating whether it can be in a message, boolean."""
    users, _ = take_apart(rows, "user_id")
    return texts.str.fullmatch(CAN_BE_RATING) & ~texts.isin(users)


def _kind_of(texts: pd.Series, counts: np.ndarray) -> str:
    """Return what texts look like, without any of them.

    Args:
        texts: at least one.
        counts: number of rows with each (int64).
    """
    for name, pattern in KINDS.items():
        kind = texts.str.fullmatch(pattern).to_numpy(dtype=np.bool_)
        if counts[kind].sum() >= (1 - MAX_LEFT_OUT) * counts.sum():
            return name
    low, high = int(texts.str.len().min()), int(texts.str.len().max())
    return f"texts of {low}{f' to {high}' if low < high else ''} characters"


def _fitting_scale(texts: pd.Series, counts: np.ndarray, scale: str) -> str | None:
    """Return the scale that nearly all ratings are on, the declared one before others."""
    for name in (scale, *scales.BOUNDS):
        on = counts[scales.are_on(scales.ratings_of(texts, name), name).to_numpy()].sum()
        if 0 < on >= (1 - MAX_LEFT_OUT) * counts.sum():
            return name
    return None


def _count(rows: pa.Table, name: str) -> tuple[pd.Series, np.ndarray, int]:
    """Return the column's distinct texts, how many rows have each (int64), and the nulls."""
    texts, codes = take_apart(rows, name)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    return texts, counts, int((codes < 0).sum())


def find_heavy_accounts(table: pd.DataFrame) -> Iterator[str]:
    """Yield what is to be said of accounts with very many or many identical ratings.

    Args:
        table: the app's ratings.
    """
    total = len(table)
    if total <= MIN_LARGE:
        return
    user = table["user_id"].cat.codes.to_numpy(dtype=np.int64)
    counts = np.bincount(user)
    large = counts[counts > max(MIN_LARGE, MAX_SHARE * total)]
    if len(large):
        who = "one account has" if len(large) == 1 else f"{len(large)} accounts have"
        yield (
            f"{who} {large.sum() / total:.0%} of the app's ratings ({large.sum():,} of {total:,}); "
            "if it is a test or an import, leave it out by a view, see docs/app-database.md"
        )
    many = counts[user] > MAX_IDENTICAL
    values, value = np.unique(table["rating"].to_numpy()[many], return_inverse=True)
    pairs, sizes = np.unique(user[many] * len(values) + value, return_counts=True)
    most = int(sizes.max(initial=0))
    if most > MAX_IDENTICAL:
        stars = values[pairs[sizes.argmax()] % len(values)]
        yield (
            f"one account has {most:,} ratings of {stars:g} stars, {most / total:.0%} of the app's "
            "ratings; if no person gave them, leave it out by a view, see docs/app-database.md"
        )

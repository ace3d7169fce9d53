"""What a list of films is made of, and what is asked of one: checked values, NumPy alone."""

from __future__ import annotations

import math
import operator
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..algorithms import ranking_scores
from ..errors import MovieIdError, RatingError, RequestError, UserIdError
from ..ratings import HIGHEST, LOWEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ..algorithms.ranking_scores import RankedUser, Ranking

UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
ORDERS = ("score", "stars")
"""What a list can be ordered by."""


class Recommendation(NamedTuple):
    """A film, what it is worth in a list, and the rating predicted for it."""

    movie_id: int
    """TMDB id."""
    score: float
    """From 0 to 1, which the user's best unseen film has."""
    stars: float
    """Predicted, on the scale of the ratings."""


class SimilarFilm(NamedTuple):
    """A film that is like another."""

    movie_id: int
    """TMDB id."""
    score: float
    """From -1 to 1, which the film itself would have."""


class Reason(NamedTuple):
    """A film of a user that speaks for another film."""

    movie_id: int
    """TMDB id."""
    share: float
    """Of the other film's exposure; see `CollaborativeModel.because`."""


def find_user(users: Mapping[str, int], user: str | uuid.UUID) -> int | None:
    """Return a user's row; None where the release does not know the user.

    Args:
        users: rows by id.
        user: the app's id; a UUID is the same user in either case and as `uuid.UUID`.

    Raises:
        UserIdError: it is of another type.
    """
    if isinstance(user, uuid.UUID):
        user = str(user)
    if not isinstance(user, str):
        raise UserIdError(
            f"expected a user's id as str or uuid.UUID, or a folded-in user, found {shown(user)}"
        )
    row = users.get(user)
    if row is None and UUID.fullmatch(user):
        lower = users.get(user.lower())
        row = users.get(user.upper()) if lower is None else lower
    return row


def shown(value: object, write: Callable[[object], str] = repr) -> str:
    """Return the start of a value as `write` gives it, for a message; its type where it cannot.

    Python does not write an integer of more than 4,300 digits.
    """
    try:
        return write(value)[:40]
    except Exception:  # whatever a class does in its `__repr__`
        return f"a value of type {type(value).__name__}"


def as_list(movie_ids: Iterable[int]) -> list[int]:
    """Return film ids in any collection as a list; `Snapshot.rows_of` checks each.

    Raises:
        MovieIdError: it is no collection.
    """
    try:
        return list(movie_ids)
    except TypeError:
        raise MovieIdError(
            f"expected a list of film ids as integers, found {shown(movie_ids)}"
        ) from None


def check_stars(ratings: Mapping[int, float]) -> NDArray[np.float64]:
    """Return the values as an array, once they are stars; see `CollaborativeModel.fold_in`.

    Raises:
        RatingError: they are not, or it is no mapping.
    """
    if not isinstance(ratings, Mapping):
        raise RatingError(f"expected stars by film id, found {shown(ratings)}")
    numbers: list[float] = []
    for movie_id, stars in ratings.items():
        if isinstance(stars, bool) or not isinstance(stars, Real | Decimal):
            raise RatingError(
                f"film {shown(movie_id)} has a rating that is no number: {shown(stars)}"
            )
        try:
            number = float(stars)
        except (ValueError, OverflowError):  # a signalling NaN, an integer of 400 digits
            number = math.nan
        if not LOWEST <= number <= HIGHEST:
            raise RatingError(
                f"film {shown(movie_id)} has {shown(stars, str)} stars, "
                f"expected {LOWEST} to {HIGHEST:g}"
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.float64)


def check_count(n: int) -> int:
    """Return `n`, the length of a list at most, as an int.

    Raises:
        RequestError: it is not an integer of at least 0.
    """
    try:
        if not isinstance(n, bool | np.bool_) and operator.index(n) >= 0:
            return operator.index(n)
    except TypeError:
        pass
    raise RequestError(f"expected n as an integer of at least 0, found {shown(n)}")


def check_order(by: str, novelty: float) -> float:
    """Check what a list is to be ordered by; return `novelty` as a float.

    Raises:
        RequestError: there is no such order, or `novelty` is not a number of at least 0.
    """
    if not isinstance(by, str) or by not in ORDERS:
        raise RequestError(f"expected by='score' or by='stars', found {shown(by)}")
    number = math.nan
    if isinstance(novelty, Real | Decimal):
        with suppress(ValueError, OverflowError):  # a signalling NaN, an integer of 400 digits
            number = float(novelty)
    if not 0 <= number < math.inf:
        raise RequestError(f"expected novelty as a number of at least 0, found {shown(novelty)}")
    return number


def score_films(
    ranking: Ranking | None,
    user: RankedUser | None,
    seen: NDArray[np.integer],
    stars: NDArray[np.float64],
    threshold: float,
) -> NDArray[np.float64]:
    """Return the score of every film, from 0 to 1, which the best unseen one has, (films,).

    Args:
        ranking: None for a release without one: the score is then P(liked), in the order of the
            stars.
        user: as the ranking knows them; None without a ranking.
        seen: rows of the films the user rated or watched.
        stars: predicted, not clipped to the scale, (films,).
        threshold: stars at which P(liked) is a half, where there is no ranking.
    """
    if ranking is not None and user is not None:
        return ranking_scores.score(ranking, user, stars).astype(np.float64)
    return over_best(1 / (1 + np.exp(ranking_scores.STEEPNESS * (threshold - stars))), seen)


def over_best(values: NDArray[np.float64], seen: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return values over the highest one of films not seen, at most 1, (films,)."""
    unseen = values.copy()
    unseen[seen] = 0
    best = unseen.max(initial=0)
    if best == 0:  # all films were seen, or all are worth nothing
        best = values.max(initial=0) or 1.0
    found: NDArray[np.float64] = np.minimum(values / best, 1)
    return found


def best_films(
    scores: NDArray[np.floating], stars: NDArray[np.floating], ids: NDArray[np.int64], n: int
) -> NDArray[np.intp]:
    """Return the places of the n highest scores, highest first, (n,) or fewer.

    Of equal ones the one with more stars comes first, then the one with the lower id.
    """
    if n <= 0:
        return np.empty(0, dtype=np.intp)
    if n < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    else:
        places = np.arange(len(scores))
    order = np.lexsort((ids[places], -stars[places], -scores[places]))
    return places[order[:n]]

"""A surprise Trainset whose ratings lie in arrays, with no Python object per rating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from surprise import Trainset

from .errors import InputError
from .ratings import rating_scale
from .texts import decode_texts, encode_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray


class Rows(NamedTuple):
    """Compressed rows: row k is the slice from starts[k] to starts[k + 1] of the other two."""

    starts: NDArray[np.int64]
    others: NDArray[np.int32]
    """Inner ids of the items a user rated, or of the users who rated an item."""
    ratings: NDArray[Any]
    """float32 where that is exact, else float64."""


class RawIds:
    """Raw ids by inner id, in arrays: int64, or UTF-8 text end to end; other kinds in a list."""

    def __init__(self, ids: Sequence[Any]) -> None:
        kinds = set(map(type, ids))
        self._kind = next(iter(kinds)) if len(kinds) == 1 else object
        if self._kind is int and max(map(abs, ids)) < 2**63:
            self._data: Any = np.array(ids, dtype=np.int64)
        elif self._kind is str:
            self._data, self._ends = encode_texts(ids)
        else:
            self._data, self._kind = list(ids), object

    def tolist(self) -> list[Any]:
        """The raw ids as Python objects, by inner id."""
        if self._kind is not str:
            return list(self._data.tolist() if self._kind is int else self._data)
        return decode_texts(self._data, self._ends)


class IdTrainset(Trainset):  # type: ignore[misc]
    """Ids, counts, mean and scale of a trainset: what a model in a file needs of it to predict.

    Its methods on ids are those of `surprise.Trainset`; the ratings themselves are in the
    trainset's own file, and asking for them here says so.
    """

    def __init__(
        self,
        users: RawIds,
        items: RawIds,
        counts: tuple[int, int, int],
        scale: tuple[float, float],
        global_mean: float,
    ) -> None:
        self._users, self._items = users, items
        self.n_users, self.n_items, self.n_ratings = counts
        self.rating_scale = scale
        self._global_mean = global_mean
        self._inner2raw_id_users = self._inner2raw_id_items = None

    @cached_property
    def _raw2inner_id_users(self) -> dict[Any, int]:
        return {raw: inner for inner, raw in enumerate(self.raw_users())}

    @cached_property
    def _raw2inner_id_items(self) -> dict[Any, int]:
        return {raw: inner for inner, raw in enumerate(self.raw_items())}

    def find(self, rows: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Inner user and item ids of each row of a ratings table; -1 where one is unknown."""
        import pandas as pd

        return (
            pd.Index(self.raw_users()).get_indexer(rows["user_id"].astype("object")),
            pd.Index(self.raw_items()).get_indexer(rows["movie_id"]),
        )

    def raw_users(self) -> list[Any]:
        """The users' raw ids by inner id."""
        return self._users.tolist()

    def raw_items(self) -> list[Any]:
        """The items' raw ids by inner id."""
        return self._items.tolist()

    def __getstate__(self) -> dict[str, Any]:
        """The arrays; what was derived from them is derived anew after loading."""
        derived = {name for name in vars(type(self)) | vars(IdTrainset) if name in vars(self)}
        state = {name: value for name, value in vars(self).items() if name not in derived}
        return state | {"_inner2raw_id_users": None, "_inner2raw_id_items": None}

    @property
    def ur(self) -> Mapping[int, list[tuple[int, float]]]:
        """Not here."""
        raise AttributeError("the model's file has no ratings: they are in cf_trainset.pkl")

    ir = ur

    def knows_user(self, uid: object) -> bool:
        """Whether `uid` is an inner user id."""
        return _is_inner(uid, self.n_users)

    def knows_item(self, iid: object) -> bool:
        """Whether `iid` is an inner item id."""
        return _is_inner(iid, self.n_items)


class ArrayTrainset(IdTrainset):
    """A `surprise.Trainset` over arrays: every documented method and attribute is the same.

    The ratings are held in the order they came in, 12 bytes each where float32 is exact; rows by
    user and by item are made when first asked for, and a list of tuples at each look at one: what
    is done to such a list does not change the trainset.
    """

    def __init__(
        self,
        users: RawIds,
        items: RawIds,
        ratings: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]],
        counts: tuple[int, int],
        scale: tuple[float, float],
    ) -> None:
        self._user_codes, self._item_codes, self._ratings = ratings
        mean = float(np.mean(self._ratings, dtype=np.float64)) if len(self._ratings) else np.nan
        super().__init__(users, items, (*counts, len(self._ratings)), scale, mean)

    def check(self) -> None:
        """Find what would lead compiled code astray: a damaged file, or arrays of another maker.

        Raises:
            InputError: no ratings, ids out of range, or ratings that are not finite.
        """
        if not len(self._user_codes) == len(self._item_codes) == len(self._ratings) > 0:
            what = "no ratings, or columns of different lengths"
        elif {self._user_codes.dtype.name, self._item_codes.dtype.name} != {"int32"} or (
            self._ratings.dtype.name not in ("float32", "float64")
        ):
            what = "columns of other types than int32 ids and float32 or float64 ratings"
        elif not (
            _in_range(self._user_codes, self.n_users) and _in_range(self._item_codes, self.n_items)
        ):
            what = "ids out of range"
        elif not np.isfinite(self._ratings).all():
            what = "ratings that are not finite"
        else:
            return
        raise InputError(f"the trainset has {what}: make it anew from the ratings")

    @cached_property
    def by_user(self) -> Rows:
        """The ratings of each user, in the order they came in."""
        return _group(self._user_codes, self._item_codes, self._ratings, self.n_users)

    @cached_property
    def by_item(self) -> Rows:
        """The ratings of each item, in the order they came in."""
        return _group(self._item_codes, self._user_codes, self._ratings, self.n_items)

    @cached_property
    def ur(self) -> Mapping[int, list[tuple[int, float]]]:
        """The users' ratings: lists of (inner item id, rating) by inner user id, made on demand."""
        return _RowsOfTuples(self.by_user)

    @cached_property
    def ir(self) -> Mapping[int, list[tuple[int, float]]]:
        """The items' ratings: lists of (inner user id, rating) by inner item id, made on demand."""
        return _RowsOfTuples(self.by_item)

    def without_ratings(self) -> IdTrainset:
        """What a model's file needs."""
        counts = self.n_users, self.n_items, self.n_ratings
        return IdTrainset(self._users, self._items, counts, self.rating_scale, self.global_mean)


class _RowsOfTuples(Mapping[int, list[tuple[int, float]]]):
    """Rows as Surprise's algorithms read them; an unknown key has no ratings, as there."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __getitem__(self, inner: int) -> list[tuple[int, float]]:
        if inner not in self:
            return []
        start = int(inner)
        row = slice(self._rows.starts[start], self._rows.starts[start + 1])
        return list(
            zip(self._rows.others[row].tolist(), self._rows.ratings[row].tolist(), strict=True)
        )

    def __contains__(self, inner: object) -> bool:
        return _is_inner(inner, len(self))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._rows.starts) - 1


def make_trainset(table: pd.DataFrame, scale: tuple[float, float] | None = None) -> ArrayTrainset:
    """A trainset of every row of a ratings table, on the scale given, or that its ratings are on.

    Inner ids follow first appearance, as in Surprise.

    Raises:
        InputError: no ratings.
    """
    import pandas as pd

    if table.empty:
        raise InputError(
            "there are no ratings to train on: check the catalog, or take --catalog all"
        )
    user_codes, users = pd.factorize(table["user_id"])
    item_codes, items = pd.factorize(table["movie_id"])
    exact = table["rating"].to_numpy(np.float64)
    small = exact.astype(np.float32)
    return ArrayTrainset(
        RawIds(users.tolist()),
        RawIds(items.tolist()),
        (
            user_codes.astype(np.int32),
            item_codes.astype(np.int32),
            small if np.array_equal(small, exact) else exact,
        ),
        (len(users), len(items)),
        scale or rating_scale(table["rating"]),
    )


def make_films_trainset(
    movie_ids: Sequence[int], scale: tuple[float, float], global_mean: float
) -> ArrayTrainset:
    """A trainset of films without users and ratings, of a model whose users are folded in."""
    nobody = np.empty(0, dtype=np.int32)
    trainset = ArrayTrainset(
        RawIds([]),
        RawIds(movie_ids),
        (nobody, nobody, np.empty(0, dtype=np.float32)),
        (0, len(movie_ids)),
        scale,
    )
    trainset._global_mean = global_mean
    return trainset


def _is_inner(inner: object, count: int) -> bool:
    if not isinstance(inner, int | float | np.integer):
        return False
    return bool(0 <= inner < count and inner % 1 == 0)


def _in_range(codes: NDArray[np.int32], count: int) -> bool:
    return bool(codes.min() >= 0 and codes.max() < count)


def _group(
    keys: NDArray[np.int32], others: NDArray[np.int32], ratings: NDArray[Any], count: int
) -> Rows:
    """Rows by key; within a row the order is kept."""
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=starts[1:])
    if np.all(keys[1:] >= keys[:-1]):
        return Rows(starts, others, ratings)
    order = np.argsort(keys, kind="stable")
    return Rows(starts, others[order], ratings[order])

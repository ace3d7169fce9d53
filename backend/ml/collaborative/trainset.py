"""A surprise Trainset whose ratings lie in arrays, with no Python object per rating.

Pickles name this module, so importing it takes NumPy and Surprise alone, not pandas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import InputError
from .ratings import rating_scale
from .surprise_classes import Trainset
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
    """Raw ids by inner id, without a Python object per id. Named in pickles: do not rename.

    `kind` says what `data` is: "int" (int64, (n,)), "text" (UTF-8 end to end, uint8, with `ends`
    int64, (n,)), or "any" (a list of whatever the ids are).
    """

    ends: NDArray[np.int64] | None = None

    def __init__(self, ids: Sequence[Any]) -> None:
        kinds = set(map(type, ids))
        self.data: Any
        if kinds == {int} and max(map(abs, ids)) < 2**63:
            self.kind, self.data = "int", np.array(ids, dtype=np.int64)
        elif kinds == {str}:
            self.kind = "text"
            self.data, self.ends = encode_texts(ids)
        else:
            self.kind, self.data = "any", list(ids)

    def __len__(self) -> int:
        return len(self.data if self.ends is None else self.ends)

    def tolist(self) -> list[Any]:
        """Return the raw ids as Python objects, by inner id."""
        if self.ends is not None:
            return decode_texts(self.data, self.ends)
        return list(self.data.tolist() if self.kind == "int" else self.data)


class ArrayTrainset(Trainset):  # type: ignore[misc]
    """A `surprise.Trainset` over arrays: every documented method and attribute is the same.

    The ratings are held in the order they came in, 12 bytes each where float32 is exact. Rows by
    user and by item are made when first asked for, and `ur` and `ir` make a new list of tuples at
    each look-up: changing such a list does not change the trainset.

    Named in pickles: do not rename the class, its module or the attributes set in `__init__`. What
    a later version adds needs a default on the class, for pickles made before it.

    Args:
        users: their raw ids.
        items: their raw ids.
        ratings: inner user ids (int32), inner item ids (int32) and ratings (float32 or float64),
            each (n_ratings,).
        scale: lowest and highest rating.
        global_mean: by default the mean of the ratings; for a trainset without any, of the ratings
            that its model was trained on.
    """

    _inner2raw_id_users: dict[int, Any] | None = None
    _inner2raw_id_items: dict[int, Any] | None = None

    def __init__(
        self,
        users: RawIds,
        items: RawIds,
        ratings: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]],
        scale: tuple[float, float],
        global_mean: float | None = None,
    ) -> None:
        self._users, self._items = users, items
        self._user_codes, self._item_codes, self._ratings = ratings
        self.n_users, self.n_items, self.n_ratings = len(users), len(items), len(self._ratings)
        self.rating_scale = scale
        if global_mean is None:
            global_mean = float(np.mean(self._ratings, dtype=np.float64))
        self._global_mean = global_mean

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles hold: the attributes, without those derived from others."""
        derived = {name for name in vars(ArrayTrainset) if name not in ("__dict__", "__weakref__")}
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the attributes of a pickle, whatever version of this class made it."""
        self.__dict__.update(state)

    def check(self) -> None:
        """Check that compiled code can rely on the arrays, whoever made them.

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
        raise InputError(f"the trainset has {what}: make it again from the ratings")

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

    @cached_property
    def _raw2inner_id_users(self) -> dict[Any, int]:
        return {raw: inner for inner, raw in enumerate(self.raw_users())}

    @cached_property
    def _raw2inner_id_items(self) -> dict[Any, int]:
        return {raw: inner for inner, raw in enumerate(self.raw_items())}

    def raw_users(self) -> list[Any]:
        """Return the users' raw ids by inner id."""
        return self._users.tolist()

    def raw_items(self) -> list[Any]:
        """Return the items' raw ids by inner id."""
        return self._items.tolist()

    def find(self, rows: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the inner user and item id of each row of a ratings table; -1 for unknown ones."""
        import pandas as pd

        return (
            pd.Index(self.raw_users()).get_indexer(rows["user_id"].astype("object")),
            pd.Index(self.raw_items()).get_indexer(rows["movie_id"]),
        )

    # Without a look at `ur` and `ir`: predicting needs no rows by user and by item.
    def knows_user(self, uid: object) -> bool:
        """Return whether `uid` is an inner user id."""
        return _is_inner(uid, self.n_users)

    def knows_item(self, iid: object) -> bool:
        """Return whether `iid` is an inner item id."""
        return _is_inner(iid, self.n_items)


class _RowsOfTuples(Mapping[int, list[tuple[int, float]]]):
    """Rows as Surprise's `defaultdict` of lists: an unknown key has no ratings."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a plain `defaultdict`, so that pickles do not name this class."""
        return defaultdict, (list, dict(self))

    def get(self, inner: int, default: Any = None) -> Any:
        """Return a row, or `default` for an unknown key, as dictionaries do."""
        return self[inner] if inner in self else default  # noqa: SIM401  it is `get`

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
    """Return a trainset of every row of a ratings table; inner ids follow first appearance.

    Args:
        table: see `ratings.COLUMNS`.
        scale: lowest and highest rating; by default see `ratings.rating_scale`.

    Raises:
        InputError: no ratings.
    """
    import pandas as pd

    if table.empty:
        raise InputError(
            "there are no ratings to train on: check the catalog, or use --catalog all"
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
        scale or rating_scale(table["rating"]),
    )


def make_items_trainset(
    movie_ids: Sequence[int], scale: tuple[float, float], global_mean: float
) -> ArrayTrainset:
    """Return a trainset of items without users and ratings, for an item-only model."""
    nobody = np.empty(0, dtype=np.int32)
    nothing = np.empty(0, dtype=np.float32)
    return ArrayTrainset(
        RawIds([]), RawIds(movie_ids), (nobody, nobody, nothing), scale, global_mean
    )


def _is_inner(inner: object, count: int) -> bool:
    if not isinstance(inner, int | float | np.integer | np.floating):
        return False
    return bool(0 <= inner < count and inner % 1 == 0)


def _in_range(codes: NDArray[np.int32], count: int) -> bool:
    return bool(codes.min() >= 0 and codes.max() < count)


def _group(
    keys: NDArray[np.int32], others: NDArray[np.int32], ratings: NDArray[Any], count: int
) -> Rows:
    """Return the ratings as rows by key; within a row the order is kept."""
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=starts[1:])
    if np.all(keys[1:] >= keys[:-1]):
        return Rows(starts, others, ratings)
    order = np.argsort(keys, kind="stable")
    return Rows(starts, others[order], ratings[order])

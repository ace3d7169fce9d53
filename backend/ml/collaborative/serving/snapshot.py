"""One release in memory, as the fusion service asks it; never changed once it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms import fold_in
from ..errors import MovieIdError, RatingError, UserIdError
from ..ratings import HIGHEST, LOWEST
from ..release import NAMES, load_arrays, read_manifest
from ..texts import decode_texts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

SERVED = tuple(name for name in NAMES if name != "rated_stars")
"""The arrays that are needed to serve."""
DENSE = 1 << 24
"""Highest film id up to which a table of all ids is kept to look them up: 64 MiB at most."""


@dataclass(frozen=True, eq=False)
class FoldedUser:
    """A user as their own ratings tell, whether or not the model was trained with them."""

    ratings: Mapping[int, float]
    """Stars by TMDB id; films that the model does not know have no part in the rest."""
    bias: float
    vector: NDArray[np.float64]
    """(factors,)"""
    build_id: str
    """Of the release that bias and vector belong to; another release computes them again."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One release; never changed once it is made."""

    build_id: str
    manifest: Mapping[str, Any]
    scale: tuple[float, float]
    global_mean: float
    users: dict[str, int]
    movie_ids: NDArray[np.int64]
    bu: NDArray[np.float64]
    bi: NDArray[np.float64]
    pu: NDArray[np.float64]
    qi: NDArray[np.float64]
    root: NDArray[np.float64]
    implicit: NDArray[np.float64] | None
    rated_starts: NDArray[np.int64]
    rated_movies: NDArray[np.int32]
    order: NDArray[np.intp]
    """Rows of the films by their id, ascending."""
    table: NDArray[np.int32] | None
    """Row by film id, -1 where there is none; None where ids are too high for that."""
    cache: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def rows_of(self, movie_ids: ArrayLike) -> NDArray[np.intp]:
        """Return the row of each film; -1 where the model does not know it."""
        try:
            ids = np.asarray(movie_ids)
        except (ValueError, OverflowError):  # uneven lists
            ids = np.empty(())
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise MovieIdError(f"expected a list of film ids as integers, found {movie_ids!r:.80}")
        ids = ids.astype(np.int64, copy=False)
        if self.table is not None:
            inside = (ids >= 0) & (ids < len(self.table))
            rows = self.table[np.where(inside, ids, 0)]
            return np.where(inside, rows, -1).astype(np.intp)
        in_order = self.movie_ids[self.order]
        places = np.searchsorted(in_order, ids).clip(max=len(in_order) - 1)
        return np.where(in_order[places] == ids, self.order[places], -1)

    def parameters_of(self, user: str | FoldedUser) -> tuple[float, NDArray[np.float64] | None]:
        """Return the bias and vector; zero and None for a user whom the model does not know."""
        if isinstance(user, FoldedUser):
            if user.build_id != self.build_id:
                user = self.fold_in(user.ratings)
            return user.bias, user.vector
        if not isinstance(user, str):
            raise UserIdError(
                f"expected a user's id as str, or a folded-in user, found {user!r:.80}"
            )
        row = self.users.get(user)
        return (0.0, None) if row is None else (float(self.bu[row]), self.pu[row])

    def rows_rated_by(self, user: str | FoldedUser) -> NDArray[np.integer]:
        """Return the rows of the films that the user has rated."""
        if isinstance(user, FoldedUser):
            rows = self.rows_of(list(user.ratings))
            return rows[rows >= 0]
        row = self.users.get(user)
        if row is None:
            return np.empty(0, dtype=np.intp)
        return self.rated_movies[self.rated_starts[row] : self.rated_starts[row + 1]]

    def scores(
        self, rows: NDArray[np.intp], vector: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Return what the films add to the user's average, (n,)."""
        if vector is None:
            return self.bi[rows]
        if 2 * len(rows) > len(self.qi):  # a product with all is quicker than picking rows
            found: NDArray[np.float64] = (self.qi @ vector + self.bi)[rows]
        else:
            found = self.qi[rows] @ vector + self.bi[rows]
        return found

    def fold_in(self, ratings: Mapping[int, float]) -> FoldedUser:
        """See `serving.CollaborativeModel.fold_in`."""
        stars = _check_stars(ratings)
        ids = list(ratings)
        rows = self.rows_of(ids)
        known = rows >= 0
        rows, residuals = rows[known], stars[known] - self.global_mean - self.bi[rows[known]]
        found = np.zeros(1 + self.qi.shape[1])
        if len(rows):
            factors = self.qi[rows]
            if self.implicit is not None:
                found = fold_in.implied(self.implicit, rows)
                residuals = residuals - found[0] - factors @ found[1:]
            found = found + fold_in.solve(self.root, factors, residuals)
        return FoldedUser(dict(ratings), float(found[0]), found[1:], self.build_id)

    def lengths(self) -> NDArray[np.float64]:
        """Return the lengths of the films' factors under the users' second moments, (films,)."""
        if "lengths" not in self.cache:
            self.cache["lengths"] = np.linalg.norm(self.qi @ self.root[1:], axis=1)
        return self.cache["lengths"]


def read_snapshot(folder: Path, *, mmap: bool = False) -> Snapshot:
    """Read and verify the release in `folder`.

    Raises:
        ReleaseError: see `release.load_arrays`.
    """
    manifest, arrays = read_manifest(folder), load_arrays(folder, SERVED, mmap=mmap)
    for array in arrays.values():
        array.flags.writeable = False
    users = decode_texts(arrays["user_ids"], arrays["user_id_ends"])
    movie_ids = arrays["movie_ids"]
    table = None
    if len(movie_ids) and movie_ids.min() >= 0 and movie_ids.max() < DENSE:
        table = np.full(int(movie_ids.max()) + 1, -1, dtype=np.int32)
        table[movie_ids] = np.arange(len(movie_ids), dtype=np.int32)
    low, high = manifest["model"]["rating_scale"]
    return Snapshot(
        build_id=manifest["build_id"],
        manifest=MappingProxyType(manifest),
        scale=(low, high),
        global_mean=manifest["model"]["global_mean"],
        users=dict(zip(users, range(len(users)), strict=True)),
        movie_ids=movie_ids,
        bu=arrays["bu"],
        bi=arrays["bi"],
        pu=arrays["pu"],
        qi=arrays["qi"],
        root=arrays["fold_in_root"],
        implicit=arrays.get("implicit"),
        rated_starts=arrays["rated_starts"],
        rated_movies=arrays["rated_movies"],
        order=np.argsort(movie_ids),
        table=table,
    )


def _check_stars(ratings: Mapping[int, float]) -> NDArray[np.float64]:
    """Return the values as an array, once they are stars."""
    if not isinstance(ratings, Mapping):
        raise RatingError(f"expected stars by film id, found {ratings!r:.80}")
    for movie_id, stars in ratings.items():
        if isinstance(stars, bool) or not isinstance(stars, int | float | np.integer | np.floating):
            raise RatingError(
                f"film {movie_id!r:.40} has a rating that is no number: {stars!r:.40}"
            )
        if not LOWEST <= stars <= HIGHEST:
            raise RatingError(
                f"film {movie_id!r:.40} has {stars} stars, expected {LOWEST} to {HIGHEST:g}"
            )
    return np.fromiter(ratings.values(), dtype=np.float64, count=len(ratings))

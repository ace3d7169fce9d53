"""One release in memory, as the fusion service asks it; never changed once it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms import fold_in, ranking_scores
from ..errors import MovieIdError
from ..release import load_arrays, ranking_from, read_manifest, read_users
from .lists import as_list, check_stars, find_user, over_best, score_films, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from uuid import UUID

    from numpy.typing import ArrayLike, NDArray

    from ..algorithms.ranking_scores import RankedUser, Ranking

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
    """Of the release that the rest belongs to; another release computes it again."""
    watched: tuple[int, ...] = ()
    """TMDB ids of films that were watched, perhaps not rated."""
    ranked: RankedUser | None = None
    """As the ranking knows the user; None where the release has none."""


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
    ranking: Ranking | None
    """None in a release without ratings, or older than the ranking."""
    rated_starts: NDArray[np.int64]
    rated_movies: NDArray[np.int32]
    rated_stars: NDArray[np.floating]
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
            raise MovieIdError(f"expected a list of film ids as integers, found {shown(movie_ids)}")
        ids = ids.astype(np.int64, copy=False)
        if self.table is not None:
            inside = (ids >= 0) & (ids < len(self.table))
            rows = self.table[np.where(inside, ids, 0)]
            return np.where(inside, rows, -1).astype(np.intp)
        in_order = self.movie_ids[self.order]
        places = np.searchsorted(in_order, ids).clip(max=len(in_order) - 1)
        return np.where(in_order[places] == ids, self.order[places], -1)

    def rows_known(self, movie_ids: Iterable[int]) -> NDArray[np.intp]:
        """Return the rows of those films, in any collection, that the model knows."""
        rows = self.rows_of(as_list(movie_ids))
        return rows[rows >= 0]

    def parameters_of(
        self, user: str | UUID | FoldedUser
    ) -> tuple[float, NDArray[np.float64] | None]:
        """Return the bias and vector; zero and None for a user whom the model does not know."""
        if isinstance(user, FoldedUser):
            user = self.refold(user)
            return user.bias, user.vector
        row = find_user(self.users, user)
        return (0.0, None) if row is None else (float(self.bu[row]), self.pu[row])

    def rated_by(self, user: str | UUID) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """Return the rows of the films that a user of the training rated, and the stars."""
        row = find_user(self.users, user)
        own = slice(0) if row is None else slice(*self.rated_starts[row : row + 2].tolist())
        return self.rated_movies[own], self.rated_stars[own]

    def rows_seen_by(self, user: str | UUID | FoldedUser) -> NDArray[np.integer]:
        """Return the rows of the films that the user has rated or watched."""
        if isinstance(user, FoldedUser):
            return self.rows_known([*user.ratings, *user.watched])
        return self.rated_by(user)[0]

    def rank_user(self, user: str | UUID | FoldedUser) -> RankedUser | None:
        """Return the user as the ranking knows them; None where the release has no ranking.

        In a release of the cold list it knows nothing of any user.
        """
        if self.ranking is None:
            return None
        if self.is_cold:
            return ranking_scores.fold_in(self.ranking, (), ())
        if isinstance(user, FoldedUser):
            return self.refold(user).ranked
        return ranking_scores.fold_in(self.ranking, *self.rated_by(user))

    def refold(self, user: FoldedUser) -> FoldedUser:
        """Return a folded-in user as one of this release."""
        if user.build_id == self.build_id:
            return user
        return self.fold_in(user.ratings, user.watched)

    def stars_of(self, user: str | UUID | FoldedUser) -> NDArray[np.float64]:
        """Return the predicted stars of all films, not clipped to the scale, (films,)."""
        bias, vector = self.parameters_of(user)
        stars = self.bi + (self.global_mean + bias)
        if vector is not None:
            stars += self.qi @ vector
        return stars

    def score_all(
        self, user: str | UUID | FoldedUser, stars: NDArray[np.float64], novelty: float = 0.0
    ) -> NDArray[np.float64]:
        """Return the score of all films, (films,); see `CollaborativeModel.recommend`.

        Args:
            user: as there.
            stars: see `stars_of`.
            novelty: as there.
        """
        seen = self.rows_seen_by(user)
        scores = score_films(self.ranking, self.rank_user(user), seen, stars, self.threshold)
        if novelty:
            scores /= self.counts**novelty
        return over_best(scores, seen) if novelty or self.is_cold else scores

    def score_many(self, users: Sequence[str], stars: NDArray[np.float32]) -> NDArray[np.floating]:
        """Return the score of all films for many users, to rounding, (users, films).

        Args:
            users: their ids.
            stars: see `stars_of`, (users, films).
        """
        if self.ranking is None or self.is_cold:
            double = stars.astype(np.float64)
            return np.array([self.score_all(*one) for one in zip(users, double, strict=True)])
        ranked = [ranking_scores.fold_in(self.ranking, *self.rated_by(user)) for user in users]
        return ranking_scores.score_many(self.ranking, ranked, stars)

    @property
    def is_cold(self) -> bool:
        """Whether lists are what many like, for all users; see the manifest's `model.lists`."""
        return bool(self.manifest["model"].get("lists") == "cold")

    @property
    def threshold(self) -> float:
        """Stars at which P(liked) is a half: between 4 and the next lower rating."""
        return ranking_scores.LIKED - (0.25 if self.scale[0] % 1 else 0.5)

    @property
    def counts(self) -> NDArray[np.float64]:
        """Return how many ratings each film has, at least 1, (films,)."""
        if "counts" not in self.cache:
            counts = np.bincount(self.rated_movies, minlength=len(self.movie_ids))
            self.cache["counts"] = np.maximum(counts, 1).astype(np.float64)
        return self.cache["counts"]

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

    def fold_in(self, ratings: Mapping[int, float], watched: Iterable[int] = ()) -> FoldedUser:
        """See `serving.CollaborativeModel.fold_in`."""
        stars, also = check_stars(ratings), as_list(watched)
        rows = self.rows_of(list(ratings))
        known = rows >= 0
        ranked = None
        if self.ranking is not None:
            ranked = ranking_scores.fold_in(
                self.ranking, rows[known], stars[known], self.rows_known(also)
            )
        rows, residuals = rows[known], stars[known] - self.global_mean - self.bi[rows[known]]
        found = np.zeros(1 + self.qi.shape[1])
        if len(rows):
            factors = self.qi[rows]
            if self.implicit is not None:
                found = fold_in.implied(self.implicit, rows)
                residuals = residuals - found[0] - factors @ found[1:]
            found = found + fold_in.solve(self.root, factors, residuals)
        if self.ranking is None:
            self.rows_known(also)  # checked all the same
        given = dict(zip(ratings, stars.tolist(), strict=True))
        return FoldedUser(given, float(found[0]), found[1:], self.build_id, tuple(also), ranked)

    def shares_of(
        self, user: str | UUID | FoldedUser, row: int
    ) -> tuple[NDArray[np.integer], NDArray[np.float64]]:
        """Return the rows of the user's films that speak for a film, and the share of each, (n,).

        Nothing where `row` is -1; see `because` of the model.
        """
        ranked = self.rank_user(user)
        if self.ranking is None or ranked is None or row < 0 or not len(ranked.rows):
            return np.empty(0, dtype=np.intp), np.empty(0)
        each, rest = ranking_scores.contributions(self.ranking, ranked, row)
        total = each.sum() + rest
        speak = np.flatnonzero((each > 0) & (ranked.rows != row) & (total > 0))
        return ranked.rows[speak], each[speak] / total

    def likeness_to(self, row: int) -> NDArray[np.floating]:
        """Return how like a film each film is, -1 to 1, (films,): see `similar` of the model."""
        if self.ranking is not None:
            return ranking_scores.similar(self.ranking, row)
        root = self.root[1:]
        if "lengths" not in self.cache:
            self.cache["lengths"] = np.linalg.norm(self.qi @ root, axis=1)
        lengths = self.cache["lengths"]
        cosines: NDArray[np.float64] = self.qi @ (root @ (root.T @ self.qi[row]))
        cosines /= np.maximum(lengths * lengths[row], np.finfo(np.float64).tiny)
        return cosines.clip(-1, 1)


def read_snapshot(folder: Path, *, mmap: bool = False) -> Snapshot:
    """Read and verify the release in `folder`.

    Raises:
        ReleaseError: see `release.load_arrays`.
    """
    manifest, arrays = read_manifest(folder), load_arrays(folder, mmap=mmap)
    for array in arrays.values():
        array.flags.writeable = False
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
        users=read_users(folder, arrays),
        movie_ids=movie_ids,
        bu=arrays["bu"],
        bi=arrays["bi"],
        pu=arrays["pu"],
        qi=arrays["qi"],
        root=arrays["fold_in_root"],
        implicit=arrays.get("implicit"),
        ranking=ranking_from(arrays),
        rated_starts=arrays["rated_starts"],
        rated_movies=arrays["rated_movies"],
        rated_stars=arrays["rated_stars"],
        order=np.argsort(movie_ids),
        table=table,
    )

"""What the fusion service imports: predictions and recommendations, NumPy the only requirement.

A model is safe to use from several threads, also while `reload_if_changed` puts another release in
its place: each call works on one release from beginning to end.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..paths import MODELS_DIR
from ..release import ReleaseStore, read_manifest, read_served
from .snapshot import FoldedUser, Snapshot, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import ArrayLike, NDArray


class Recommendation(NamedTuple):
    """A film and the rating predicted for it."""

    movie_id: int
    """TMDB id."""
    score: float
    """In stars, on the scale of the ratings."""


class CollaborativeModel:
    """A release in memory, and a way to the one that is live now; see `load_collaborative`."""

    def __init__(self, models_dir: Path, *, mmap: bool = False) -> None:
        self._store, self._mmap = ReleaseStore(models_dir), mmap
        self._reloading = Lock()
        self._snapshot = self._read()

    def _read(self) -> Snapshot:
        return read_served(self._store, partial(read_snapshot, mmap=self._mmap))

    @property
    def snapshot(self) -> Snapshot:
        """The release in memory, which never changes."""
        return self._snapshot

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of the release in memory; `docs/manifest.schema.json` says what each part means."""
        return self._snapshot.manifest

    @property
    def movie_ids(self) -> NDArray[np.int64]:
        """TMDB ids of the films the model knows, (films,), read-only."""
        return self._snapshot.movie_ids

    def knows_user(self, user_id: str) -> bool:
        """Return whether the release knows this user; an item-only release knows none."""
        return user_id in self._snapshot.users

    def knows_movie(self, movie_id: int) -> bool:
        """Return whether the model was trained with ratings of this film."""
        return bool(self.knows_movies([movie_id])[0])

    def knows_movies(self, movie_ids: ArrayLike) -> NDArray[np.bool_]:
        """Return which films the model was trained with, (n,).

        Raises:
            MovieIdError: ids that are no integers.
        """
        return self._snapshot.rows_of(movie_ids) >= 0

    def predict(
        self, user: str | FoldedUser, movie_ids: ArrayLike, *, unknown: float | None = None
    ) -> NDArray[np.float64]:
        """Return predicted stars, (n,), as `svd.predict(user, movie_id).est` of Surprise.

        They are clipped to the scale of the ratings. For a user whom the model does not know they
        are what the films get on average.

        Args:
            user: the app's id, or a folded-in user.
            movie_ids: TMDB ids, (n,).
            unknown: what a film gets that the model does not know, NaN for example; by default,
                as Surprise has it, what the user gives on average.

        Raises:
            UserIdError: `user` is neither.
            MovieIdError: ids that are no integers.
        """
        now = self._snapshot
        rows = now.rows_of(movie_ids)
        bias, vector = now.parameters_of(user)
        known = rows >= 0
        estimates = np.full(len(rows), now.global_mean + bias)
        if known.all():
            estimates += now.scores(rows, vector)
        else:
            estimates[known] += now.scores(rows[known], vector)
        estimates = estimates.clip(*now.scale)
        if unknown is not None:
            estimates[~known] = unknown
        return estimates

    def recommend(
        self,
        user: str | FoldedUser,
        n: int = 10,
        candidates: ArrayLike | None = None,
        exclude: Collection[int] = (),
    ) -> list[Recommendation]:
        """Return the films with the highest predictions, best first; equal ones by TMDB id.

        Predictions are compared before they are clipped to the scale of the ratings, so that five
        stars and more than that differ.

        Args:
            user: the app's id, or a folded-in user.
            n: how many at most.
            candidates: TMDB ids to choose from, by default all that the model knows. One that it
                does not know is never recommended: nothing says how good it is.
            exclude: TMDB ids to leave out, besides those that the user has rated.

        Raises:
            UserIdError: `user` is neither.
            MovieIdError: ids that are no integers.
        """
        now = self._snapshot
        rows = None
        if candidates is not None:
            rows = now.rows_of(candidates)
            rows = rows[rows >= 0]
        bias, vector = now.parameters_of(user)
        left_out = now.rows_of(list(exclude))
        wanted = np.zeros(len(now.movie_ids), dtype=bool)
        wanted[slice(None) if rows is None else rows] = True
        wanted[now.rows_rated_by(user)] = False
        wanted[left_out[left_out >= 0]] = False
        chosen = np.flatnonzero(wanted)
        scores = now.scores(chosen, vector)
        best = _top(scores, now.movie_ids[chosen], n)
        stars = (scores[best] + (now.global_mean + bias)).clip(*now.scale)
        ids = now.movie_ids[chosen[best]]
        return list(map(Recommendation, ids.tolist(), stars.tolist()))

    def fold_in(self, ratings: Mapping[int, float]) -> FoldedUser:
        """Fold a user in from ratings made after the build, or from all their ratings.

        Args:
            ratings: stars by TMDB id. Films that the model does not know say nothing; where none
                is left the user is like one whom the model does not know.

        Raises:
            MovieIdError: ids that are no integers.
            RatingError: ratings that are no numbers from 0.5 to 5.
        """
        return self._snapshot.fold_in(ratings)

    def similar(self, movie_id: int, n: int = 10) -> list[Recommendation]:
        """Return the films most similar to this one; nothing for an unknown film.

        The measure, `score`, is the correlation of the two films' predicted ratings over the users
        of the training, biases aside: the cosine of their factors under the second moments of the
        users' vectors. From -1 to 1; equal ones come by TMDB id.

        Args:
            movie_id: TMDB id.
            n: how many at most; the film itself is not among them.

        Raises:
            MovieIdError: the id is no integer.
        """
        now = self._snapshot
        (row,) = now.rows_of([movie_id]).tolist()
        if row < 0:
            return []
        root, lengths = now.root[1:], now.lengths()
        scores = now.qi @ (root @ (root.T @ now.qi[row]))
        scores /= np.maximum(lengths * lengths[row], np.finfo(np.float64).tiny)
        others = np.flatnonzero(np.arange(len(scores)) != row)
        best = others[_top(scores[others], now.movie_ids[others], n)]
        stars = scores[best].clip(-1, 1)
        return list(map(Recommendation, now.movie_ids[best].tolist(), stars.tolist()))

    def reload_if_changed(self) -> bool:
        """Load the release that is live now, where it is another; say whether it was.

        The one in memory serves until the new one is whole, and goes on where that fails. While
        one thread loads, others return at once.

        Raises:
            ReleaseError: see `load_collaborative`.
        """
        if not self._reloading.acquire(blocking=False):
            return False
        try:
            live = self._store.read_live(read_manifest)["build_id"]
            if live == self._snapshot.build_id or self._store.is_partial():
                return False
            self._snapshot = self._read()
        finally:
            self._reloading.release()
        return True


def load_collaborative(
    models_dir: str | Path | None = None, *, mmap: bool = False
) -> CollaborativeModel:
    """Load the live release, verified by its hashes, from plain arrays: no pickle is loaded.

    If its arrays are missing, as in a clone after `git commit -a`, load the newest older release
    that is complete, with a warning.

    Args:
        models_dir: default `ml/models`; or the folder of one release.
        mmap: leave the arrays on the disk until they are used, shared between processes.

    Raises:
        MissingReleaseError: there is none, or none that is complete.
        DamagedReleaseError: a file is missing, cut, or another than was published.
        NewerReleaseError: it was written by a newer version of this project.
    """
    return CollaborativeModel(Path(models_dir or MODELS_DIR), mmap=mmap)


def _top(scores: NDArray[np.float64], ids: NDArray[np.int64], n: int) -> NDArray[np.intp]:
    """Return the places of the n highest scores, highest first; of equal ones the lower id."""
    if n <= 0:
        return np.empty(0, dtype=np.intp)
    places = np.arange(len(scores))
    if n < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    order = np.lexsort((ids[places], -scores[places]))
    return places[order[:n]]

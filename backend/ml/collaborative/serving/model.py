"""What the fusion service imports: predictions and recommendations, NumPy the only requirement.

A model is safe to use from several threads, also while `reload_if_changed` puts another release in
its place: each call works on one release from beginning to end.
"""

from __future__ import annotations

import os
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..paths import MODELS_DIR, expand
from ..release import ReleaseStore, read_manifest, read_served
from . import lists
from .follow import ReleaseFollower
from .lists import Reason, Recommendation, SimilarFilm, best_films, check_count
from .snapshot import FoldedUser, Snapshot, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path
    from uuid import UUID

    from numpy.typing import ArrayLike, NDArray

    from .follow import OnError


class CollaborativeModel:
    """A release in memory, and a way to the one that is live now; see `load_collaborative`."""

    def __init__(self, models_dir: Path, *, mmap: bool = False) -> None:
        self._store = ReleaseStore(models_dir)
        self._read = partial(read_served, self._store, partial(read_snapshot, mmap=mmap))
        self._reloading, self._process = Lock(), os.getpid()
        self._snapshot = self._read()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: it would take the whole release along."""
        raise TypeError("a CollaborativeModel is not pickled or copied: call load_collaborative")

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

    def knows_user(self, user_id: str | UUID) -> bool:
        """Return whether the release knows this user; an item-only release knows none.

        Raises:
            UserIdError: it is neither text nor a UUID.
        """
        return lists.find_user(self._snapshot.users, user_id) is not None

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
        self, user: str | UUID | FoldedUser, movie_ids: ArrayLike, *, unknown: float | None = None
    ) -> NDArray[np.float64]:
        """Return predicted stars, (n,), as `svd.predict(user, movie_id).est` of Surprise.

        They are clipped to the scale of the ratings. An unknown user gets the films' averages.

        Args:
            user: the app's id (a UUID in either case), or a folded-in user.
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
        user: str | UUID | FoldedUser,
        n: int = 10,
        candidates: ArrayLike | None = None,
        exclude: Collection[int] = (),
        *,
        by: str = "score",
        rated: bool = False,
        novelty: float = 0.0,
    ) -> list[Recommendation]:
        """Return the films that the user will most likely see and like, best first.

        A film's score is how likely the user is to come to see it, times the root of how likely
        they are to like it, over that of the user's best unseen film: see `ranking_scores`. Whom
        nothing is known of gets what many like. In a release without a ranking (an older
        one) the score is how likely the user is to like the film. Of films with equal scores the
        one with more stars comes first, then the one with the lower TMDB id.

        Args:
            user: the app's id (a UUID in either case), or a folded-in user.
            n: how many at most.
            candidates: TMDB ids to choose from, by default all that the model knows. One that it
                does not know is never recommended: nothing says how good it is. They do not change
                a film's score.
            exclude: TMDB ids to leave out, besides those that the user has rated or watched.
            by: the order: "score", or "stars" for the predicted ratings before they are clipped to
                the scale, so that five stars and more than that differ.
            rated: whether films that the user has rated or watched are listed too.
            novelty: the score is divided by the film's number of ratings to the power of this:
                0.1 brings less popular films, 0.2 many of them.

        Raises:
            UserIdError, MovieIdError: `user` is neither; ids that are no integers.
            RequestError: `n`, `by` or `novelty` is invalid; the base of the two above.
        """
        now, n = self._snapshot, check_count(n)
        novelty = lists.check_order(by, novelty)
        wanted = np.full(len(now.movie_ids), candidates is None)
        if candidates is not None:
            rows = now.rows_of(candidates)
            wanted[rows[rows >= 0]] = True
        wanted[now.rows_known(exclude)] = False
        stars = now.stars_of(user)
        scores = now.score_all(user, stars, novelty)
        if not rated:
            wanted[now.rows_seen_by(user)] = False
        order = np.where(wanted, scores if by == "score" else stars, -np.inf)
        best = best_films(order, stars, now.movie_ids, n)
        best = best[wanted[best]]
        columns = now.movie_ids[best], scores[best], stars[best].clip(*now.scale)
        return list(map(Recommendation, *(column.tolist() for column in columns)))

    def scores(
        self, user: str | UUID | FoldedUser, movie_ids: ArrayLike, *, novelty: float = 0.0
    ) -> NDArray[np.float64]:
        """Return the films' scores as in `recommend`, (n,): to be combined with other scores.

        They are from 0 to 1, which the user's best unseen film has; films that the user has rated
        have scores, too. NaN where the model does not know the film.

        Args:
            user: see `recommend`.
            movie_ids: TMDB ids, (n,).
            novelty: see `recommend`.

        Raises:
            UserIdError, MovieIdError, RequestError: see `recommend`.
        """
        now = self._snapshot
        novelty = lists.check_order("score", novelty)
        rows = now.rows_of(movie_ids)
        found = now.score_all(user, now.stars_of(user), novelty)[rows]
        return np.where(rows < 0, np.nan, found)

    def because(self, user: str | UUID | FoldedUser, movie_id: int, n: int = 3) -> list[Reason]:
        """Return which of the user's films speak most for this one: "because you liked ...".

        A film's exposure is a sum over the films that the user rated or watched, and what the
        average user brings; a share is one film's part of it. Nothing for a user or a film that the
        model does not know, nor from a release without a ranking or of the cold list.

        Args:
            user: see `recommend`.
            movie_id: TMDB id; the film itself is not among its reasons.
            n: how many at most; only those that speak for the film.

        Raises:
            UserIdError, MovieIdError, RequestError: see `recommend`.
        """
        now, n = self._snapshot, check_count(n)
        (row,) = now.rows_of([movie_id]).tolist()
        rows, shares = now.shares_of(user, row)
        best = best_films(shares, shares, now.movie_ids[rows], n)
        return list(map(Reason, now.movie_ids[rows[best]].tolist(), shares[best].tolist()))

    def fold_in(self, ratings: Mapping[int, float], *, watched: Iterable[int] = ()) -> FoldedUser:
        """Fold a user in from ratings made after the build, or from all their ratings.

        Args:
            ratings: stars by TMDB id, as int, float, Decimal or a scalar of NumPy. Films that the
                model does not know say nothing; where none is left the user is like one whom the
                model does not know.
            watched: TMDB ids of films that the user watched and perhaps did not rate. They change
                scores, not stars, and are not recommended.

        Raises:
            MovieIdError: ids that are no integers.
            RatingError: ratings that are no numbers from 0.5 to 5.
        """
        return self._snapshot.fold_in(ratings, watched)

    def similar(self, movie_id: int, n: int = 10) -> list[SimilarFilm]:
        """Return the films most similar to this one; nothing for an unknown film.

        The measure, `score`, is the cosine of the films' vectors of the ranking: who sees one comes
        to see the other. Without a ranking it is the correlation of the films' predicted ratings
        over the users of the training, biases aside: the cosine of their factors under the second
        moments of the users' vectors. From -1 to 1; equal ones come by TMDB id.

        Args:
            movie_id: TMDB id.
            n: how many at most; the film itself is not among them.

        Raises:
            MovieIdError: the id is no integer.
            RequestError: `n` is no integer.
        """
        now, n = self._snapshot, check_count(n)
        (row,) = now.rows_of([movie_id]).tolist()
        if row < 0:
            return []
        scores, ids = now.likeness_to(row), now.movie_ids
        others = np.flatnonzero(np.arange(len(ids)) != row)
        best = others[best_films(scores[others], scores[others], ids[others], n)]
        return list(map(SimilarFilm, ids[best].tolist(), scores[best].tolist()))

    def reload_if_changed(self) -> bool:
        """Load the release that is live now, where it is another; say whether it was.

        The one in memory serves until the new one is whole, and goes on where that fails. While
        one thread loads, others return at once.

        Raises:
            ReleaseError: see `load_collaborative`.
        """
        if self._process != os.getpid():  # after a fork, perhaps while another thread loaded
            self._reloading, self._process = Lock(), os.getpid()
        lock = self._reloading
        if not lock.acquire(blocking=False):
            return False
        try:
            live = self._store.read_live(read_manifest)["build_id"]
            if live == self._snapshot.build_id or self._store.is_partial():
                return False
            self._snapshot = self._read()
        finally:
            lock.release()
        return True

    def follow(self, seconds: float = 60.0, on_error: OnError | None = None) -> ReleaseFollower:
        """Load each new release, in a thread that starts here; see `ReleaseFollower`.

        Its `state` is for the service's health, and `stop` ends it. Each call starts another.

        Raises:
            RequestError: `seconds` is not a number above 0, or `on_error` cannot be called.
        """
        return ReleaseFollower(self, seconds, on_error).start()


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
        DamagedReleaseError: a file is missing, cut, invalid, or another than was published.
        NewerReleaseError: see `release.read_manifest`.
    """
    return CollaborativeModel(expand(models_dir or MODELS_DIR), mmap=mmap)

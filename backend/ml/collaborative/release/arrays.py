"""A trained model as plain arrays: what is needed to serve it with NumPy alone, without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..algorithms.fold_in import learn_root
from ..algorithms.parts import parts_of, ranking_of
from ..errors import InputError
from ..texts import encode_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD, Trainset

    from ..algorithms.ranking_scores import Ranking
    from ..trainset import ArrayTrainset

NAMES = (
    "bu", "bi", "pu", "qi", "user_ids", "user_id_ends", "movie_ids",
    "rated_starts", "rated_movies", "rated_stars", "fold_in_root", "implicit",
    "ranking_q", "ranking_gram", "ranking_mean", "ranking_head", "ranking_weights",
    "ranking_cold", "ranking_numbers",
)  # fmt: skip
"""Names of the arrays; each is the file `arrays/NAME.npy` of a release."""
RANKING = tuple(name for name in NAMES if name.startswith("ranking_"))
"""Those that the ranking is made of."""
OPTIONAL = ("implicit", *RANKING)
"""Names of arrays that only some models have."""


def model_arrays(svd: SVD, trainset: Trainset) -> dict[str, NDArray[Any]]:
    """Return the model and what each user rated as arrays, by the names of `NAMES`.

    Returns:
        bu (users,) and bi (films,), biases, float64; pu (users, factors) and qi (films, factors),
        float64; user_ids, UTF-8 text end to end, uint8, and user_id_ends (users,), int64;
        movie_ids (films,), TMDB, int64; and the ratings by user: those of user u are the slice
        rated_starts[u] to rated_starts[u + 1] (int64) of rated_movies (row numbers in movie_ids,
        int32) and of rated_stars (float32 where that is exact, else float64). fold_in_root
        and, where the model has it, implicit: see `algorithms.parts.Parts`. Where there are
        ratings, the arrays of the ranking, which is trained where the model brings none:
        ranking_q, _gram, _mean, _head, _weights and _cold, see `ranking_scores.Ranking`, and
        ranking_numbers, its weight_step, unseen_weight, trained_films and threshold, float64.

    Raises:
        InputError: a user's id is not text, or a film's not an integer.
    """
    import numpy as np

    users, films = raw_ids(trainset)
    if set(map(type, users)) - {str}:
        raise InputError("a user's id in the trainset is not text: expected ids as str")
    if set(map(type, films)) - {int, np.int64}:
        raise InputError("a film's id in the trainset is not an integer: expected TMDB ids as int")
    user_ids, user_id_ends = encode_texts(users)
    starts, movies, stars = rated(trainset)
    arrays = svd.bu, svd.bi, svd.pu, svd.qi, user_ids, user_id_ends, np.array(films, np.int64)
    found = dict(zip(NAMES, (*arrays, starts, movies, stars), strict=False))
    parts = parts_of(svd)
    if parts.implicit is not None:
        found["implicit"] = parts.implicit
    root = parts.fold_in_root
    found["fold_in_root"] = learn_root(found, trainset.global_mean) if root is None else root
    ranking = ranking_of(svd, _in_arrays(trainset))
    if ranking is not None:
        found |= _ranking_arrays(ranking)
    return found


def _ranking_arrays(ranking: Ranking) -> dict[str, NDArray[Any]]:
    """Return the arrays of `RANKING`."""
    import numpy as np

    numbers = (
        ranking.weight_step, ranking.unseen_weight, ranking.trained_films, ranking.threshold,
    )  # fmt: skip
    arrays = (
        ranking.q, ranking.gram, ranking.mean_vector, ranking.head, ranking.weights, ranking.cold,
        np.array(numbers, dtype=np.float64),
    )  # fmt: skip
    return dict(zip(RANKING, arrays, strict=True))


def ranking_from(arrays: Mapping[str, NDArray[Any]]) -> Ranking | None:
    """Return the ranking of a release's arrays; None where the release has none.

    A release has none if it has no ratings, or is older than the ranking.
    """
    from ..algorithms.ranking_scores import Ranking

    if not arrays.keys() >= {*RANKING}:
        return None
    step, unseen_weight, trained_films, threshold = arrays["ranking_numbers"].tolist()
    return Ranking(
        q=arrays["ranking_q"],
        gram=arrays["ranking_gram"],
        mean_vector=arrays["ranking_mean"],
        head=arrays["ranking_head"],
        weights=arrays["ranking_weights"],
        weight_step=step,
        cold=arrays["ranking_cold"],
        unseen_weight=unseen_weight,
        trained_films=int(trained_films),
        threshold=threshold,
    )


def _in_arrays(trainset: Trainset) -> ArrayTrainset:
    """Return a trainset of Surprise's own as one whose ratings lie in arrays."""
    import numpy as np

    from ..trainset import ArrayTrainset, RawIds

    if isinstance(trainset, ArrayTrainset):
        return trainset
    starts, films, stars = rated(trainset)
    users = np.repeat(np.arange(trainset.n_users, dtype=np.int32), np.diff(starts))
    names, ids = raw_ids(trainset)
    ratings = users, films, stars
    return ArrayTrainset(
        RawIds(names), RawIds(ids), ratings, trainset.rating_scale, trainset.global_mean
    )


def raw_ids(trainset: Trainset) -> tuple[list[Any], list[Any]]:
    """Return the users' and the films' raw ids, by inner id."""
    return (
        [trainset.to_raw_uid(inner) for inner in trainset.all_users()],
        [trainset.to_raw_iid(inner) for inner in trainset.all_items()],
    )


def rated(trainset: Trainset) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
    """Return rated_starts, rated_movies and rated_stars, see `model_arrays`."""
    import numpy as np

    from ..trainset import ArrayTrainset

    if isinstance(trainset, ArrayTrainset):
        return trainset.by_user
    rows = [trainset.ur[user] for user in trainset.all_users()]
    pairs = [pair for row in rows for pair in row]
    return (
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([film for film, _ in pairs], dtype=np.int32),
        np.array([stars for _, stars in pairs], dtype=np.float64),
    )

"""A trained model as plain arrays: what is needed to serve it with NumPy alone, without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..algorithms.fold_in import learn_root
from ..errors import InputError
from ..texts import encode_texts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD, Trainset

NAMES = (
    "bu", "bi", "pu", "qi", "user_ids", "user_id_ends", "movie_ids",
    "rated_starts", "rated_movies", "rated_stars", "fold_in_root", "implicit",
)  # fmt: skip
"""Of the arrays; each lies in the file `arrays/NAME.npy` of a release."""
OPTIONAL = ("implicit",)
"""Those that only some models have."""


def model_arrays(svd: SVD, trainset: Trainset) -> dict[str, NDArray[Any]]:
    """The model and what each user rated, by the names of `NAMES`.

    Returns:
        bu (users,) and bi (films,), biases, float64; pu (users, factors) and qi (films, factors),
        float64; user_ids, UTF-8 text end to end, uint8, and user_id_ends (users,), int64;
        movie_ids (films,), TMDB, int64; and the ratings by user: those of user u are the slice
        rated_starts[u] to rated_starts[u + 1] (int64) of rated_movies (row numbers in movie_ids,
        int32) and of rated_stars (float32 where that is exact, else float64). fold_in_root is of
        `fold_in.learn_root`; implicit (films, 1 + factors), float64, is what a film adds to the
        bias and vector of those who rated it, where the model has that.

    Raises:
        InputError: a user's id is no text, or a film's no integer.
    """
    import numpy as np

    users, films = raw_ids(trainset)
    if set(map(type, users)) - {str}:
        raise InputError("a user's id in the trainset is no text: expected ids as str")
    if set(map(type, films)) - {int, np.int64}:
        raise InputError("a film's id in the trainset is no integer: expected TMDB ids as int")
    user_ids, user_id_ends = encode_texts(users)
    starts, movies, stars = rated(trainset)
    arrays = svd.bu, svd.bi, svd.pu, svd.qi, user_ids, user_id_ends, np.array(films, np.int64)
    found = dict(zip(NAMES, (*arrays, starts, movies, stars), strict=False))
    if hasattr(svd, "implicit"):
        found["implicit"] = svd.implicit
    found["fold_in_root"] = (
        svd.fold_in_root
        if hasattr(svd, "fold_in_root")  # of a model that knows no users, see `spark.fit_films`
        else learn_root(found, trainset.global_mean)
    )
    return found


def raw_ids(trainset: Trainset) -> tuple[list[Any], list[Any]]:
    """The users' and the films' own ids, by inner id."""
    return (
        [trainset.to_raw_uid(inner) for inner in trainset.all_users()],
        [trainset.to_raw_iid(inner) for inner in trainset.all_items()],
    )


def rated(trainset: Trainset) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
    """rated_starts, rated_movies and rated_stars, see `model_arrays`."""
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

"""A trained model as plain arrays: what is needed to serve it with NumPy alone, without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..algorithms.fold_in import learn_root
from ..algorithms.parts import parts_of
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
"""Names of the arrays; each is the file `arrays/NAME.npy` of a release."""
OPTIONAL = ("implicit",)
"""Names of arrays that only some models have."""


def model_arrays(svd: SVD, trainset: Trainset) -> dict[str, NDArray[Any]]:
    """Return the model and what each user rated as arrays, by the names of `NAMES`.

    Returns:
        bu (users,) and bi (films,), biases, float64; pu (users, factors) and qi (films, factors),
        float64; user_ids, UTF-8 text end to end, uint8, and user_id_ends (users,), int64;
        movie_ids (films,), TMDB, int64; and the ratings by user: those of user u are the slice
        rated_starts[u] to rated_starts[u + 1] (int64) of rated_movies (row numbers in movie_ids,
        int32) and of rated_stars (float32 where that is exact, else float64). fold_in_root
        and, where the model has it, implicit: see `algorithms.parts.Parts`.

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
    return found


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

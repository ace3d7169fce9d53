"""A trained model as plain arrays: what is needed to serve it with NumPy alone, without pickle."""

from __future__ import annotations

import mmap
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from ..algorithms.fold_in import learn_root
from ..algorithms.parts import parts_of, ranking_of
from ..errors import InputError
from ..texts import encode_texts
from .manifest import MAX_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD, Trainset

    from ..algorithms.ranking_scores import Ranking
    from ..trainset import ArrayTrainset

FORMS = {
    "bu": "float64 users",
    "bi": "float64 films",
    "pu": "float64 users factors",
    "qi": "float64 films factors",
    "user_ids": "uint8 bytes",
    "user_id_ends": "int64 users",
    "movie_ids": "int64 films",
    "rated_starts": "int64 users+1",
    "rated_movies": "int32 ratings",
    "rated_stars": "float32/float64 ratings",
    "fold_in_root": "float64 factors+1 roots",
    "implicit": "float64 films factors+1",
    "ranking_q": "float32 films rank",
    "ranking_gram": "float64 rank rank",
    "ranking_mean": "float32 rank",
    "ranking_head": "int32 head",
    "ranking_weights": "int16 head head",
    "ranking_cold": "float32 films",
    "ranking_numbers": "float64 4",
}
"""Type and shape of each array; each is the file `arrays/NAME.npy` of a release."""
NAMES = tuple(FORMS)
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
        InputError: a user's id is not text, a film's not an integer, or see `find_fault`.
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
    _refuse_faults(found, trainset)  # the rest is learned from these
    parts = parts_of(svd)
    if parts.implicit is not None:
        found["implicit"] = parts.implicit
    root = parts.fold_in_root
    found["fold_in_root"] = learn_root(found, trainset.global_mean) if root is None else root
    ranking = ranking_of(svd, _in_arrays(trainset))
    if ranking is not None:
        found |= _ranking_arrays(ranking)
    _refuse_faults(found, trainset)
    return found


def _refuse_faults(arrays: Mapping[str, NDArray[Any]], trainset: Trainset) -> None:
    """Raise InputError where `find_fault` finds one."""
    fault = find_fault(arrays, trainset.rating_scale)
    if fault:
        raise InputError(f"the model cannot be published: its array {' '.join(fault)}")


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


def find_fault(
    arrays: Mapping[str, NDArray[Any]], scale: Sequence[float]
) -> tuple[str, str] | None:
    """Return the name of an array that cannot be served, and what is wrong with it.

    None where each has its type, they fit together by their shapes, floats are finite, and numbers
    of rows lie within what they number.

    Args:
        arrays: all of a release, or some.
        scale: lowest and highest rating.
    """
    return next(_faults_of_form(arrays), None) or next(_faults_of_content(arrays, scale), None)


def _faults_of_form(arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, str]]:
    """Yield the arrays of another type, or of another shape than most of the others fit to."""
    sizes: defaultdict[str, Counter[int]] = defaultdict(Counter)
    shapes = {}
    for name, array in arrays.items():
        kinds, *sides = FORMS[name].split()
        shapes[name] = [
            (side, int(more or 0)) for side, _, more in (s.partition("+") for s in sides)
        ]
        if array.dtype.name not in kinds.split("/") or array.ndim != len(sides):
            yield name, f"is {array.dtype} {array.shape}, expected {kinds} ({', '.join(sides)})"
            return
        for (side, more), size in zip(shapes[name], array.shape, strict=True):
            sizes[side][size - more] += 1
    for name, array in arrays.items():
        right = tuple(
            int(side) if side.isdigit() else sizes[side].most_common(1)[0][0] + more
            for side, more in shapes[name]
        )
        if array.shape != right:
            yield name, f"has the shape {array.shape}, expected {right} to fit the other arrays"
    if sizes["films"] and not sizes["films"].most_common(1)[0][0]:
        yield "movie_ids", "has no films"


def _faults_of_content(
    arrays: Mapping[str, NDArray[Any]], scale: Sequence[float]
) -> Iterator[tuple[str, str]]:
    """Yield the arrays whose numbers cannot be computed with, or are no rows of another one."""
    import numpy as np

    for name, array in arrays.items():
        limit = np.inf if name == "fold_in_root" else MAX_NUMBER
        if array.dtype.kind == "f" and not _is_within(array, -limit, limit, inside=True):
            yield name, f"has numbers that are not finite, or not below {limit:g}"
    films = next(
        (len(arrays[name]) for name in ("movie_ids", "bi", "ranking_q") if name in arrays), 0
    )
    low, high = scale
    if "rated_starts" in arrays:
        starts, ratings = arrays["rated_starts"], len(arrays["rated_movies"])
        if starts[0] != 0 or starts[-1] != ratings or not _rises(starts):
            yield "rated_starts", f"does not rise from 0 to {ratings:,}, the number of ratings"
        if not _is_within(arrays["rated_movies"], 0, films - 1):
            yield "rated_movies", f"has numbers that are no row of the {films:,} films"
        if not _is_within(arrays["rated_stars"], low, high):
            yield "rated_stars", f"has ratings outside the scale, {low:g} to {high:g}"
        ends, size = arrays["user_id_ends"], len(arrays["user_ids"])
        if (
            (ends[-1] if len(ends) else 0) != size
            or not _is_within(ends[:1], 0, size)
            or (not _rises(ends))
        ):
            yield "user_id_ends", f"does not rise to {size:,}, the bytes of the users' ids"
        if len(np.unique(arrays["movie_ids"])) != films:
            yield "movie_ids", "has a film twice"
    if "ranking_numbers" not in arrays:
        return
    head, gram = arrays["ranking_head"], arrays["ranking_gram"]
    if not _is_within(head, 0, films - 1) or not _rises(head, strictly=True):
        yield "ranking_head", f"has other numbers than rising rows of the {films:,} films"
    if not _is_within(arrays["ranking_cold"], 0, MAX_NUMBER):
        yield "ranking_cold", "has numbers below 0"
    squares = gram.diagonal().clip(0)  # no eigenvalues: on a busy machine BLAS takes 40 ms for them
    if not np.allclose(gram, gram.T) or (gram**2 > 1.001 * np.outer(squares, squares)).any():
        yield "ranking_gram", "is not a sum of products of vectors with themselves"
    step, unseen_weight, trained, threshold = arrays["ranking_numbers"].tolist()
    if step < 0 or unseen_weight <= 0 or trained < films or trained % 1:
        yield "ranking_numbers", f"has impossible weights: {step:g}, {unseen_weight:g}, {trained:g}"
    if not low <= threshold <= high:
        yield "ranking_numbers", f"has a threshold outside the scale: {threshold:g} stars"


def _is_within(array: NDArray[Any], low: float, high: float, *, inside: bool = False) -> bool:
    """Return whether all numbers are from `low` to `high`, or inside them; NaN is not."""
    if not array.size:
        return True
    least, most = array.min(), array.max()
    forget_pages(array)
    return bool(low < least and most < high) if inside else bool(low <= least and most <= high)


def forget_pages(array: NDArray[Any]) -> None:
    """Leave an array on the disk again once it was looked at, if it is mapped from there."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def _rises(array: NDArray[Any], *, strictly: bool = False) -> bool:
    return bool((array[1:] > array[:-1] if strictly else array[1:] >= array[:-1]).all())


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

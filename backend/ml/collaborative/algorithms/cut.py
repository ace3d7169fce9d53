"""A model of some of the films it was trained on, with the same predictions for them."""

from __future__ import annotations

import copy
from itertools import compress
from typing import TYPE_CHECKING

from ..errors import InputError
from .fold_in import learn_root
from .parts import Parts, attach, parts_of, ranking_of

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray
    from surprise import SVD

    from ..trainset import ArrayTrainset


def cut_to_films(
    svd: SVD, trainset: ArrayTrainset, movie_ids: Collection[int]
) -> tuple[SVD, ArrayTrainset]:
    """Return a model and its trainset with these films only, of a model trained on more.

    Every prediction for a kept film stays (to 1e-9): of the kept users, of users whom the model
    does not know, and of users folded in from ratings of kept films. The mean of the kept ratings
    is another than that of all ratings; the films' biases carry the difference. So a film that is
    not in the result gets, as always in Surprise, the global mean and the user's bias, but that is
    now the mean of the kept films' ratings.

    Users none of whose ratings is kept are left out, as in a trainset of Surprise every user has
    ratings; asked for one of them, the model predicts as for any unknown user. What they taught
    the model stays: in the films' biases and factors, and in the prior that users are folded in
    with, which is learned from the whole model and handed on in `Parts`. So is the ranking, which
    is trained on all ratings and gives the kept films the same order.

    Args:
        svd: the model; neither it nor its trainset is changed.
        trainset: what it was trained on.
        movie_ids: raw ids of the films to keep; those that the model does not know do not count.

    Raises:
        InputError: none of the films is in the model.
    """
    import numpy as np

    from ..trainset import ArrayTrainset, RawIds
    from .ranking_scores import cut

    films, wanted = trainset.raw_items(), frozenset(movie_ids)
    kept = np.array([film in wanted for film in films], dtype=bool)
    if kept.all():
        return svd, trainset
    if not kept.any():
        raise InputError(
            f"none of the {len(wanted):,} films to publish is among the {len(films):,} of the model"
        )
    rows = kept[trainset._item_codes]
    users = np.bincount(trainset._user_codes[rows], minlength=trainset.n_users) > 0
    smaller = ArrayTrainset(
        RawIds(list(compress(trainset.raw_users(), users))),
        RawIds(list(compress(films, kept))),
        (
            _renumber(users)[trainset._user_codes[rows]],
            _renumber(kept)[trainset._item_codes[rows]],
            trainset._ratings[rows],
        ),
        trainset.rating_scale,
        None if rows.any() else trainset.global_mean,  # an item-only model has no ratings
    )
    model = copy.copy(svd)
    model.trainset = smaller
    model.bu, model.pu = svd.bu[users], svd.pu[users]
    model.bi = svd.bi[kept] + (trainset.global_mean - smaller.global_mean)
    model.qi = svd.qi[kept]
    implicit = parts_of(svd).implicit
    ranking = ranking_of(svd, trainset)
    parts = Parts(
        _root_of(svd, trainset),
        None if implicit is None else implicit[kept],
        None if ranking is None else cut(ranking, np.flatnonzero(kept)),
    )
    return attach(model, parts), smaller


def _renumber(kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the new number of each of those kept, in the old order; the others' say nothing."""
    import numpy as np

    return (np.cumsum(kept) - 1).astype(np.int32)


def _root_of(svd: SVD, trainset: ArrayTrainset) -> NDArray[np.float64]:
    """Return the prior that users are folded in with; see `fold_in.learn_root`."""
    parts = parts_of(svd)
    if parts.fold_in_root is not None:  # of a model that was cut before, or is item-only
        return parts.fold_in_root
    starts, films, stars = trainset.by_user
    arrays = {name: getattr(svd, name) for name in ("bu", "bi", "pu", "qi")}
    arrays |= {"rated_starts": starts, "rated_movies": films, "rated_stars": stars}
    if parts.implicit is not None:
        arrays["implicit"] = parts.implicit
    return learn_root(arrays, trainset.global_mean)

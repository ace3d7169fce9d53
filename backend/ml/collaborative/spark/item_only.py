"""Training on a Spark cluster into an item-only model: users stay on the cluster.

Users of such a model are folded in. The prior that this needs, see `fold_in.learn_root`, comes
from the second moments of all users, aggregated on the cluster.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..algorithms.fold_in import MAX_RATINGS, learn_root, make_root, solve
from ..algorithms.parts import Parts, attach, parts_of
from .als import check_finite, collect, fit, fit_als
from .failures import as_source_error
from .ranking import fit_ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame
    from surprise import SVD

    from ..algorithms.training import Parameters
    from ..trainset import ArrayTrainset
    from .als import Fitted
    from .ranking import Size
    from .session import Cluster


def fit_items(
    cluster: Cluster,
    ratings: DataFrame,
    size: Size,
    scale: tuple[float, float],
    movie_ids: NDArray[np.int64],
    parameters: Parameters,
    seed: int,
    fingerprint: str,
) -> tuple[SVD, ArrayTrainset, Fitted]:
    """Train an item-only `surprise.SVD` on ratings that stay on the cluster.

    It predicts mean + film bias for every user; its part `fold_in_root` is what users are folded
    in with, and `ranking` what their lists are made of, see `algorithms.parts`.

    Args:
        cluster: where to train.
        ratings: see `als.cache_by_user`; each pair once.
        size: of these.
        scale: lowest and highest rating.
        movie_ids: TMDB ids by item, (films,).
        parameters: see `als.fit_als`.
        seed: of the first factors.
        fingerprint: see `als.fit`.

    Returns:
        The model, its trainset without ratings, and the trained model on the cluster.

    Raises:
        SourceError: the cluster failed.
        GateError: the trained factors are not finite.
    """
    from ..surprise_classes import SVD, AlgoBase
    from ..trainset import make_items_trainset

    with as_source_error():
        fitted = fit(cluster, ratings, size, parameters, seed, fingerprint)
        bi, qi = collect(fitted.items, "item", len(movie_ids), parameters.factors)
        users, moments = _second_moments(fitted.users)
        noise = _noise(fitted, ratings, min(1.0, MAX_RATINGS / size.ratings), seed)
        ranking = fit_ranking(cluster, ratings, size, seed, f"{fitted.name}-ranking")
    check_finite(bi, qi, moments)
    trainset = make_items_trainset(movie_ids.tolist(), scale, fitted.mean)
    model = SVD(n_factors=parameters.factors, n_epochs=parameters.epochs, random_state=seed)
    AlgoBase.fit(model, trainset)
    model.bu, model.pu = np.zeros(0), np.zeros((0, parameters.factors))
    model.bi, model.qi = bi, qi
    root = make_root(moments / max(users * noise, np.finfo(np.float64).tiny))
    return attach(model, Parts(fold_in_root=root, ranking=ranking)), trainset, fitted


def fit_folded(cluster: Cluster, trainset: ArrayTrainset, parameters: Parameters, seed: int) -> SVD:
    """Train as `als.fit_als`, and put folded-in users in the trained ones' place.

    So an item-only release is judged by what it serves.

    Raises:
        InputError, SourceError, GateError: see `als.fit_als`.
    """
    model = fit_als(trainset, parameters=parameters, seed=seed, cluster=cluster)
    starts, films, stars = trainset.by_user
    arrays = {name: getattr(model, name) for name in ("bu", "bi", "pu", "qi")}
    arrays |= {"rated_starts": starts, "rated_movies": films, "rated_stars": stars}
    root = learn_root(arrays, trainset.global_mean)
    left = stars - trainset.global_mean - model.bi[films]
    bounds = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    for user, row in enumerate(slice(*bound) for bound in bounds):
        model.bu[user], *model.pu[user] = solve(root, model.qi[films[row]], left[row])
    return attach(model, replace(parts_of(model), fold_in_root=root))


def _second_moments(users: DataFrame) -> tuple[int, NDArray[np.float64]]:
    """Return the number of users, and the sum of the outer products of each (bias, vector).

    The sum is (1 + factors, 1 + factors).
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.mllib.linalg.distributed import RowMatrix
    from pyspark.mllib.util import MLUtils
    from pyspark.sql import functions as F  # noqa: N812

    own = F.concat(F.array("bias"), F.col("factors").cast("array<double>"))
    vectors = users.select(array_to_vector(own).alias("own"))
    rows = RowMatrix(MLUtils.convertVectorColumnsFromML(vectors))
    return users.count(), rows.computeGramianMatrix().toArray()


def _noise(fitted: Fitted, ratings: DataFrame, share: float, seed: int) -> float:
    """Return the mean squared error of the model over a random share of its ratings."""
    from pyspark.sql import functions as F  # noqa: N812

    if share < 1:
        ratings = ratings.sample(share, seed)
    users, items = (
        frame.select(key, F.col("bias").alias(f"{key}_bias"), F.col("factors").alias(f"{key}_own"))
        for key, frame in (("user", fitted.users), ("item", fitted.items))
    )
    product = F.aggregate(
        F.zip_with("user_own", "item_own", lambda a, b: a.cast("double") * b),
        F.lit(0.0), lambda total, term: total + term,
    )  # fmt: skip
    error = F.col("rating") - fitted.mean - F.col("user_bias") - F.col("item_bias") - product
    found = ratings.join(users, "user").join(items, "item").agg(F.avg(error * error)).first()
    return float(found[0])  # type: ignore[index]

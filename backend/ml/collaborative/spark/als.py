"""Training on a Spark cluster into a surprise.SVD: biases by aggregation, then ALS on residuals.

The model is that of `svd`: mean + bias of the user + bias of the film + the product of their
vectors. The biases are regularised means (Koren 2008, section 2.1); the vectors are alternating
least squares with the regularisation in proportion to a user's or film's ratings (ALS-WR, Zhou et
al. 2008), as `pyspark.ml.recommendation.ALS` has it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..algorithms.parts import Parts, attach
from ..errors import GateError
from .failures import as_source_error
from .ranking import Size, fit_ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame
    from surprise import SVD

    from ..algorithms.training import Parameters
    from ..trainset import ArrayTrainset
    from .session import Cluster

ITEM_BIAS_REG, USER_BIAS_REG = 5.0, 5.0
"""Regularisation of the biases, in ratings: so many ratings at the mean are added to each."""
ROW_RATINGS = 64.0
"""Ratings of a row, the geometric mean of users' and films', up to which `reg` is taken as it is:
it was chosen where there are so many (benchmarks/RESULTS.md)."""
STEPS = 2.0**32
"""Of a star, in which the ratings that a bias is made of are summed."""
MAX_BLOCKS = 1000
"""Blocks of users, and of films: each task of ALS has a buffer for each pair of blocks."""
MAX_LOCAL_RANKING = 4_000_000
"""Ratings up to which a ranking is trained here, from a trainset in memory: it takes a minute."""
CHECKPOINT_INTERVAL = 5
"""Iterations after which ALS writes its factors to the folder of checkpoints."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model on the cluster."""

    name: str
    """What the names of its stages begin with."""
    mean: float
    """Of all ratings."""
    items: DataFrame
    """item (int), bias (double), factors (array of float)."""
    users: DataFrame
    """user (int), bias (double), factors (array of float)."""


def describe_als(parameters: Parameters) -> dict[str, float]:
    """Return every parameter of the training but the seed, by name."""
    return {
        "factors": parameters.factors,
        "iterations": parameters.epochs,
        "reg": parameters.reg,
        "item_bias_reg": ITEM_BIAS_REG,
        "user_bias_reg": USER_BIAS_REG,
    }


def regularisation(reg: float, size: Size) -> float:
    """Return what each rating adds to the regularisation of its user and film, up to `reg`.

    It falls with the root of the ratings that rows have. A prior that stays the same would let it
    fall with the number itself; the best values that were published for larger sets lie between:
    0.065 for Netflix's 1,080 ratings a row (Zhou et al. 2008).
    """
    row = size.ratings / math.sqrt(size.users * size.films)
    return reg * min(1.0, math.sqrt(ROW_RATINGS / row))


def fit_als(trainset: ArrayTrainset, *, parameters: Parameters, seed: int, cluster: Cluster) -> SVD:
    """Train a `surprise.SVD` on the cluster, on ratings that are in memory here.

    Of more than `MAX_LOCAL_RANKING` ratings it brings its ranking, see `algorithms.parts`.

    Args:
        trainset: at least one rating.
        parameters: factors, epochs (iterations) and reg are used; see `describe_als`.
        seed: of the first factors.
        cluster: where to train.

    Raises:
        InputError: no ratings, ids out of range, or ratings that are not finite.
        SourceError: the cluster failed.
        GateError: the trained factors are not finite.
    """
    import pyarrow as pa

    from ..surprise_classes import SVD, AlgoBase

    trainset.check()
    rows = trainset.by_user
    size = Size(trainset.n_ratings, trainset.n_users, trainset.n_items)
    columns = {"user": _repeat(rows.starts), "item": rows.others, "rating": rows.ratings}
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns.values()))
    ranking = None
    with as_source_error(), cluster.scope():
        frame = cluster.session.createDataFrame(pa.table(columns))
        ratings = cache_by_user(cluster, frame, size.ratings)
        fitted = fit(cluster, ratings, size, parameters, seed, digest.hexdigest())
        bi, qi = collect(fitted.items, "item", size.films, parameters.factors)
        bu, pu = collect(fitted.users, "user", size.users, parameters.factors)
        if size.ratings > MAX_LOCAL_RANKING:
            ranking = fit_ranking(cluster, ratings, size, seed, f"{fitted.name}-ranking")
    model = SVD(n_factors=parameters.factors, n_epochs=parameters.epochs, random_state=seed)
    AlgoBase.fit(model, trainset)
    model.bu, model.bi, model.pu, model.qi = bu, bi, pu, qi
    check_finite(bu, bi, pu, qi)
    return attach(model, Parts(ranking=ranking))


def cache_by_user(cluster: Cluster, ratings: DataFrame, count: int) -> DataFrame:
    """Return user (int), item (int) and rating (double) in partitions by user, cached."""
    cluster.expect(count)
    rows = ratings.select("user", "item", ratings["rating"].cast("double"))
    return cluster.persist(rows.repartition(cluster.partitions_for(count), "user"), count)


def fit(
    cluster: Cluster,
    ratings: DataFrame,
    size: Size,
    parameters: Parameters,
    seed: int,
    fingerprint: str,
) -> Fitted:
    """Train biases, then ALS on the residuals.

    Where the cluster has a folder of checkpoints, each finished stage is written there, and read
    from there by a later training of the same ratings, parameters and seed.

    Args:
        cluster: where to train.
        ratings: see `cache_by_user`; each pair once.
        size: of these.
        parameters: see `fit_als`.
        seed: of the first factors.
        fingerprint: hash of the ratings' content; part of the name of each stage.
    """
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    count = size.ratings
    logger.info("ALS: training on %s ratings", f"{count:,}")
    partitions = cluster.partitions_for(count)
    blocks = min(partitions, MAX_BLOCKS)
    key = json.dumps(
        [fingerprint, describe_als(parameters), seed, partitions, cluster.session.version]
    )
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    mean = float(ratings.agg(F.avg("rating")).first()[0])  # type: ignore[index]

    def shrunk(value: Column, weight: float) -> Column:
        # A sum of whole numbers does not depend on their order, so a part of it that is lost with
        # its executor is the same when it is made again: Spark ends a training where it is not.
        total = F.sum(F.round(value * STEPS).cast("long")) / STEPS
        return total / (F.count("*") + F.lit(weight))

    item_bias = ratings.groupBy("item").agg(
        shrunk(F.col("rating") - mean, ITEM_BIAS_REG).alias("item_bias")
    )
    item_bias = cluster.stage(f"{name}-item-biases", item_bias, count)
    left = ratings.join(F.broadcast(item_bias), "item").withColumn(
        "rating", F.col("rating") - mean - F.col("item_bias")
    )
    user_bias = left.groupBy("user").agg(shrunk(F.col("rating"), USER_BIAS_REG).alias("user_bias"))
    user_bias = cluster.stage(f"{name}-user-biases", user_bias, count)
    done = [cluster.is_whole(f"{name}-{side}") for side in ("items", "users")]
    items = users = None
    if not all(done):
        residuals = left.join(user_bias, "user").select(
            "user", "item", (F.col("rating") - F.col("user_bias")).cast("float").alias("rating")
        )
        storage = cluster.storage_for(count)
        als = ALS(
            rank=parameters.factors, maxIter=parameters.epochs,
            regParam=regularisation(parameters.reg, size),
            numUserBlocks=blocks, numItemBlocks=blocks, userCol="user", itemCol="item",
            ratingCol="rating", seed=seed, checkpointInterval=CHECKPOINT_INTERVAL,
            intermediateStorageLevel=storage, finalStorageLevel=storage,
        )  # fmt: skip
        # In order, so that sums do not depend on which part of a shuffle came first.
        model = als.fit(
            residuals.repartition(partitions, "user").sortWithinPartitions("user", "item")
        )
        items = model.itemFactors.withColumnRenamed("id", "item")
        users = model.userFactors.withColumnRenamed("id", "user")
    found = []
    for side, factors, bias in (("item", items, item_bias), ("user", users, user_bias)):
        stage = f"{name}-{side}s"
        if factors is None:
            frame = cluster.stage(stage, bias, count)
        else:
            frame = bias.withColumnRenamed(f"{side}_bias", "bias").join(
                factors.withColumnRenamed("features", "factors"), side
            )
            frame = cluster.stage(stage, frame, count)
        found.append(frame)
    return Fitted(name, mean, *found)


def _repeat(starts: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))


def collect(
    frame: DataFrame, key: str, count: int, factors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return biases (count,) and factors (count, factors) by inner id; NaN where there are none.

    Args:
        frame: bias (double) and factors (array of float) by `key`, an inner id (int).
        key: name of the column of inner ids.
        count: of the inner ids.
        factors: length of a vector.
    """
    table = frame.select(key, "bias", "factors").toArrow()
    inner = table[key].to_numpy()
    biases, vectors = np.full(count, np.nan), np.full((count, factors), np.nan)
    biases[inner] = table["bias"].to_numpy()
    for start in range(0, len(inner), 1 << 20):
        part = table["factors"].slice(start, 1 << 20).combine_chunks()
        vectors[inner[start : start + (1 << 20)]] = part.flatten().to_numpy().reshape(-1, factors)
    return biases, vectors


def check_finite(*arrays: NDArray[np.float64]) -> None:
    """Raise GateError where a value is not finite."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise GateError(
            "training on Spark gave factors that are not finite; nothing was published: raise --reg"
        )

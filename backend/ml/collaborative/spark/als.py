"""Training on a Spark cluster into a surprise.SVD: biases by aggregation, then ALS on what is left.

The model is that of `svd`: mean + bias of the user + bias of the film + the product of their
vectors. The biases are regularised means (Koren 2008, section 2.1); the vectors are alternating
least squares with the regularisation in proportion to a user's or film's ratings (ALS-WR, Zhou et
al. 2008), as `pyspark.ml.recommendation.ALS` has it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algorithms.fold_in import MAX_RATINGS, make_root
from ..algorithms.parts import Parts, attach
from ..errors import GateError, SourceError, UsageError
from .session import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame
    from surprise import SVD

    from ..algorithms.training import Parameters
    from ..trainset import ArrayTrainset
    from .session import Cluster

ITEM_BIAS_REG, USER_BIAS_REG = 5.0, 5.0
"""Ratings of the average that a bias is pulled to zero by."""
MOST_BLOCKS = 1000
"""Of users, and of films: ALS has a buffer for each pair of them in each task."""
CHECKPOINT_INTERVAL = 5
"""Iterations after which ALS writes its factors to the folder of checkpoints."""
USUAL_RATINGS = 50_000_000
"""Ratings up to which a release holds all users and what they rated: 600 MB of them."""
USUAL_NUMBERS = 200_000_000
"""The same for users times factors: 1.6 GB."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model on the cluster."""

    mean: float
    """Of all ratings."""
    items: DataFrame
    """item (int), bias (double), factors (array of float)."""
    users: DataFrame
    """user (int), bias (double), factors (array of float)."""


def describe_als(parameters: Parameters) -> dict[str, float]:
    """Every parameter of the training but the seed, by name."""
    return {
        "factors": parameters.factors,
        "iterations": parameters.epochs,
        "reg": parameters.reg,
        "item_bias_reg": ITEM_BIAS_REG,
        "user_bias_reg": USER_BIAS_REG,
    }


def fit_als(
    trainset: ArrayTrainset, *, parameters: Parameters, seed: int, cluster: Cluster | None
) -> SVD:
    """Train on the cluster what is in memory here, into a `surprise.SVD` of all its users.

    Args:
        trainset: at least one rating.
        parameters: factors, epochs (iterations) and reg count; see `describe_als`.
        seed: of the first factors.
        cluster: where.

    Raises:
        InputError: ids out of range, or ratings that are not finite.
        UsageError: no cluster.
        SourceError: the cluster failed.
        GateError: what was trained is not finite.
    """
    import pyarrow as pa
    from surprise import SVD, AlgoBase

    if cluster is None:
        raise UsageError("algorithm 'als' needs a Spark cluster: say --spark")
    trainset.check()
    rows = trainset.by_user
    users = _repeat(rows.starts)
    columns = {"user": users, "item": rows.others, "rating": rows.ratings.astype("float64")}
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns.values()))
    with failures():
        frame = cluster.session.createDataFrame(pa.table(columns))
        fitted = fit(cluster, frame, len(users), parameters, seed, digest.hexdigest())
        bi, qi = _collect(fitted.items, "item", trainset.n_items, parameters.factors)
        bu, pu = _collect(fitted.users, "user", trainset.n_users, parameters.factors)
        cluster.session.catalog.clearCache()
    model = SVD(n_factors=parameters.factors, n_epochs=parameters.epochs, random_state=seed)
    AlgoBase.fit(model, trainset)
    model.bu, model.bi, model.pu, model.qi = bu, bi, pu, qi
    _check_finite(bu, bi, pu, qi)
    return model


def fit(
    cluster: Cluster,
    ratings: DataFrame,
    count: int,
    parameters: Parameters,
    seed: int,
    fingerprint: str,
) -> Fitted:
    """Biases, then ALS on the residuals; where the cluster has a folder of checkpoints, in stages.

    Args:
        cluster: where.
        ratings: user (int), item (int), rating (double); each pair once.
        count: of the ratings.
        parameters: see `fit_als`.
        seed: of the first factors.
        fingerprint: of the ratings' content: a stage that is on disk is of the same one.
    """
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it

    cluster.expect(count)
    partitions = cluster.partitions_for(count)
    blocks = min(partitions, MOST_BLOCKS)
    key = json.dumps(
        [fingerprint, describe_als(parameters), seed, partitions, cluster.session.version]
    )
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    ratings = cluster.persist(ratings.repartition(partitions, "user"), count)
    mean = float(ratings.agg(F.avg("rating")).first()[0])  # type: ignore[index]

    def shrunk(value: Column, weight: float) -> Column:
        return F.sum(value) / (F.count("*") + F.lit(weight))

    item_bias = ratings.groupBy("item").agg(
        shrunk(F.col("rating") - mean, ITEM_BIAS_REG).alias("item_bias")
    )
    item_bias = cluster.stage(f"{name}-item-biases", item_bias, count)
    left = ratings.join(item_bias, "item").withColumn(
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
            rank=parameters.factors, maxIter=parameters.epochs, regParam=parameters.reg,
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
    return Fitted(mean, *found)


def fit_items(
    cluster: Cluster,
    ratings: DataFrame,
    count: int,
    scale: tuple[float, float],
    movie_ids: NDArray[np.int64],
    parameters: Parameters,
    seed: int,
    fingerprint: str,
) -> tuple[SVD, ArrayTrainset, Fitted]:
    """Train on the cluster ratings that stay there: a `surprise.SVD` that knows films alone.

    It predicts mean + film bias for every user; its part `fold_in_root` is what users are
    folded in with, see `fold_in.learn_root`: the second moments of all users, by aggregation.

    Args:
        cluster: where.
        ratings: user (int), item (int), rating (double); each pair once.
        count: of the ratings.
        scale: of the ratings.
        movie_ids: TMDB ids by item, (films,).
        parameters: see `fit_als`.
        seed: of the first factors.
        fingerprint: see `fit`.

    Returns:
        The model, its trainset of no ratings, and the trained model on the cluster.

    Raises:
        SourceError: the cluster failed.
        GateError: what was trained is not finite.
    """
    import numpy as np
    from surprise import SVD, AlgoBase

    from ..trainset import make_items_trainset

    with failures():
        fitted = fit(cluster, ratings, count, parameters, seed, fingerprint)
        bi, qi = _collect(fitted.items, "item", len(movie_ids), parameters.factors)
        users, moments = _second_moments(fitted.users)
        noise = _noise(fitted, ratings, min(1.0, MAX_RATINGS / count), seed)
    _check_finite(bi, qi, moments)
    trainset = make_items_trainset(movie_ids.tolist(), scale, fitted.mean)
    model = SVD(n_factors=parameters.factors, n_epochs=parameters.epochs, random_state=seed)
    AlgoBase.fit(model, trainset)
    model.bu, model.pu = np.zeros(0), np.zeros((0, parameters.factors))
    model.bi, model.qi = bi, qi
    root = make_root(moments / max(users * noise, np.finfo(np.float64).tiny))
    return attach(model, Parts(fold_in_root=root)), trainset, fitted


def _repeat(starts: NDArray[np.int64]) -> NDArray[np.int32]:
    import numpy as np

    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))


def _collect(
    frame: DataFrame, key: str, count: int, factors: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Biases (count,) and factors (count, factors), by inner id."""
    import numpy as np

    table = frame.select(key, "bias", "factors").toArrow()
    inner = table[key].to_numpy()
    biases, vectors = np.full(count, np.nan), np.full((count, factors), np.nan)
    biases[inner] = table["bias"].to_numpy()
    for start in range(0, len(inner), 1 << 20):
        part = table["factors"].slice(start, 1 << 20).combine_chunks()
        vectors[inner[start : start + (1 << 20)]] = part.flatten().to_numpy().reshape(-1, factors)
    return biases, vectors


def _second_moments(users: DataFrame) -> tuple[int, NDArray[np.float64]]:
    """Number of users, and the sum of (bias, vector) by itself, (1 + factors, 1 + factors)."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.mllib.linalg.distributed import RowMatrix
    from pyspark.mllib.util import MLUtils
    from pyspark.sql import functions as F  # noqa: N812

    own = F.concat(F.array("bias"), F.col("factors").cast("array<double>"))
    vectors = users.select(array_to_vector(own).alias("own"))
    rows = RowMatrix(MLUtils.convertVectorColumnsFromML(vectors))
    return users.count(), rows.computeGramianMatrix().toArray()


def _noise(fitted: Fitted, ratings: DataFrame, share: float, seed: int) -> float:
    """Mean square of what the model does not explain, over a random share of the ratings."""
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


def _check_finite(*arrays: NDArray[np.float64]) -> None:
    import numpy as np

    if not all(np.isfinite(array).all() for array in arrays):
        raise GateError(
            "training on Spark gave factors that are not finite. Nothing was published; raise --reg"
        )


class failures:  # noqa: N801  a context manager
    """Say a failure of the cluster in a line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: Any) -> None:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        if isinstance(error, Py4JError | PySparkException | ConnectionError):
            raise SourceError(
                f"the Spark cluster failed ({type(error).__name__}: {first_line(error)}): see its "
                "executors' logs, give it more memory, or resume with the same --checkpoint-dir"
            ) from error

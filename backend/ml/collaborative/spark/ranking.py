"""The ranking of `algorithms.ranking`, trained on a cluster: the same model, to rounding.

Each block of users holds their ratings as arrays. In an alternation it gets the films' vectors,
solves for its users', and sends these, with the ratings, to the blocks of the films they rated,
which solve for the films'. Between alternations there is nothing but the films' vectors, so no
lineage grows. What is collected here does not grow with users or ratings: vectors, counts and the
cold list of the films, and EASE's `HEAD_FILMS` by as many numbers.

The functions below `fit_ranking` run on workers, which need NumPy and PyArrow, not this package.
"""

from __future__ import annotations

import logging
import operator
import pickle
import sys
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..algorithms.ranking_scores import LIKED, LIKED_TARGET, REG, SEEN_TARGET, Ranking
from .failures import as_source_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark import RDD, Broadcast
    from pyspark.sql import DataFrame

    from .session import Cluster

    Message = tuple[int, tuple[Any, ...]]

MAX_BLOCKS = 2500
"""Blocks of users, and of films."""
RATINGS_PER_FILM_BLOCK = 4_000_000
"""Each user's vector goes to every block of films that has one of theirs, so there are few."""
STRIPS = 16
"""In which sums of EASE's matrix are made, so that no worker has all of every block."""
ROWS_AT_ONCE = 64
"""Whose matrices are solved together, 1 MiB."""
RATINGS_AT_ONCE = 1 << 16
"""Of a row, whose vectors are copied together, 16 MiB."""
USERS_AT_ONCE = 2048
"""In a block of users by head films, 16 MiB."""

logger = logging.getLogger(__name__)


class Size(NamedTuple):
    """Of a table of ratings."""

    ratings: int
    users: int
    films: int


def fit_ranking(cluster: Cluster, ratings: DataFrame, size: Size, seed: int, name: str) -> Ranking:
    """Train the ranking over all films; see `algorithms.ranking.fit_ranking`.

    Args:
        cluster: where to train.
        ratings: user (int), item (int), rating (double); each pair once, each item from 0 on.
        size: of these.
        seed: of the films' vectors at the start.
        name: of the stage, see `Checkpoints.frame`.

    Raises:
        SourceError: the cluster failed.
        GateError: the vectors are not finite.
    """

    def arrays() -> dict[str, Any]:
        found = _train(cluster, ratings, size, seed)
        return {field.name: getattr(found, field.name) for field in fields(found)}

    if cluster.checkpoints is None:
        return _train(cluster, ratings, size, seed)
    with as_source_error():
        kept = cluster.checkpoints.arrays(name, arrays)
    values: dict[str, Any] = {key: a if a.ndim else a.item() for key, a in kept.items()}
    return Ranking(**values)


def _train(cluster: Cluster, ratings: DataFrame, size: Size, seed: int) -> Ranking:
    from pyspark.cloudpickle import register_pickle_by_value
    from threadpoolctl import threadpool_limits

    from ..algorithms import ranking as local

    logger.info("ranking: training on %s ratings", f"{size.ratings:,}")
    register_pickle_by_value(sys.modules[__name__])
    context = cluster.session.sparkContext
    cores = context.defaultParallelism
    film_blocks = min(max(cores, -(-size.ratings // RATINGS_PER_FILM_BLOCK)), MAX_BLOCKS)
    with as_source_error():
        counts, halves = _count(ratings, size.films)
        block_of = context.broadcast(_deal(counts, film_blocks))
        blocks = _make_blocks(cluster, ratings, size, block_of, film_blocks)
        try:
            head = local.most_rated(counts)
            together, cold = _count_together(blocks, head, size.films)
            weight = local.unseen_weight(*size)
            q = local.first_vectors(size.films, seed)
            for done in range(1, local.ALTERNATIONS + 1):
                q, mean = _alternate(blocks, q, weight, size.users, film_blocks)
                logger.info("ranking: alternation %d of %d is done", done, local.ALTERNATIONS)
        finally:
            blocks.unpersist()
            block_of.unpersist()
    with threadpool_limits(1):
        ease = local.ease_weights(together)
        return local.make_ranking(q, mean, head, ease, cold, weight, halves)


def _count(ratings: DataFrame, films: int) -> tuple[NDArray[np.int64], float]:
    """Return the ratings of each film, (films,), and the share of all with half a star."""
    from pyspark.sql import functions as F  # noqa: N812

    half = F.count_if(F.col("rating") % 1 != 0)
    found = ratings.groupBy("item").agg(F.count("*").alias("n"), half.alias("halves")).toArrow()
    counts = np.zeros(films, dtype=np.int64)
    counts[found["item"].to_numpy()] = found["n"].to_numpy()
    return counts, found["halves"].to_numpy().sum() / counts.sum()


def _deal(counts: NDArray[np.int64], blocks: int) -> NDArray[np.int32]:
    """Return the block of each film, (films,): the most rated films, and so on, are dealt out."""
    round_, place = np.divmod(np.arange(len(counts)), blocks)
    found = np.empty(len(counts), dtype=np.int32)
    found[np.argsort(-counts, kind="stable")] = np.where(round_ % 2, blocks - 1 - place, place)
    return found


def _make_blocks(
    cluster: Cluster, ratings: DataFrame, size: Size,
    block_of: Broadcast[NDArray[np.int32]], film_blocks: int,
) -> RDD[tuple[Any, ...]]:  # fmt: skip
    """Return the blocks of users, cached; see `link`."""
    from pyspark import StorageLevel
    from pyspark.sql import functions as F  # noqa: N812

    liked = (F.col("rating") >= LIKED).cast("byte").alias("liked")
    rows = ratings.select("user", "item", liked)
    parts = min(cluster.partitions_for(size.ratings), MAX_BLOCKS)
    packed = rows.repartition(parts, "user").mapInArrow(pack, "block binary")
    linked = packed.rdd.mapPartitionsWithIndex(partial(link, block_of, film_blocks))
    return linked.persist(StorageLevel.MEMORY_AND_DISK)


def _count_together(
    blocks: RDD[tuple[Any, ...]], head: NDArray[np.int32], films: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return Y'Y of the head films' targets, (k, k), and the cold list, (films,)."""
    places = np.full(films, -1, dtype=np.int32)
    places[head] = np.arange(len(head))
    sent = blocks.context.broadcast(places)
    strips = blocks.flatMap(partial(count_block, sent, len(head)))
    summed = dict(
        strips.reduceByKey(operator.add, min(STRIPS, blocks.getNumPartitions())).collect()
    )
    sent.unpersist()
    cold = summed.pop(STRIPS).astype(np.float32)
    return np.concatenate([summed[strip] for strip in sorted(summed)]), cold


def _alternate(
    blocks: RDD[tuple[Any, ...]], q: NDArray[np.float32], weight: float, users: int,
    film_blocks: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:  # fmt: skip
    """Return the films' next vectors, (films, factors), and the mean user vector, (factors,)."""
    gram = np.float32(weight) * (q.T @ q)
    sent = blocks.context.broadcast((q, gram, REG * weight * len(q)))
    messages = blocks.flatMap(partial(solve_users, sent)).partitionBy(film_blocks)
    found = messages.mapPartitions(partial(solve_films, weight, REG * weight * users)).collect()
    sent.unpersist()
    films = np.empty_like(q)
    for ids, vectors, _ in found:
        films[ids] = vectors
    return films, found[0][2] / users


def pack(batches: Iterable[Any]) -> Iterator[Any]:
    """Make one row of the ratings of a partition: pickled starts, items and liked, by user."""
    import pyarrow as pa

    parts = [[column.to_numpy() for column in batch.columns] for batch in batches]
    empty = [np.empty(0, dtype) for dtype in (np.int32, np.int32, np.int8)]
    users, items, liked = map(np.concatenate, zip(empty, *parts, strict=True))
    order = np.lexsort((items, users))
    starts = np.append(np.flatnonzero(np.diff(users[order], prepend=-1)), len(order))
    block = pickle.dumps((starts, items[order], liked[order]), 5)
    yield pa.RecordBatch.from_pydict({"block": pa.array([block], pa.binary())})


def link(
    block_of: Broadcast[NDArray[np.int32]], film_blocks: int, number: int, rows: Iterable[Any]
) -> Iterator[tuple[Any, ...]]:
    """Add to each block what goes to each block of films.

    A block is its number, starts, items and liked; then for each block of films the users who rated
    one of them, and in the films' order its ratings: film, place among those users, liked.
    """
    for row in rows:
        starts, items, liked = pickle.loads(row[0])
        users = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
        goes = block_of.value[items]
        order = np.argsort(goes, kind="stable")
        ends = np.searchsorted(goes[order], np.arange(1, film_blocks + 1))
        parts = []
        for own in np.split(order, ends[:-1]):
            links, places = np.unique(users[own], return_inverse=True)
            by_film = np.argsort(items[own], kind="stable")
            of_rows = items[own][by_film], places.astype(np.int32)[by_film], liked[own][by_film]
            parts.append((links, *of_rows))
        yield number, starts, items, liked, parts


def count_block(
    places: Broadcast[NDArray[np.int32]], size: int, block: tuple[Any, ...]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Return a block's part of Y'Y by strips, then as strip `STRIPS` of the cold list."""
    _, starts, items, liked, _ = block
    together: NDArray[np.float64] = np.zeros((size, size))
    for first in range(0, len(starts) - 1, USERS_AT_ONCE):
        bounds = starts[first : first + USERS_AT_ONCE + 1]
        row = slice(bounds[0], bounds[-1])
        users, columns = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), items[row]
        known = places.value[columns] >= 0
        table = np.zeros((len(bounds) - 1, size), dtype=np.float32)
        table[users[known], places.value[columns[known]]] = _targets(liked[row][known])
        together += table.T @ table  # sums of a few thousand sixteenths: exact in float32
    yield from enumerate(np.array_split(together, STRIPS))
    counts = np.diff(starts)
    weights = np.repeat(1 / np.sqrt(counts), counts) * liked
    yield STRIPS, np.bincount(items, weights, len(places.value))


def solve_users(sent: Broadcast[tuple[Any, ...]], block: tuple[Any, ...]) -> Iterator[Message]:
    """Solve the users' vectors of a block; return what goes to each block of films."""
    number, starts, items, liked, parts = block
    vectors = solve_rows(starts, items, liked, *sent.value)
    exact = vectors.astype(np.float64)
    gram, total = exact.T @ exact, exact.sum(axis=0)
    for place, (links, *of_rows) in enumerate(parts):
        yield place, (number, gram, total, vectors[links], *of_rows)


def solve_films(
    weight: float, reg_all: float, messages: Iterable[Message]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64]]]:
    """Solve the films' vectors of a block; with its films, and the sum of all users' vectors."""
    found = sorted((message for _, message in messages), key=lambda message: message[0])
    _, grams, totals, vectors, *of_rows = zip(*found, strict=True)
    ends = np.cumsum([len(part) for part in vectors], dtype=np.int32)
    items, places, liked = map(np.concatenate, of_rows)
    # A place among a block's users is one among all, after those of the blocks before.
    before = np.repeat(np.append(0, ends[:-1]), [len(part) for part in of_rows[0]])
    others = (places + before).astype(np.int32)
    order = np.argsort(items, kind="stable")
    films, starts = np.unique(items[order], return_index=True)
    gram = (weight * np.sum(grams, axis=0)).astype(np.float32)
    solved = solve_rows(
        np.append(starts, len(order)), others[order], liked[order],
        np.concatenate(vectors), gram, reg_all,
    )  # fmt: skip
    yield films, solved, np.sum(totals, axis=0)


def solve_rows(
    starts: NDArray[np.int64], others: NDArray[np.int32], liked: NDArray[np.int8],
    theirs: NDArray[np.float32], gram: NDArray[np.float32], reg_all: float,
) -> NDArray[np.float32]:  # fmt: skip
    """Return the vectors of all rows, (rows, factors); see `algorithms.loops.als.solve_rows`."""
    counts, factors = np.diff(starts), theirs.shape[1]
    found = np.empty((len(counts), factors), dtype=np.float32)
    for first in range(0, len(counts), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        matrices = np.tile(gram, (len(counts[rows]), 1, 1))
        diagonals = np.einsum("nii->ni", matrices)  # a view
        diagonals += (REG * counts[rows, None] + reg_all).astype(np.float32)
        right = np.zeros((len(matrices), factors, 1), dtype=np.float32)
        for place, start in enumerate(starts[:-1][rows].tolist()):
            end = start + counts[first + place]
            for strip in range(start, end, RATINGS_AT_ONCE):
                part = slice(strip, min(end, strip + RATINGS_AT_ONCE))
                q = theirs[others[part]]
                matrices[place] += q.T @ q
                right[place, :, 0] += _targets(liked[part]) @ q
        found[rows] = np.linalg.solve(matrices, right)[..., 0]
    return found


def _targets(liked: NDArray[np.int8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.array([SEEN_TARGET, LIKED_TARGET], dtype=np.float32)[liked]
    return found

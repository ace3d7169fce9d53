"""SGD over several threads at once, for large data: the same numbers on any number of cores.

Distributed stochastic gradient descent (Gemulla, Nijkamp, Haas and Sismanis 2011): users and items
are each cut into blocks of about as many ratings, and the threads work on cells of ratings that
share neither users nor items, so none waits for another or overwrites its steps.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import joblib
import numpy as np

from ...trainset import Rows
from .sgd import aligned_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

BLOCKS = 4
"""Of users and of items, so also the most threads. The order of the steps depends on it; and the
more there are, the shorter a user's rows, each of which costs a little."""


def in_parallel(
    step: Callable[..., float],
    rows: Rows,
    arrays: tuple[NDArray[np.float64], ...],
    epochs: int,
    threads: int | None = None,
) -> Iterator[float]:
    """Yield the sum of squared errors of epoch after epoch.

    Args:
        step: one pass over rows, which updates the bu, bi, pu and qi it is given in place.
        rows: of all users.
        arrays: bu, bi, pu and qi; after each epoch they hold what was trained so far.
        epochs: passes over all ratings.
        threads: by default as many as there are cores, at most `BLOCKS`.
    """
    bu, bi, pu, qi = arrays
    block, order = _even_blocks(np.bincount(rows.others, minlength=len(bi)))
    cuts = np.searchsorted(rows.starts, np.arange(BLOCKS + 1) * rows.starts[-1] // BLOCKS)
    cuts[-1] = len(bu)
    parts = list(_split_by_items(rows, block, order))
    # A block's items lie side by side, as threads slow each other where they write close by.
    own_bi, own_qi = bi[order], aligned_rows(qi[order])

    def run_cell(users: int, items: int) -> float:
        starts, others, ratings = parts[items]
        low, high = cuts[users], cuts[users + 1]
        part = Rows(starts[low : high + 1], others, ratings)
        return step(part, bu[low:high], own_bi, pu[low:high], own_qi)

    every = range(BLOCKS)
    threads = threads or min(BLOCKS, joblib.cpu_count())
    logger.info("training on %d threads", threads)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(epochs):
            squares = sum(
                sum(pool.map(run_cell, every, [(users + shift) % BLOCKS for users in every]))
                for shift in every
            )
            bi[order], qi[order] = own_bi, own_qi
            yield squares


def _even_blocks(counts: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return the block of each item, with even ratings, and the items block after block."""
    turn = np.arange(len(counts)) % (2 * BLOCKS)  # to and fro over the blocks
    block = np.empty(len(counts), dtype=np.uint8)
    block[np.argsort(-counts, kind="stable")] = np.minimum(turn, 2 * BLOCKS - 1 - turn)
    return block, np.argsort(block, kind="stable")


def _split_by_items(
    rows: Rows, block: NDArray[np.uint8], order: NDArray[np.intp]
) -> Iterator[Rows]:
    """Return the rows of all users in each block of items, numbered as in `order`."""
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order))
    block_of_rating = block[rows.others]
    for wanted in range(BLOCKS):
        here = np.flatnonzero(block_of_rating == wanted)
        starts = np.searchsorted(here, rows.starts)
        yield Rows(starts, number[rows.others[here]], rows.ratings[here])

"""The inner loop of SGD for matrix factorization with biases, compiled for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .jit import Argument, compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CACHE_LINE = 64
"""Bytes; vector instructions that cross such lines cost a quarter of the loop's speed."""


def aligned_rows(values: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of an array that begins at a cache line."""
    memory = np.empty(values.nbytes + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def epoch(
    starts: Any, items: Any, ratings: Any, mean: float, bu: Any, bi: Any, pu: Any, qi: Any,
    lr: float, reg: float,
) -> float:  # fmt: skip
    """Make one pass over all ratings, user after user; update bu, bi, pu and qi in place.

    For each rating r_ui, with e = r_ui - (mean + b_u + b_i + q_i . p_u):
    b_u += lr (e - reg b_u), b_i += lr (e - reg b_i), p_u += lr (e q_i - reg p_u) and
    q_i += lr (e p_u - reg q_i), both from the old values (Koren, Bell and Volinsky 2009).

    Args:
        starts: of each user's row and the end of the last, int64 (users + 1,).
        items: inner ids by row, int32 (n,).
        ratings: by row, float32 or float64 (n,).
        mean: of all ratings.
        bu: user biases, float64 (users,).
        bi: item biases, float64 (items,).
        pu: user factors, float64 (users, factors), C order.
        qi: item factors, float64 (items, factors), C order.
        lr: learning rate.
        reg: regularisation.

    Returns:
        The sum of e squared, each before its own step.
    """
    squares = 0.0
    factors = pu.shape[1]
    keep = 1.0 - lr * reg
    for user in range(len(starts) - 1):
        start, end = starts[user], starts[user + 1]
        if start == end:
            continue
        p = pu[user]
        b = bu[user]
        q = qi[items[start]]
        dot = 0.0
        for f in range(factors):
            dot += q[f] * p[f]
        for n in range(start, end):
            item = items[n]
            q = qi[item]
            error = ratings[n] - (mean + b + bi[item] + dot)
            squares += error * error
            b += lr * (error - reg * b)
            bi[item] += lr * (error - reg * bi[item])
            step = lr * error
            # The next rating's product is taken in the same pass, which halves the work on p. It
            # reads its item after this step's writes, as it may be the same item.
            following = qi[items[min(n + 1, end - 1)]]
            dot = 0.0
            for f in range(factors):
                p_f = p[f]
                q_f = q[f]
                p_new = keep * p_f + step * q_f
                p[f] = p_new
                q[f] = keep * q_f + step * p_f
                dot += following[f] * p_new
        bu[user] = b
    return squares


def compiled_epoch(ratings_type: str) -> Callable[..., float]:
    """Return `epoch`, compiled for ratings of this dtype; see `jit.compiled`."""
    rows = Argument("int64", 1), Argument("int32", 1), Argument(ratings_type, 1)
    number = Argument("float64")
    vector, matrix = Argument("float64", 1, changed=True), Argument("float64", 2, changed=True)
    return compiled(epoch, *rows, number, vector, vector, matrix, matrix, number, number)

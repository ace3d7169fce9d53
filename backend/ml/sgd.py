"""The inner loop of SGD for matrix factorization with biases, compiled for this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CACHE_LINE = 64
"""Bytes; vector instructions that cross such lines cost a quarter of the loop's speed."""


def aligned_rows(values: NDArray[Any]) -> NDArray[Any]:
    """A copy of an array that begins at a cache line."""
    import numpy as np

    memory = np.empty(values.nbytes + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def epoch(
    starts: Any, items: Any, ratings: Any, mean: float, bu: Any, bi: Any, pu: Any, qi: Any,
    lr: float, reg: float,
) -> float:  # fmt: skip
    """One pass over all ratings, user after user; updates bu, bi, pu and qi in place.

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


@cache
def compiled_epoch(ratings_type: str) -> Callable[..., float]:
    """`epoch`, compiled for ratings of this dtype; lets other threads run meanwhile.

    Arrays of another dtype, of another number of dimensions or not in C order are refused with
    `ctypes.ArgumentError`; sizes and ids are the caller's to check.
    """
    import ctypes

    from numpy.ctypeslib import ndpointer

    def array(dtype: str, dimensions: int = 1) -> Any:
        return ndpointer(dtype, dimensions, flags="C_CONTIGUOUS")

    vector, matrix, number, count = array("f8"), array("f8", 2), ctypes.c_double, ctypes.c_int64
    name = f"epoch_{ratings_type}"
    address = jit.load(Path(__file__), name, lambda: _to_llvm(ratings_type))
    compiled = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.POINTER(number), ctypes.POINTER(ctypes.c_void_p),
        count, count, count, array("i8"), array("i4"), array(ratings_type), number,
        vector, vector, matrix, matrix, number, number,
    )(address)  # fmt: skip

    def run(
        starts: Any, items: Any, ratings: Any, mean: float, bu: Any, bi: Any, pu: Any, qi: Any,
        lr: float, reg: float,
    ) -> float:  # fmt: skip
        squares = number()
        sizes = len(starts) - 1, *qi.shape
        arrays = bu, bi, pu, qi
        compiled(squares, ctypes.c_void_p(), *sizes, starts, items, ratings, mean, *arrays, lr, reg)
        return squares.value

    return run


def _to_llvm(ratings_type: str) -> tuple[str, str]:
    """`epoch` over pointers as LLVM IR made by numba, and the name of the function in it.

    numba's functions return a status and take two pointers before their arguments: where the
    result goes, and where an exception would.
    """
    from numba import carray, njit, types

    options: dict[str, Any] = {"fastmath": {"reassoc", "contract"}, "error_model": "numpy"}
    over_arrays = njit(**options)(epoch)

    def over_pointers(
        users: Any, n_items: Any, factors: Any, starts: Any, items: Any, ratings: Any, mean: Any,
        bu: Any, bi: Any, pu: Any, qi: Any, lr: Any, reg: Any,
    ) -> Any:  # fmt: skip
        n = starts[users]
        return over_arrays(
            carray(starts, users + 1), carray(items, n), carray(ratings, n), mean,
            carray(bu, users), carray(bi, n_items),
            carray(pu, (users, factors)), carray(qi, (n_items, factors)), lr, reg,
        )  # fmt: skip

    i64, f64, to = types.int64, types.float64, types.CPointer
    rating = getattr(types, ratings_type)
    signature = f64(
        i64, i64, i64, to(i64), to(types.int32), to(rating), f64,
        to(f64), to(f64), to(f64), to(f64), f64, f64,
    )  # fmt: skip
    compiled = njit(signature, **options)(over_pointers).overloads[signature.args]
    return compiled.library.get_llvm_str(), compiled.fndesc.llvm_func_name

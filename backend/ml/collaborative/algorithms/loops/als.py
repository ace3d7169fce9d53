"""The inner loop of alternating least squares, compiled for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .jit import Argument, compiled

if TYPE_CHECKING:
    from collections.abc import Callable


def solve_rows(
    first: int, last: int, starts: Any, others: Any, ratings: Any, liked: float, targets: Any,
    gram: Any, reg: float, reg_all: float, theirs: Any, mine: Any, a: Any, u: Any, eight: Any,
) -> float:  # fmt: skip
    """Solve the vectors of rows `first` to `last`, all else held still (Hu, Koren, Volinsky 2008).

    A row's vector p solves (gram + Q'Q + (reg n + reg_all) I) p = Q't, Q being the vectors of the n
    others that the row rated and t the targets of those ratings. The matrix is positive definite:
    it is factored as U'U (Cholesky), of which the upper half alone is made. All sums are float32.

    Args:
        first: the first row.
        last: the row after the last.
        starts: of each row's ratings, int64 (rows + 1,).
        others: the other side's id of each rating, int32 (n,).
        ratings: in stars, float32 or float64 (n,).
        liked: stars from which on a rating has the second target, below it the first.
        targets: float32 (2,).
        gram: the weighted sum of q q' over all of the other side, float32 (factors, factors).
        reg: regularisation for each rating of a row.
        reg_all: regularisation of every row.
        theirs: the other side's vectors, float32 (columns, factors).
        mine: float32 (rows, factors); its rows `first` to `last` are changed in place.
        a: scratch, float32 (factors, factors); the content of scratch does not matter.
        u: scratch, float32 (factors, factors).
        eight: scratch, float32 (8, factors).

    Returns:
        The number of ratings that were read.
    """
    factors = mine.shape[1]
    for row in range(first, last):
        start, end = starts[row], starts[row + 1]
        for f in range(factors):
            mine[row, f] = 0
            for g in range(f, factors):
                a[f, g] = gram[f, g]
            a[f, f] += reg * (end - start) + reg_all
        # Eight ratings are added at once, and rows of the matrix are slices from the diagonal on:
        # what is written so is compiled to vector instructions that wait least for the memory.
        for n in range(start, end, 8):
            for k in range(8):
                if n + k < end:
                    other, target = others[n + k], targets[int(ratings[n + k] >= liked)]
                    for f in range(factors):
                        eight[k, f] = theirs[other, f]
                        mine[row, f] += target * theirs[other, f]
                else:
                    for f in range(factors):
                        eight[k, f] = 0
            for f in range(factors):
                q0, q1, q2, q3 = eight[0, f:], eight[1, f:], eight[2, f:], eight[3, f:]
                q4, q5, q6, q7 = eight[4, f:], eight[5, f:], eight[6, f:], eight[7, f:]
                x0, x1, x2, x3 = q0[0], q1[0], q2[0], q3[0]
                x4, x5, x6, x7 = q4[0], q5[0], q6[0], q7[0]
                a_f = a[f, f:]
                for g in range(factors - f):
                    a_f[g] += (
                        x0 * q0[g] + x1 * q1[g] + x2 * q2[g] + x3 * q3[g]
                        + x4 * q4[g] + x5 * q5[g] + x6 * q6[g] + x7 * q7[g]
                    )  # fmt: skip
        # Row after row of U; and z of U'z = Q't, in the place of p.
        for f in range(factors):
            a_f, u_f = a[f, f:], u[f, f:]
            fours = f // 4 * 4
            for h in range(0, fours, 4):
                u0, u1, u2, u3 = u[h, f:], u[h + 1, f:], u[h + 2, f:], u[h + 3, f:]
                x0, x1, x2, x3 = u0[0], u1[0], u2[0], u3[0]
                for g in range(factors - f):
                    a_f[g] -= x0 * u0[g] + x1 * u1[g] + x2 * u2[g] + x3 * u3[g]
            for h in range(fours, f):
                u0 = u[h, f:]
                x0 = u0[0]
                for g in range(factors - f):
                    a_f[g] -= x0 * u0[g]
            root = a_f[0] ** 0.5
            p_f = mine[row, f:]
            p_f[0] /= root
            x0 = p_f[0]
            u_f[0] = root
            for g in range(1, factors - f):
                u_f[g] = a_f[g] / root
                p_f[g] -= x0 * u_f[g]
        for f in range(factors - 1, -1, -1):  # U p = z, from the last
            u_f, p_f = u[f, f:], mine[row, f:]
            total = p_f[0]
            for g in range(1, factors - f):
                total -= u_f[g] * p_f[g]
            p_f[0] = total / u_f[0]
    return float(starts[last] - starts[first])


def compiled_solve(ratings_type: str) -> Callable[..., float]:
    """Return `solve_rows`, compiled for ratings of this dtype; see `jit.compiled`."""
    whole, number = Argument("int64"), Argument("float64")
    matrix, changed = Argument("float32", 2), Argument("float32", 2, changed=True)
    return compiled(
        solve_rows, whole, whole, Argument("int64", 1), Argument("int32", 1),
        Argument(ratings_type, 1), number, Argument("float32", 1), matrix, number, number,
        matrix, changed, changed, changed, changed, apart=True,
    )  # fmt: skip

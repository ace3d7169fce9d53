"""The inner loop of alternating least squares, compiled for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .jit import Argument, compiled

if TYPE_CHECKING:
    from collections.abc import Callable


def solve_rows(
    first: int, last: int, starts: Any, others: Any, ratings: Any, liked: float, targets: Any,
    gram: Any, reg: float, reg_all: float, theirs: Any, mine: Any, a: Any,
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
        a: scratch, float32 (factors, factors); its content does not matter.

    Returns:
        The number of their ratings.
    """
    factors = mine.shape[1]
    for row in range(first, last):
        start, end = starts[row], starts[row + 1]
        p = mine[row]
        for f in range(factors):
            p[f] = 0
            for g in range(factors):
                a[f, g] = gram[f, g]
            a[f, f] += reg * (end - start) + reg_all
        for n in range(start, end):
            q = theirs[others[n]]
            t = targets[int(ratings[n] >= liked)]
            for f in range(factors):
                p[f] += t * q[f]
        # Rows of the matrix are slices from the diagonal on, four ratings are added at once: what
        # is written so is compiled to vector instructions that wait least for the memory.
        fours = start + (end - start) // 4 * 4
        for n in range(start, fours, 4):
            i0, i1, i2, i3 = others[n], others[n + 1], others[n + 2], others[n + 3]
            for f in range(factors):
                q0, q1, q2, q3 = theirs[i0, f:], theirs[i1, f:], theirs[i2, f:], theirs[i3, f:]
                x0, x1, x2, x3 = q0[0], q1[0], q2[0], q3[0]
                a_f = a[f, f:]
                for g in range(factors - f):
                    a_f[g] += x0 * q0[g] + x1 * q1[g] + x2 * q2[g] + x3 * q3[g]
        for n in range(fours, end):
            i0 = others[n]
            for f in range(factors):
                q0 = theirs[i0, f:]
                x0 = q0[0]
                a_f = a[f, f:]
                for g in range(factors - f):
                    a_f[g] += x0 * q0[g]
        # Row after row of U, in the place of the matrix; and z of U'z = Q't, in the place of p.
        for f in range(factors):
            a_f = a[f, f:]
            fours = f // 4 * 4
            for h in range(0, fours, 4):
                u0, u1, u2, u3 = a[h, f:], a[h + 1, f:], a[h + 2, f:], a[h + 3, f:]
                x0, x1, x2, x3 = u0[0], u1[0], u2[0], u3[0]
                for g in range(factors - f):
                    a_f[g] -= x0 * u0[g] + x1 * u1[g] + x2 * u2[g] + x3 * u3[g]
            for h in range(fours, f):
                u0 = a[h, f:]
                x0 = u0[0]
                for g in range(factors - f):
                    a_f[g] -= x0 * u0[g]
            root = a_f[0] ** 0.5
            for g in range(factors - f):
                a_f[g] /= root
            p[f] /= root
            p_f = p[f:]
            x0 = p_f[0]
            for g in range(1, factors - f):
                p_f[g] -= x0 * a_f[g]
        for f in range(factors - 1, -1, -1):  # U p = z, from the last
            a_f, p_f = a[f, f:], p[f:]
            total = p_f[0]
            for g in range(1, factors - f):
                total -= a_f[g] * p_f[g]
            p_f[0] = total / a_f[0]
    return float(starts[last] - starts[first])


def compiled_solve(ratings_type: str) -> Callable[..., float]:
    """`solve_rows`, compiled for ratings of this dtype; see `jit.compiled`."""
    whole, number = Argument("int64"), Argument("float64")
    matrix, changed = Argument("float32", 2), Argument("float32", 2, changed=True)
    return compiled(
        solve_rows, whole, whole, Argument("int64", 1), Argument("int32", 1),
        Argument(ratings_type, 1), number, Argument("float32", 1), matrix, number, number,
        matrix, changed, changed,
    )  # fmt: skip

"""One Gibbs step of a Bayesian factorization machine, compiled for this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .jit import Argument, compiled

if TYPE_CHECKING:
    from collections.abc import Callable


def sample_side(
    starts: Any, others: Any, other_starts: Any, raters: Any, weights: Any,
    residual: Any, mine: Any, theirs: Any, own: Any, seen: Any,
    noise_precision: float, means: Any, precisions: Any, own_normal: Any, seen_normal: Any,
    fixed: int, scratch: Any,
) -> float:  # fmt: skip
    """Draw all of one side's parameters, users' or items', from their conditional distributions.

    A rating is predicted by the inner product of a column of `mine` and one of `theirs`, where
    that of `mine` is own[:, r] + weights[r] * (the sum of seen[:, c] over what r rated). Given all
    others, each parameter is normal (Rendle 2012, section 4.1); they are drawn one by one, factor
    after factor, and `mine` and `residual` are kept up to date.

    What is said of rows is said of users when users are drawn, and of items when items are.

    Args:
        starts: of each row's ratings, int64 (rows + 1,).
        others: the other side's id of each rating, by row, int32 (n,).
        other_starts: of each column's ratings, int64 (columns + 1,).
        raters: the row of each rating, by column, int32 (n,).
        weights: of each row's sum over what it rated, float64 (rows,).
        residual: rating minus prediction, by row, float64 (n,).
        mine: float64 (factors, rows).
        theirs: float64 (factors, columns).
        own: float64 (factors, rows).
        seen: float64 (factors, columns).
        noise_precision: of a rating around its prediction.
        means: of own, and of seen, by factor, float64 (2, factors).
        precisions: of own, and of seen, by factor, float64 (2, factors).
        own_normal: standard normal draws, float64 (factors, rows).
        seen_normal: standard normal draws, float64 (factors, columns).
        fixed: the factor of `mine` that is constant.
        scratch: float64 (rows, 4).

    Returns:
        The sum of squared residuals. `residual`, `mine`, `own` and `seen` are changed in place.
    """
    factors, rows = mine.shape
    columns = theirs.shape[1]
    for row in range(rows):
        scratch[row, 3] = 0.0
    done = 0  # the factor whose change, scratch[:, 3], is not yet in the residual
    for factor in range(factors):
        if factor == fixed:
            continue
        for row in range(rows):
            change = scratch[row, 3]
            pull = 0.0
            information = 0.0
            for n in range(starts[row], starts[row + 1]):
                other = others[n]
                loading = theirs[factor, other]
                error = residual[n] - change * theirs[done, other]
                residual[n] = error
                pull += error * loading
                information += loading * loading
            precision = noise_precision * information + precisions[0, factor]
            before = own[factor, row]
            own[factor, row] = (
                noise_precision * (pull + before * information)
                + precisions[0, factor] * means[0, factor]
            ) / precision + own_normal[factor, row] / precision**0.5
            change = own[factor, row] - before
            scratch[row, 0] = weights[row] * (pull - change * information)
            scratch[row, 1] = weights[row] * weights[row] * information
            scratch[row, 2] = 0.0
            scratch[row, 3] = change
        for column in range(columns):
            pull = 0.0
            information = 0.0
            for n in range(other_starts[column], other_starts[column + 1]):
                row = raters[n]
                pull += scratch[row, 0]
                information += scratch[row, 1]
            precision = noise_precision * information + precisions[1, factor]
            before = seen[factor, column]
            seen[factor, column] = (
                noise_precision * (pull + before * information)
                + precisions[1, factor] * means[1, factor]
            ) / precision + seen_normal[factor, column] / precision**0.5
            change = seen[factor, column] - before
            for n in range(other_starts[column], other_starts[column + 1]):
                row = raters[n]
                scratch[row, 0] -= change * scratch[row, 1]
                scratch[row, 2] += change
        for row in range(rows):
            scratch[row, 3] += weights[row] * scratch[row, 2]
            mine[factor, row] += scratch[row, 3]
        done = factor
    squares = 0.0
    for row in range(rows):
        for n in range(starts[row], starts[row + 1]):
            residual[n] -= scratch[row, 3] * theirs[done, others[n]]
            squares += residual[n] * residual[n]
    return squares


def compiled_side() -> Callable[..., float]:
    """Return `sample_side`, compiled; see `jit.compiled`."""
    number, vector, matrix = Argument("float64"), Argument("float64", 1), Argument("float64", 2)
    rows = Argument("int64", 1), Argument("int32", 1)
    changed = Argument("float64", 2, changed=True)
    return compiled(
        sample_side, *rows, *rows, vector,
        Argument("float64", 1, changed=True), changed, matrix, changed, changed,
        number, matrix, matrix, matrix, matrix, Argument("int64"), changed,
    )  # fmt: skip

"""State how far each compiled loop is from what this machine can do.

Run it in `backend/`: python -m benchmarks.roofline [--ratings N]

A loop cannot be quicker than the bytes that it must move at the bandwidth of the memory (a triad,
McCalpin 1995), nor than its arithmetic at the processor's peak (a product of matrices): the larger
of the two is the floor (Williams, Waterman and Patterson 2009).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.make_archive import draw_ratings
from ml.collaborative.algorithms import bayesian, ranking, svd
from ml.collaborative.ratings import make_ratings
from ml.collaborative.trainset import ArrayTrainset, make_trainset

FACTORS = 100
"""Of the SVD."""


class Loop(NamedTuple):
    """One loop: what a pass over the ratings takes at least."""

    name: str
    seconds: float
    bytes: float
    """Read and written a rating, if each vector is in the cache as long as it is used and the
    rest comes from memory once: ids, ratings, and the vectors of both sides once a pass."""
    flops: float
    """A rating: multiplications and additions."""
    single: bool
    """Whether they are in single precision."""
    threads: int


def fastest(call: Callable[[], object], runs: int = 5) -> float:
    """Return the seconds of the fastest of some runs."""
    times = []
    for _ in range(runs):
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
    return min(times)


def measure_bandwidth(threads: int) -> float:
    """Return bytes a second of a = b + 3 c on arrays that no cache holds, in pieces that one does.

    NumPy has no fused triad; the product is written to a piece that stays in the cache.
    """
    size, piece = 1 << 24, 1 << 14
    arrays = [tuple(np.ones(size) for _ in range(3)) for _ in range(threads)]

    def triad(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        room = np.empty(piece)
        for start in range(0, size, piece):
            part = slice(start, start + piece)
            np.multiply(c[part], 3.0, out=room)
            np.add(b[part], room, out=a[part])

    with ThreadPoolExecutor(threads) as pool:
        seconds = fastest(lambda: list(pool.map(lambda three: triad(*three), arrays)))
    return 3 * 8 * size * threads / seconds


def measure_peak(threads: int, *, single: bool) -> float:
    """Return flops a second of a product of matrices."""
    size = 2048
    a = np.ones((size, size), dtype=np.float32 if single else np.float64)
    with threadpool_limits(threads):
        return 2 * size**3 / fastest(lambda: a @ a)


def measure_svd(trainset: ArrayTrainset, *, parallel: bool) -> Loop:
    """Measure an epoch of SGD: the difference of eleven epochs and one."""
    long, short = (
        fastest(
            lambda: svd.fit_svd(
                trainset, factors=FACTORS, epochs=epochs, lr=0.005, reg=0.02, seed=0,  # noqa: B023
                parallel=parallel,
            ), 3,
        )
        for epochs in (11, 1)
    )  # fmt: skip
    vectors = 8 * FACTORS * (trainset.n_users + trainset.n_items) * 2 / trainset.n_ratings
    threads = min(4, os.cpu_count() or 1) if parallel else 1
    # A step: 2 flops a factor for the error's product, 3 for each of the two updates.
    return Loop(
        "SGD on several threads" if parallel else "SGD", (long - short) / 10, 8 + vectors,
        8 * FACTORS, single=False, threads=threads,
    )  # fmt: skip


def measure_gibbs(trainset: ArrayTrainset) -> Loop:
    """Measure a sweep of one chain."""
    sweeps = bayesian._Problem(trainset).sample(np.random.SeedSequence(0), 4)
    next(sweeps)
    seconds = fastest(lambda: next(sweeps), 3)
    # Factor after factor, for each side, all ratings pass: an id and a residual, which is written
    # back, and twice the id by the other side; six operations on them and five on what is rated.
    passes = 2 * (bayesian.RANK + 1)
    return Loop(
        "Gibbs sweep, one chain", seconds, passes * (4 + 8 + 8 + 2 * 4), 11 * passes,
        single=False, threads=1,
    )  # fmt: skip


def measure_als(trainset: ArrayTrainset) -> Loop:
    """Measure an alternation of graded iALS, both sides."""
    factors, threads = ranking.FACTORS, os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(1):
        seconds = (
            fastest(lambda: ranking._fit_ials(trainset, 0.01, 0, pool, lambda _: None), 2)
            / ranking.ALTERNATIONS
        )
    rows = trainset.n_users + trainset.n_items
    moved = 2 * (8 + 2 * 4 * factors * rows / trainset.n_ratings)
    work = 2 * factors * (factors + 1) / 2 + 2 * factors
    solve = factors**3 / 3 * rows / trainset.n_ratings
    return Loop("ALS alternation", seconds, moved, 2 * work + solve, single=True, threads=threads)


def measure(trainset: ArrayTrainset) -> Iterator[Loop]:
    """Yield the loops as they are measured."""
    yield measure_svd(trainset, parallel=False)
    yield measure_svd(trainset, parallel=True)
    yield measure_gibbs(trainset)
    yield measure_als(trainset)


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ratings", type=int, default=1_000_000)
    args = parser.parse_args()
    drawn = draw_ratings(args.ratings, args.ratings // 160, args.ratings // 370)
    users = "ml_" + drawn["userId"].astype("str")
    trainset = make_trainset(make_ratings(users, drawn["movieId"], drawn["rating"]))
    cores = os.cpu_count() or 1
    bandwidth, peak = {}, {}
    for threads in {1, min(4, cores), cores}:  # several threads of SGD are at most four
        bandwidth[threads] = measure_bandwidth(threads)
        for single in (False, True):
            peak[threads, single] = measure_peak(threads, single=single)
    print("| threads | GB/s | double, Gflop/s | single, Gflop/s |\n|---:|---:|---:|---:|")
    for threads, moved in sorted(bandwidth.items()):
        rates = (peak[threads, single] / 1e9 for single in (False, True))
        print(f"| {threads} | {moved / 1e9:.1f} | {' | '.join(f'{rate:.0f}' for rate in rates)} |")
    print(f"\n| a pass over {args.ratings:,} ratings | ns a rating | bytes | flops ", end="")
    print("| floor of memory, ns | floor of arithmetic, ns | times the floor |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for loop in measure(trainset):
        took = 1e9 * loop.seconds / args.ratings
        threads = min(loop.threads, cores)
        floors = (
            1e9 * loop.bytes / bandwidth[threads], 1e9 * loop.flops / peak[threads, loop.single]
        )  # fmt: skip
        print(
            f"| {loop.name} | {took:.1f} | {loop.bytes:.0f} | {loop.flops:.0f} | {floors[0]:.1f} | "
            f"{floors[1]:.1f} | {took / max(floors):.1f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""Load the example service over HTTP while releases change; measure memory over many reloads.

Run it in `backend/`: python -m benchmarks.load [--seconds N] [--every N] [--workers N] [--flips N]
[--data-dir DIR]. An hour: --seconds 3600 --every 30 --flips 0
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.service_load import (
    CONNECTIONS,
    Load,
    Memory,
    Publisher,
    Ranking,
    Service,
    Users,
    as_ranking,
    drive,
    make_users,
    memory,
    same,
    serve,
)
from ml.build_collaborative import train_svd_model
from ml.collaborative.datasets import movielens
from ml.collaborative.paths import DATA_DIR
from ml.collaborative.release import ReleaseStore
from ml.collaborative.release.live import RELEASES
from ml.collaborative.serving.model import CollaborativeModel, load_collaborative

STEPS = 10
"""Times that memory is looked at."""

# Load


class Outcome(NamedTuple):
    """What a service did under load."""

    load: Load
    published: int
    switches: int
    seen: set[str]
    """Releases that were recognised in answers."""
    mixed: list[str]
    """Answers that fit no release, with their user."""
    memory: dict[float, list[Memory]]
    """Of each service, by seconds of load."""


def run_load(
    services: Sequence[Service], publisher: Publisher, seconds: float, every: float = 1.0
) -> Outcome:
    """Load services that have their users' ratings, while releases are published.

    Load and publisher are processes of their own.

    Args:
        services: one, or several that share the releases as uvicorn's workers do.
        publisher: has published what they serve.
        seconds: how long.
        every: seconds from one switch to the next.
    """
    users = list(publisher.users)
    ports = [service.port for service in services]
    before = drive(ports, users, 1)  # every page it needs is touched
    sizes = {0.0: [service.memory() for service in services]}
    began = time.monotonic()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        switching = pool.submit(publisher.go_on, seconds, every)
        driving = pool.submit(drive, ports, users, seconds)
        for step in range(1, STEPS + 1):
            time.sleep(max(0.0, began + seconds * step / STEPS - time.monotonic()))
            sizes[seconds * step / STEPS] = [service.memory() for service in services]
        load, after = driving.result(), switching.result()
    seen, mixed = set(), []
    for user, n, body in before.answers | load.answers:
        found = as_ranking(json.loads(body))
        fitting = [
            build_id
            for build_id, by in after.expected.items()
            if same(found, Ranking(by[user].films[:n], by[user].scores[:n]))
        ]
        if not fitting:
            mixed.append(f"{user}, {n} films: {found}")
        elif len(fitting) == 1:
            seen.update(fitting)
    load.failures.extend(before.failures)
    return Outcome(load, len(after.expected), after.switches, seen, mixed, sizes)


def put_ratings(service: Service, users: Users) -> None:
    """Put all ratings over HTTP."""
    for user, rated in users.items():
        for film, stars in rated.items():
            if service.rate(user, film, stars) != 200:
                raise RuntimeError(f"{user} could not rate {film}")


# Many reloads


class Flips(NamedTuple):
    """What a model did over many reloads."""

    reloads: int
    predictions: int
    wrong: int
    """Predictions that do not fit one release entirely."""
    memory: dict[int, float]
    """MiB by reloads done."""


def flip(
    models: Path, ids: tuple[str, str], flips: int, measure: Sequence[int] = (), threads: int = 1
) -> Flips:
    """Make two releases live in turn, reload a model each time, with threads predicting."""
    alone = [load_collaborative(models / RELEASES / build_id) for build_id in ids]
    films = np.concatenate([alone[0].movie_ids, [0, -1]])
    rated = dict(zip(films[:20:2].tolist(), [1.0, 5.0] * 5, strict=True))
    right = [_ask(one, films, rated) for one in alone]
    model, ended = load_collaborative(models), Event()
    counts, sizes, reloads = [[0, 0] for _ in range(threads)], {}, 0

    def predict(count: list[int]) -> None:
        while not ended.wait(0.001):
            for found, *expected in zip(_ask(model, films, rated), *right, strict=True):
                count[0] += 1
                count[1] += not any(np.array_equal(found, one) for one in expected)

    running = [Thread(target=predict, args=(count,)) for count in counts]
    for thread in running:
        thread.start()
    try:
        for number in range(1, flips + 1):
            ReleaseStore(models).roll_back(ids[number % 2])
            reloads += model.reload_if_changed()
            if number in measure:
                sizes[number] = memory()
    finally:
        ended.set()
        for thread in running:
            thread.join()
    predictions, wrong = (sum(column) for column in zip(*counts, strict=True))
    return Flips(reloads, predictions, wrong, sizes)


def _ask(
    model: CollaborativeModel, films: NDArray[Any], rated: Mapping[int, float]
) -> list[NDArray[Any]]:
    """Return predictions for a trained and a folded-in user, and a ranking."""
    folded = model.fold_in(rated)
    return [
        model.predict(next(iter(model._snapshot.users)), films),
        model.predict(folded, films),
        np.array(model.recommend(folded)),
    ]


# Printing


def describe_load(outcome: Outcome) -> list[str]:
    """Return the lines of a Markdown table."""
    load = outcome.load
    count = len(next(iter(outcome.memory.values())))
    requests = sum(map(len, load.times.values()))
    rows = []
    for n, times in load.times.items():
        middle, slow = np.percentile(times, [50, 99])
        cells = f"{middle:.1f} / {slow:.1f} / {max(times):.1f}"
        rows.append(f"| ms, median / 99th percentile / most, {n:,} films asked for | {cells} |")
    return [
        f"| the example service under load, {count} processes | |",
        "|---|---:|",
        f"| requests | {requests:,} |",
        f"| requests a second, {CONNECTIONS} connections | {requests / load.seconds:,.0f} |",
        f"| failed requests | {len(load.failures)} |",
        f"| releases published, switches under load | {outcome.published}, {outcome.switches} |",
        f"| releases seen in answers | {len(outcome.seen)} |",
        f"| answers of no release or a mixed one | {len(outcome.mixed)} |",
        *rows,
        "",
        "| seconds | MiB resident, each process | own | all together, shared parts once |",
        "|---:|---:|---:|---:|",
        *(_describe_memory(when, sizes) for when, sizes in outcome.memory.items()),
    ]


def _describe_memory(when: float, sizes: Sequence[Memory]) -> str:
    """Return a row: means over the processes, and their sum."""
    resident, own, proportional = np.mean(sizes, axis=0)
    return f"| {when:,.0f} | {resident:.1f} | {own:.1f} | {proportional * len(sizes):.1f} |"


def load_real(table: pd.DataFrame, seconds: float, every: float, workers: int) -> Outcome:
    """Load services with models of a ratings table."""
    bases = [train_svd_model(table, seed=seed) for seed in (0, 1)]
    users = make_users(bases[0][1].raw_items())
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        publisher = Publisher(models, users, bases)
        publisher.publish()
        build_id = publisher.publish()
        with ExitStack() as stack:
            services = [
                stack.enter_context(serve(models, Path(name, f"log-{n}"))) for n in range(workers)
            ]
            for service in services:
                service.wait_for(build_id)
                put_ratings(service, users)
            return run_load(services, publisher, seconds, every)


def flip_real(table: pd.DataFrame, flips: int) -> Flips:
    """Reload two models of a ratings table many times, in its own process."""
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        first, second = (
            ReleaseStore(models).publish(*train_svd_model(table, seed=seed)).name for seed in (0, 1)
        )
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measure = (flips // 10, flips)
            return pool.submit(flip, models, (first, second), flips, measure).result()


def main() -> int:
    """Print Markdown tables; return 1 if an answer failed or was mixed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--every", type=float, default=1, help="seconds between switches")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--flips", type=int, default=10_000)
    args = parser.parse_args()
    table = movielens.load("ml-100k", args.data_dir, None).ratings
    outcome = load_real(table, args.seconds, args.every, args.workers)
    print(*describe_load(outcome), sep="\n", flush=True)
    for line in [*outcome.load.failures[:5], *outcome.mixed[:5]]:
        print(line, file=sys.stderr)
    if not args.flips:
        return int(bool(outcome.load.failures or outcome.mixed))
    began = time.monotonic()
    flips = flip_real(table, args.flips)
    print("\n| reloads of ML-100K, 100 factors, a thread predicting | MiB in memory |\n|---|---:|")
    for number, size in flips.memory.items():
        print(f"| after {number:,} | {size:.1f} |")
    print(
        f"\n{flips.reloads:,} reloads in {time.monotonic() - began:.0f} s; {flips.predictions:,} "
        f"predictions meanwhile, {flips.wrong} of them not of one release"
    )
    return int(bool(outcome.load.failures or outcome.mixed or flips.wrong))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())

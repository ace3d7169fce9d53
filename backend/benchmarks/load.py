"""The example service under load over HTTP while releases come and go; memory over many reloads.

Run it in `backend/`: python -m benchmarks.load [--seconds N] [--flips N] [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from surprise import SVD, Trainset

from examples.fusion_service import catalog, content_scores
from ml import movielens
from ml.build_collaborative import train_svd_model
from ml.files import locked
from ml.live import RELEASES, switch
from ml.publishing import publish, roll_back
from ml.serving import CollaborativeModel, load_collaborative

BACKEND = Path(__file__).resolve().parents[1]
CONNECTIONS = 4
MOST_REQUESTS = 1_000_000
RELOAD_SECONDS = 0.1
RATED = (0, 3, 10, 30)
"""How many ratings the users have, in turn."""

Users = Mapping[str, Mapping[int, float]]
"""Stars by film by user."""
TOP, LONG = 10, 4_000
"""Films asked for. The top of the catalog has no film that a model knows; so far down, many are."""


class Ranking(NamedTuple):
    """What a user gets, best first."""

    films: NDArray[np.int64]
    scores: NDArray[np.float64]


Expected = dict[str, dict[str, Ranking]]
"""What each user is to get, by release."""


class Service:
    """The example service in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.port = 0

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and content of one answer, over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def rate(self, user: str, movie_id: int, stars: float) -> int:
        """Put a rating; the status of the answer."""
        return self.get(f"/users/{user}/ratings/{movie_id}?stars={stars}", "PUT")[0]

    def recommend(self, user: str, n: int = 10) -> Ranking:
        """A user's films and scores."""
        status, found = self.get(f"/users/{user}/recommendations?n={n}")
        if status != 200:
            raise RuntimeError(f"{status}: {found}")
        return as_ranking(found)

    def release(self) -> str | None:
        """Build id of the release that it serves."""
        found: str | None = self.get("/health")[1]["release"]
        return found

    def wait_for(self, build_id: str) -> None:
        """Return once it serves this release."""
        wait_until(lambda: self.release() == build_id, f"release {build_id} to be served")

    def memory(self) -> float:
        """MiB of it in memory."""
        return memory(self.process.pid)


def memory(process: int | str = "self") -> float:
    """MiB of a process in memory."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def wait_until(done: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Ask `done` again and again until it says so.

    Raises:
        TimeoutError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


@contextmanager
def serve(models: Path, log: Path) -> Iterator[Service]:
    """The example service on a free port of this machine alone, until the block ends.

    Args:
        models: its models folder.
        log: where its log goes.
    """
    command = "-m uvicorn examples.fusion_service:app --host 127.0.0.1 --port 0 --no-access-log"
    env = {"MODELS_DIR": str(models), "RELOAD_SECONDS": str(RELOAD_SECONDS)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=BACKEND,
            env=os.environ | env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        service = Service(process, log)
        try:
            wait_until(lambda: _is_up(service), "the service to start")
            yield service
        finally:
            process.terminate()
            process.wait(30)


def _is_up(service: Service) -> bool:
    text = service.log.read_text("utf-8")
    if service.process.poll() is not None:
        raise RuntimeError(f"the service ended: {text}")
    port = re.search(r"running on http://127\.0\.0\.1:(\d+)", text)
    if port is None:
        return False
    service.port = int(port[1])
    return service.get("/health")[0] == 200


# What the answers are to be


def weight_of(rated: int) -> float:
    """What the collaborative score counts for a user with so many ratings."""
    if rated >= 20:
        return 0.7
    return 0.3 * rated / 20 if rated >= 5 else 0.0


def expect(model: CollaborativeModel | None, rated: Mapping[int, float], n: int = TOP) -> Ranking:
    """The answer that a user with these ratings is to get, from one release, or from none."""
    scores, weight = content_scores.copy(), weight_of(len(rated))
    if model is not None and weight:
        known = model.knows_movies(catalog)
        found = model.predict(model.fold_in(rated), catalog[known])
        scores[known] = (1 - weight) * scores[known] + weight * found
    left = np.array([film not in rated for film in catalog.tolist()])
    order = np.lexsort((catalog[left], -scores[left]))[:n]
    return Ranking(catalog[left][order], scores[left][order])


def as_ranking(answer: Sequence[Mapping[str, float]]) -> Ranking:
    """Of the content of an answer."""
    films = [film["movie_id"] for film in answer]
    return Ranking(np.array(films), np.array([film["score"] for film in answer]))


def same(found: Ranking, expected: Ranking) -> bool:
    """Whether the films are the same, in this order, with scores that differ by 1e-9 at most."""
    return np.array_equal(found.films, expected.films) and bool(
        (np.abs(found.scores - expected.scores) <= 1e-9).all()
    )


def make_users(movie_ids: Sequence[int], each: int = 5) -> dict[str, dict[int, float]]:
    """Users with 0, 3, 10 and 30 ratings, a tenth of them of films that no model knows."""
    rng = np.random.default_rng(0)
    films = np.union1d(movie_ids, rng.choice(catalog, len(movie_ids) // 9, replace=False))
    return {
        f"user-{rated}-{n}": {
            film: float(rng.integers(1, 11)) / 2
            for film in rng.choice(films, rated, replace=False).tolist()
        }
        for rated in RATED
        for n in range(each)
    }


# Releases that come and go


@dataclass
class Publisher:
    """Publishes releases, each of them another model, and knows what users get from each."""

    models: Path
    users: Users
    bases: Sequence[tuple[SVD, Trainset]]
    expected: Expected = field(default_factory=dict)
    switches: int = 0

    def publish(self) -> str:
        """Publish the next model: one of the bases in turn, its films' factors moved a little."""
        number = len(self.expected)
        svd, trainset = self.bases[number % len(self.bases)]
        svd, rng = copy.copy(svd), np.random.default_rng(number)
        svd.bi = svd.bi + rng.normal(0, 0.1, svd.bi.shape)
        svd.qi = svd.qi + rng.normal(0, 0.05, svd.qi.shape)
        folder = publish(svd, trainset, self.models)
        # Later ones may push it out, so what it says is asked at once.
        alone = load_collaborative(folder)
        self.expected[folder.name] = {
            user: expect(alone, rated, LONG) for user, rated in self.users.items()
        }
        return folder.name

    def go_on(self, seconds: float, every: float) -> Publisher:
        """Publish, publish, roll back, and so on, for so long; itself, as a process returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() + every < end:
            time.sleep(every)
            self.switches += 1
            if self.switches % 3:
                self.publish()
            else:
                roll_back(self.models, "")
        return self


# Load


class Load(NamedTuple):
    """What a load generator saw."""

    seconds: float
    times: dict[int, list[float]]
    """Of every request, in ms, by the films asked for."""
    failures: list[str]
    answers: set[tuple[str, int, bytes]]
    """Which user got which answer when asking for how many films."""


def drive(port: int, users: Sequence[str], seconds: float, connections: int) -> Load:
    """Ask for recommendations over several connections at once, as fast as answers come.

    Nine in ten requests are for the top of the ranking, the others for much of it.
    """
    began = time.monotonic()
    loads = [Load(seconds, {TOP: [], LONG: []}, [], set()) for _ in range(connections)]
    threads = [
        Thread(target=_drive_one, args=(port, users, began + seconds, seed, load))
        for seed, load in enumerate(loads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Load(
        time.monotonic() - began,
        {n: [ms for load in loads for ms in load.times[n]] for n in (TOP, LONG)},
        [failure for load in loads for failure in load.failures],
        set().union(*(load.answers for load in loads)),
    )


def _drive_one(port: int, users: Sequence[str], end: float, seed: int, load: Load) -> None:
    rng = np.random.default_rng(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(MOST_REQUESTS // CONNECTIONS):
            if time.monotonic() > end:
                break
            user, n = users[rng.integers(len(users))], LONG if rng.random() < 0.1 else TOP
            began = time.perf_counter()
            try:
                connection.request("GET", f"/users/{user}/recommendations?n={n}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    load.answers.add((user, n, body))
                else:
                    load.failures.append(f"{user}: {answer.status} {body[:200]!r}")
            except (OSError, HTTPException) as error:
                load.failures.append(f"{user}: {error!r}")
                connection.close()  # the next request opens it again
            load.times[n].append(1e3 * (time.perf_counter() - began))
    finally:
        connection.close()


class Outcome(NamedTuple):
    """How a service held under load."""

    load: Load
    published: int
    switches: int
    seen: set[str]
    """Releases that alone have an answer that was given."""
    mixed: list[str]
    """Answers that are of no release, with their user."""
    memory: tuple[float, float]
    """MiB at the start and at the end."""


def run_load(service: Service, publisher: Publisher, seconds: float, every: float = 1.0) -> Outcome:
    """Load on a service that has its users' ratings, while the publisher goes on.

    Each of the two is a process of its own.

    Args:
        service: the service.
        publisher: has published what the service serves.
        seconds: how long.
        every: seconds from one switch to the next.
    """
    users = list(publisher.users)
    before = drive(service.port, users, 1, CONNECTIONS)  # every page it needs is touched
    start = service.memory()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        switching = pool.submit(publisher.go_on, seconds, every)
        driving = pool.submit(drive, service.port, users, seconds, CONNECTIONS)
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
    sizes = start, service.memory()
    return Outcome(load, len(after.expected), after.switches, seen, mixed, sizes)


def put_ratings(service: Service, users: Users) -> None:
    """Put all ratings over HTTP."""
    for user, rated in users.items():
        for film, stars in rated.items():
            if service.rate(user, film, stars) != 200:
                raise RuntimeError(f"{user} could not rate {film}")


# Many reloads


class Flips(NamedTuple):
    """How a model held over many reloads."""

    reloads: int
    predictions: int
    wrong: int
    """Predictions that are not those of one of the releases, wholly."""
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
            with locked(models):
                switch(models, ids[number % 2])
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
    """Predictions for a user of the training and for one folded in, and a ranking."""
    folded = model.fold_in(rated)
    return [
        model.predict(next(iter(model._snapshot.users)), films),
        model.predict(folded, films),
        np.array(model.recommend(folded)),
    ]


# Printing


def describe_load(outcome: Outcome) -> list[str]:
    """The lines of a Markdown table."""
    load, (start, end) = outcome.load, outcome.memory
    requests = sum(map(len, load.times.values()))
    rows = []
    for n, times in load.times.items():
        middle, slow = np.percentile(times, [50, 99])
        cells = f"{middle:.1f} / {slow:.1f} / {max(times):.1f}"
        rows.append(f"| ms, median / 99th percentile / most, {n:,} films asked for | {cells} |")
    return [
        "| the example service under load | |",
        "|---|---:|",
        f"| requests | {requests:,} |",
        f"| requests a second, {CONNECTIONS} connections | {requests / load.seconds:,.0f} |",
        f"| failed requests | {len(load.failures)} |",
        f"| releases published, switches under load | {outcome.published}, {outcome.switches} |",
        f"| releases seen in answers | {len(outcome.seen)} |",
        f"| answers of no release or a mixed one | {len(outcome.mixed)} |",
        *rows,
        f"| MiB in memory, start / end | {start:.1f} / {end:.1f} |",
    ]


def load_real(table: pd.DataFrame, seconds: float) -> Outcome:
    """Load on a service with models of a ratings table."""
    bases = [train_svd_model(table, seed=seed) for seed in (0, 1)]
    users = make_users(bases[0][1].raw_items())
    with tempfile.TemporaryDirectory() as name:
        models = Path(name, "models")
        publisher = Publisher(models, users, bases)
        publisher.publish()
        build_id = publisher.publish()
        with serve(models, Path(name, "log")) as service:
            service.wait_for(build_id)
            put_ratings(service, users)
            return run_load(service, publisher, seconds)


def flip_real(table: pd.DataFrame, flips: int) -> Flips:
    """Many reloads of two models of a ratings table, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        first, second = (
            publish(*train_svd_model(table, seed=seed), models).name for seed in (0, 1)
        )
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measure = (flips // 10, flips)
            return pool.submit(flip, models, (first, second), flips, measure).result()


def main() -> int:
    """Print Markdown tables; 1 where an answer failed or was mixed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=movielens.DEFAULT_DATA_DIR)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--flips", type=int, default=10_000)
    args = parser.parse_args()
    table = movielens.load("ml-100k", args.data_dir, None).ratings
    outcome = load_real(table, args.seconds)
    print(*describe_load(outcome), sep="\n", flush=True)
    for line in [*outcome.load.failures[:5], *outcome.mixed[:5]]:
        print(line, file=sys.stderr)
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

"""Run the example service, its clients and its publisher, and know the right answers."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from surprise import SVD, Trainset

from examples.fusion_service import catalog, content_scores
from ml.collaborative.release import ReleaseStore
from ml.collaborative.serving.model import CollaborativeModel, load_collaborative

BACKEND = Path(__file__).resolve().parents[1]
CONNECTIONS = 4
MOST_REQUESTS = 10_000_000
RELOAD_SECONDS = 0.1
RATED = (0, 3, 10, 30)
"""Numbers of ratings that the users have, in turn."""

Users = Mapping[str, Mapping[int, float]]
"""Stars by user and film."""
TOP, LONG = 10, 4_000
"""Films asked for: the top has no film that a model knows, the long list has many."""


class Ranking(NamedTuple):
    """A user's films and scores, best first."""

    films: NDArray[np.int64]
    scores: NDArray[np.float64]


class Memory(NamedTuple):
    """Memory of a process in MiB."""

    resident: float
    own: float
    """Shared with no other process and no file."""
    proportional: float
    """Its own, and its share of what several processes have mapped: sums over processes add up."""


class Service:
    """The example service in its own process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.port = 0

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Return status and content of one answer, over its own connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def rate(self, user: str, movie_id: int, stars: float) -> int:
        """Put a rating; return the status of the answer."""
        return self.get(f"/users/{user}/ratings/{movie_id}?stars={stars}", "PUT")[0]

    def recommend(self, user: str, n: int = 10) -> Ranking:
        """Return a user's films and scores."""
        status, found = self.get(f"/users/{user}/recommendations?n={n}")
        if status != 200:
            raise RuntimeError(f"{status}: {found}")
        return as_ranking(found)

    def release(self) -> str | None:
        """Return the build id of the release that it serves."""
        found: str | None = self.get("/health")[1]["release"]
        return found

    def wait_for(self, build_id: str) -> None:
        """Wait until it serves this release."""
        wait_until(lambda: self.release() == build_id, f"release {build_id} to be served")

    def memory(self) -> Memory:
        """Return what memory it has now."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("ascii")
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
        return Memory(*(int(sizes[name]) / 1024 for name in ("Rss", "Anonymous", "Pss")))


def memory(process: int | str = "self") -> float:
    """Return a process's resident memory in MiB."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def wait_until(done: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Call `done` until it returns true.

    Raises:
        TimeoutError: it does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


@contextmanager
def serve(models: Path, log: Path, python: str | Path = sys.executable) -> Iterator[Service]:
    """Run the example service on a free port of 127.0.0.1 until the block ends.

    Args:
        models: its models folder.
        log: where its log goes.
        python: the interpreter it runs in.
    """
    command = "-m uvicorn examples.fusion_service:app --host 127.0.0.1 --port 0 --no-access-log"
    env = {"MODELS_DIR": str(models), "RELOAD_SECONDS": str(RELOAD_SECONDS)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python, *command.split()],
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
    """Return the weight of the collaborative score for a user with so many ratings."""
    if rated >= 20:
        return 0.7
    return 0.3 * rated / 20 if rated >= 5 else 0.0


def expect(model: CollaborativeModel | None, rated: Mapping[int, float], n: int = TOP) -> Ranking:
    """Return the right answer for a user with these ratings, from one release or from none."""
    scores, weight = content_scores.copy(), weight_of(len(rated))
    if model is not None and weight:
        known = model.knows_movies(catalog)
        found = model.scores(model.fold_in(rated), catalog[known])
        scores[known] = (1 - weight) * scores[known] + weight * found
    left = np.array([film not in rated for film in catalog.tolist()])
    order = np.lexsort((catalog[left], -scores[left]))[:n]
    return Ranking(catalog[left][order], scores[left][order])


def as_ranking(answer: Sequence[Mapping[str, float]]) -> Ranking:
    """Return the ranking in the content of an answer."""
    films = [film["movie_id"] for film in answer]
    return Ranking(np.array(films), np.array([film["score"] for film in answer]))


def same(found: Ranking, expected: Ranking) -> bool:
    """Return whether films and order are the same, and scores differ by at most 1e-9."""
    return np.array_equal(found.films, expected.films) and bool(
        (np.abs(found.scores - expected.scores) <= 1e-9).all()
    )


def make_users(movie_ids: Sequence[int], each: int = 5) -> dict[str, dict[int, float]]:
    """Return users with 0, 3, 10 and 30 ratings, a tenth of them of films no model knows."""
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
    """A publisher of ever different models, which knows what users get from each."""

    models: Path
    users: Users
    bases: Sequence[tuple[SVD, Trainset]]
    expected: dict[str, dict[str, Ranking]] = field(default_factory=dict)
    """The right answer for each user, by release."""
    switches: int = 0

    def publish(self) -> str:
        """Publish the next model: one of the bases in turn, with slightly changed film factors."""
        number = len(self.expected)
        svd, trainset = self.bases[number % len(self.bases)]
        svd, rng = copy.copy(svd), np.random.default_rng(number)
        svd.bi = svd.bi + rng.normal(0, 0.1, svd.bi.shape)
        svd.qi = svd.qi + rng.normal(0, 0.05, svd.qi.shape)
        folder = ReleaseStore(self.models).publish(svd, trainset)
        # A later publish may delete it, so its answers are computed at once.
        alone = load_collaborative(folder)
        self.expected[folder.name] = {
            user: expect(alone, rated, LONG) for user, rated in self.users.items()
        }
        return folder.name

    def go_on(self, seconds: float, every: float) -> Publisher:
        """Publish twice, roll back, and so on, for so long; return itself, for a process pool."""
        end = time.monotonic() + seconds
        while time.monotonic() + every < end:
            time.sleep(every)
            self.switches += 1
            if self.switches % 3:
                self.publish()
            else:
                ReleaseStore(self.models).roll_back()
        return self


# Clients


class Load(NamedTuple):
    """What a load generator saw."""

    seconds: float
    times: dict[int, list[float]]
    """Times of all requests in ms, by the number of films asked for."""
    failures: list[str]
    answers: set[tuple[str, int, bytes]]
    """User, number of films asked for, answer."""


def drive(ports: Sequence[int], users: Sequence[str], seconds: float) -> Load:
    """Ask for recommendations over several connections at once, as fast as answers come.

    The connections go to the services in turn. Nine in ten requests are for the top of the
    ranking, the others for much of it.
    """
    began = time.monotonic()
    loads = [Load(seconds, {TOP: [], LONG: []}, [], set()) for _ in range(CONNECTIONS)]
    threads = [
        Thread(
            target=_drive_one, args=(ports[seed % len(ports)], users, began + seconds, seed, load)
        )
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

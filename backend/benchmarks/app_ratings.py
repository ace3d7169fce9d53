"""Measure how the app's ratings are read over REST and straight from Postgres: speed, memory.

    python -m benchmarks.app_ratings [--round-trip MS] [ROWS ...]

Both read one PostgreSQL (from a wheel, over its Unix socket), each in its own process. The REST
interface is that of the tests: a Python server that answers as PostgREST does, 1,000 rows a page.
With --round-trip both are read through a relay that delays each way by half of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

TESTS = Path(__file__).parents[1] / "tests"
ROUNDS = 3


def main() -> None:
    """Print a table; with the one argument `read`, be the process that reads."""
    if sys.argv[1:] == ["read"]:
        read()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--round-trip", type=float, default=0.0, metavar="MS")
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from app_source import direct_url
    from postgrest_server import SupabaseServer, running_database

    print(f"{'rows':>9} {'way':9} {'seconds':>8} {'rows/s':>10} {'peak MiB':>9}  over its imports")
    with running_database() as database:
        server = SupabaseServer(database)
        server.create_table(
            "user_id uuid, movie_id int, rating real, primary key (user_id, movie_id)"
        )
        rest_url, direct = server.url, direct_url(database)
        if args.round_trip:
            way = args.round_trip / 2000
            port = urlsplit(server.url).port
            rest_url = f"http://127.0.0.1:{delayed(('127.0.0.1', port), way)}"
            path = f"{database.info.host}/.s.PGSQL.{database.info.port}"
            direct = f"postgresql://postgres@127.0.0.1:{delayed(path, way)}/postgres"
        ways = {
            "REST": {
                "SUPABASE_URL": rest_url,
                "SUPABASE_SERVICE_ROLE_KEY": server.service_key,
                "SUPABASE_DB_URL": "",
            },
            "Postgres": {"SUPABASE_DB_URL": direct},
        }
        for rows in args.rows:
            database.execute("truncate ratings")
            database.execute(
                "insert into ratings select md5((n / 100)::text)::uuid, 1 + mod(n, 100) * 877, "
                "0.5 + mod(n * 7, 10) / 2.0 from generate_series(0, %s) n",
                (rows - 1,),
            )
            database.execute("vacuum analyze ratings")
            found = {
                way: [run(env) for _ in range(ROUNDS if rows < 1_000_000 or way != "REST" else 1)]
                for way, env in ways.items()
            }
            assert len({one["table"] for some in found.values() for one in some}) == 1
            speeds = []
            for way, some in found.items():
                seconds = statistics.median(one["seconds"] for one in some)
                peak = statistics.median(one["peak"] for one in some)
                speeds.append(rows / seconds)
                print(f"{rows:9,} {way:9} {seconds:8.2f} {rows / seconds:10,.0f} {peak:9.0f}")
            print(f"{'':9} {speeds[1] / speeds[0]:.0f} times as fast, the same table")
        server.close()


def delayed(target: tuple[str, int | None] | str, seconds: float) -> int:
    """Return a port that leads to a TCP address or Unix socket, `seconds` later each way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET)
            server.connect(target)
            for source, sink in ((client, server), (server, client)):
                on_the_way = SimpleQueue[tuple[float, bytes]]()
                for work in (take, give):
                    other = source if work is take else sink
                    threading.Thread(target=work, args=(other, on_the_way), daemon=True).start()

    def take(source: socket.socket, on_the_way: SimpleQueue[tuple[float, bytes]]) -> None:
        data = b"x"
        while data:
            data = b""
            with suppress(OSError):
                data = source.recv(1 << 16)
            on_the_way.put((time.monotonic() + seconds, data))

    def give(sink: socket.socket, on_the_way: SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while True:
                due, data = on_the_way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(data)

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def run(env: dict[str, str]) -> dict[str, float]:
    """Return the figures of a process that reads the ratings once."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.app_ratings", "read"],
        env=os.environ | env, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def read() -> None:
    """Read the app's ratings; print the time it took and its peak memory."""
    import adbc_driver_postgresql.dbapi
    import pandas as pd
    import postgrest
    import pyarrow as pa

    from ml.collaborative.app_ratings import postgres as postgres_ratings
    from ml.collaborative.app_ratings import read_app_ratings
    from ml.collaborative.app_ratings import rest as supabase_ratings
    from ml.collaborative.ratings import table_hash

    loaded = (adbc_driver_postgresql, pd, pa, postgrest, postgres_ratings, supabase_ratings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    table = read_app_ratings()
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert all(loaded)
    print(json.dumps({"seconds": seconds, "peak": peak, "table": table_hash(table)}))


if __name__ == "__main__":
    main()

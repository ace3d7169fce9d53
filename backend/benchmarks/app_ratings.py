"""Measure how the app's ratings are read over REST and straight from Postgres: speed, memory.

    python -m benchmarks.app_ratings [ROWS ...]

Both read one PostgreSQL (from a wheel, over its Unix socket), each in its own process. The REST
interface is that of the tests: a Python server that answers as PostgREST does, 1,000 rows a page.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
ROUNDS = 3


def main() -> None:
    """Print a table; with one argument that is not a number, be the process that reads."""
    if sys.argv[1:] == ["read"]:
        read()
        return
    sys.path.insert(0, str(TESTS))
    from app_source import direct_url
    from postgrest_server import SupabaseServer, running_database

    print(f"{'rows':>9} {'way':9} {'seconds':>8} {'rows/s':>10} {'peak MiB':>9}  over its imports")
    with running_database() as database:
        server = SupabaseServer(database)
        server.create_table(
            "user_id uuid, movie_id int, rating real, primary key (user_id, movie_id)"
        )
        ways = {
            "REST": {
                "SUPABASE_URL": server.url,
                "SUPABASE_SERVICE_ROLE_KEY": server.service_key,
                "SUPABASE_DB_URL": "",
            },
            "Postgres": {"SUPABASE_DB_URL": direct_url(database)},
        }
        for rows in map(int, sys.argv[1:] or (10_000, 100_000, 1_000_000)):
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

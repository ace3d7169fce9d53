"""Write an archive of generated ratings in the layout and size of ml-32m.

Run it in `backend/`: python -m benchmarks.make_archive ml/data/ml-32m.zip
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

RATINGS, USERS, FILMS = 32_000_204, 200_948, 87_585
"""The shape of ml-32m."""
BLOCK = 4_000
"""Users drawn at a time."""


def draw_ratings(ratings: int, users: int, films: int, seed: int = 0) -> pd.DataFrame:
    """Draw ratings in half stars with a long-tailed popularity, about 20 or more for each user.

    A user's number of ratings is log-normal; films are drawn in proportion to 1 / (rank + 30); a
    rating is 3.5 plus user bias, film bias, the product of two vectors of length 8, and noise.

    Returns:
        userId, movieId, rating, timestamp, sorted by user, exactly `ratings` rows, no pair twice.
    """
    rng = np.random.default_rng(seed)
    popularity = np.cumsum(1 / (rng.permutation(films) + 30.0))
    wanted = np.maximum(rng.lognormal(4.2, 1.2, users), 20)
    wanted *= 1.06 * ratings / wanted.sum()
    user_bias, film_bias = rng.normal(0, 0.4, users), rng.normal(-0.2, 0.4, films)
    user_taste, film_taste = rng.normal(0, 0.3, (users, 8)), rng.normal(0, 0.5, (films, 8))
    parts: list[np.ndarray] = []
    least = np.minimum(np.ceil(wanted), films * 0.6).astype(np.int64)
    for start in tqdm(
        range(0, users, BLOCK), "drawing", unit_scale=BLOCK, unit=" users", disable=None
    ):
        keys = np.zeros(0, dtype=np.int64)
        for _ in range(4):  # what was drawn twice is drawn again
            missing = least[start : start + BLOCK] - np.bincount(
                keys // films - start, minlength=len(least[start : start + BLOCK])
            )
            again = np.repeat(np.arange(start, start + len(missing)), np.maximum(missing, 0))
            films_drawn = np.searchsorted(popularity, rng.random(len(again)) * popularity[-1])
            keys = np.unique(np.concatenate([keys, again * films + films_drawn]))
        parts.append(keys)
    keys = np.concatenate(parts)
    while len(keys) < ratings:  # small sets: popular films run out, the rest is drawn evenly
        more = rng.integers(0, users * films, 2 * (ratings - len(keys)))
        keys = np.unique(np.concatenate([keys, more]))
    have = len(keys)
    stay = np.ones(have, dtype=bool)
    stay[rng.choice(have, have - ratings, replace=False)] = False
    keys = keys[stay]
    user, film = keys // films, keys % films
    stars = np.empty(ratings)
    for start in range(0, ratings, 1 << 20):
        rows = slice(start, start + (1 << 20))
        u, f = user[rows], film[rows]
        stars[rows] = 3.5 + user_bias[u] + film_bias[f]
        stars[rows] += np.einsum("nk,nk->n", user_taste[u], film_taste[f])
        stars[rows] += rng.normal(0, 0.7, len(u))
    return pd.DataFrame(
        {
            "userId": user + 1,
            "movieId": film + 1,
            "rating": np.clip(np.rint(stars * 2) / 2, 0.5, 5),
            "timestamp": rng.integers(800_000_000, 1_700_000_000, ratings),
        }
    )


def write_archive(path: Path, table: pd.DataFrame, films: int, name: str) -> None:
    """Write ratings.csv and links.csv into `path`, a zip, under the folder `name`."""
    numbers = np.arange(1, films + 1)
    links = pd.DataFrame({"movieId": numbers, "imdbId": numbers, "tmdbId": numbers})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{name}/links.csv", links.to_csv(index=False))
        with archive.open(f"{name}/ratings.csv", "w", force_zip64=True) as member:
            for start in tqdm(range(0, len(table), 1 << 20), "writing", unit=" M rows"):
                part = table.iloc[start : start + (1 << 20)]
                member.write(part.to_csv(index=False, header=not start).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="of the zip; its name is the set's")
    parser.add_argument("--ratings", type=int, default=RATINGS)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--films", type=int, default=FILMS)
    args = parser.parse_args()
    drawn = draw_ratings(args.ratings, args.users, args.films)
    write_archive(args.path, drawn, args.films, args.path.stem)

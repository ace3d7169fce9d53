"""Ways to hold ratings out: row numbers to train on, and to test on.

No test row's user and film are among the training rows: `check_apart` raises where they are.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..datasets import read_ml_100k_films, read_ml_100k_ratings
from ..errors import InputError
from ..ratings import NOT_APP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from ..ratings import MappedRatings

logger = logging.getLogger(__name__)

FOLDS = 5
REVEALED = 10
"""Ratings of a new user that are known."""


class Split(NamedTuple):
    """Row numbers of a ratings table."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]


def k_folds(count: int, folds: int, seed: int) -> Iterator[Split]:
    """Yield `folds` random splits; each row is held out in one of them.

    The folds are those of Surprise's `KFold(folds, random_state=seed)`.
    """
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    ends = np.cumsum([count // folds + (fold < count % folds) for fold in range(folds)])
    for start, end in zip([0, *ends], ends, strict=False):
        yield Split(np.concatenate([order[:start], order[end:]]), order[start:end])


def fixed_fifth(table: pd.DataFrame) -> tuple[Split, NDArray[np.uint64]]:
    """Hold out the ratings whose user and film have a hash that `FOLDS` divides.

    Whatever else is in the table, and in whichever order, a user's rating of a film is always on
    the same side: trainings of different days can be compared on ratings that none has seen.

    Returns:
        The split, and the hash of each row, (n,).
    """
    codes, users = pd.factorize(table["user_id"])
    pairs = user_hashes(users)[codes]
    # The finaliser of splitmix64 (Steele, Lea and Flood 2014) mixes film into user.
    pairs = pairs + table["movie_id"].to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    pairs = (pairs ^ (pairs >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    pairs = (pairs ^ (pairs >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    pairs ^= pairs >> np.uint64(31)
    held_out = pairs % np.uint64(FOLDS) == 0
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out)), pairs


def user_hashes(user_ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return eight bytes of BLAKE2b for each user, the same on every machine and day."""
    digests = (
        hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for user in user_ids
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")


def in_time(times: NDArray[np.integer], share: float = 0.1) -> Split:
    """Train on the past, test on about the last `share` of the ratings; equal times stay together.

    Args:
        times: of each row, in any unit.
        share: of the rows, between 0 and 1.
    """
    last_of_past = np.quantile(times, 1 - share, method="lower")
    future = times > last_of_past
    return Split(np.flatnonzero(~future), np.flatnonzero(future))


def new_users(user_ids: pd.Series, revealed: int, seed: int, share: float = 0.1) -> Split:
    """Hold out a random `share` of the users, but for `revealed` random ratings of each.

    Users with no more ratings than that are not held out.
    """
    users, ids = pd.factorize(user_ids)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    place = np.empty(len(users), dtype=np.intp)  # of a row among its user's, at random
    place[order] = pd.Series(users[order]).groupby(users[order]).cumcount()
    many = np.flatnonzero(np.bincount(users, minlength=len(ids)) > revealed)
    chosen = np.zeros(len(ids), dtype=bool)
    chosen[rng.permutation(many)[: max(1, round(share * len(ids)))]] = True
    test = chosen[users] & (place >= revealed)
    return Split(np.flatnonzero(~test), np.flatnonzero(test))


def grouplens(mapped: MappedRatings, test_file: Path, film_ids: pd.Series) -> Split:
    """Return one of the splits that come with ML-100K: u1 to u5, ua and ub.

    A rating is known again by its time too: where a user rated a film twice, under two item ids,
    the two may be in different parts, and only the later one is in the table. Of the 22 rated
    twice in the same second, one row is in both.

    Args:
        mapped: ratings of ML-100K.
        test_file: `uN.test`.
        film_ids: TMDB id by item_id.
    """
    held_out = read_ml_100k_ratings(test_file)
    users = NOT_APP_PREFIX + held_out["user"].astype("str")
    films = held_out["film"].map(film_ids)
    keys = [users, films, held_out["timestamp"], held_out["rating"]]
    table = mapped.ratings
    times = pd.Series(mapped.times)
    rows = [table["user_id"].astype("str"), table["movie_id"], times, table["rating"]]
    test = pd.MultiIndex.from_arrays(rows).isin(pd.MultiIndex.from_arrays(keys))
    return Split(np.flatnonzero(~test), np.flatnonzero(test))


def all_splits(
    mapped: MappedRatings, table: pd.DataFrame, data_dir: Path, seed: int
) -> dict[str, list[Split]]:
    """Return every way to hold out that fits the data, by its name for people.

    Args:
        mapped: the MovieLens ratings.
        table: those, then the app's own, which have no time and are in no published split: they
            are held out in the random ways alone, and trained on in the others.
        data_dir: where MovieLens files are kept.
        seed: of what is random.
    """
    app = np.arange(len(mapped.ratings), len(table))
    splits = {f"{FOLDS} random folds": list(k_folds(len(table), FOLDS, seed))}
    if mapped.dataset == "ml-100k":
        films = read_ml_100k_films(data_dir)["tmdb_id"]
        for name, tests in (("u1 to u5", "12345"), ("ua and ub", "ab")):
            files = [data_dir / "ml-100k" / f"u{test}.test" for test in tests]
            if all(file.is_file() for file in files):
                parts = [grouplens(mapped, file, films) for file in files]
                splits[name] = [Split(np.concatenate([train, app]), test) for train, test in parts]
    if mapped.times is not None and len(mapped.times):
        train, test = in_time(mapped.times)
        splits["the last tenth in time"] = [Split(np.concatenate([train, app]), test)]
    splits["new users"] = [new_users(table["user_id"], 0, seed)]
    splits[f"new users, {REVEALED} ratings known"] = [new_users(table["user_id"], REVEALED, seed)]
    for name in list(splits):
        if not all(len(train) and len(test) for train, test in splits[name]):
            logger.warning("too few ratings to hold out: %s", name)
            del splits[name]
    return splits


def check_apart(table: pd.DataFrame, split: Split) -> None:
    """Raise InputError where a test row, or its user and film, are among the training rows."""
    films, ids = pd.factorize(table["movie_id"])
    keys = pd.factorize(table["user_id"])[0] * np.int64(len(ids)) + films
    leaked = int(pd.Index(keys[split.test]).isin(keys[split.train]).sum())
    if leaked:
        raise InputError(
            f"{leaked:,} of the {len(split.test):,} held-out ratings are in the training rows too: "
            "what is measured on them says nothing"
        )

"""The data sets by name: which files each needs, and the hashes that authenticate them.

The MD5 of an archive is the one that GroupLens publishes (`NAME.zip.md5`); the SHA-256 of a member
was taken from such an archive.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

LICENCE = (
    "MovieLens data: no commercial use without permission from GroupLens, "
    "and ML-100K may not be redistributed (https://grouplens.org/datasets/movielens/)."
)


@dataclass(frozen=True)
class Archive:
    """A zip archive `NAME.zip` whose members lie in a folder `NAME/`."""

    name: str
    frozen: bool
    """Whether its content never changes: a member with another hash than its pin is refused."""
    max_bytes: int
    """Upper bound on the size of the archive and of each member."""
    md5: str | None = None
    """MD5 of the archive as GroupLens publishes it."""
    mirrors: tuple[str, ...] = ()
    """Full URLs to try after GroupLens."""


@dataclass(frozen=True)
class DataFile:
    """A member of an archive, and where it goes in the data folder."""

    archive: Archive
    member: str
    """Name inside the archive's folder."""
    target: str
    """Path below the data folder, with `/`."""
    sha256: str | None = None
    """Expected hash; if the archive is not frozen, of one version that is known to be good."""
    header: str | None = None
    """First line of a CSV file: what is checked if the hash is unknown."""
    optional: bool = False
    """Whether a build works without it."""


MIB = 1 << 20
RATINGS_HEADER = "userId,movieId,rating,timestamp"
LINKS_HEADER = "movieId,imdbId,tmdbId"
MOVIES_HEADER = "movieId,title,genres"

ML_100K = Archive(
    "ml-100k",
    frozen=True,
    max_bytes=64 * MIB,
    mirrors=("https://huggingface.co/datasets/Recommenders/MovieLens/resolve/main/ml-100k.zip",),
)
ML_LATEST_SMALL = Archive("ml-latest-small", frozen=False, max_bytes=64 * MIB)
ML_25M = Archive(
    "ml-25m", frozen=True, max_bytes=4096 * MIB, md5="6b51fb2759a8657d3bfcbfc42b592ada"
)
ML_32M = Archive(
    "ml-32m", frozen=True, max_bytes=4096 * MIB, md5="d472be332d4daa821edc399621853b57"
)
ML_LATEST = Archive("ml-latest", frozen=False, max_bytes=4096 * MIB)

SMALL_LINKS_SHA256 = "97ad18e4e56a09363c65676b6cb3482ce3e2cea2372a24620c1599c843325f31"
SMALL_MOVIES_SHA256 = "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07"
SMALL_RATINGS_SHA256 = "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646"


def _with_own_links(
    archive: Archive,
    ratings: str | None = None,
    links: str | None = None,
    movies: str | None = None,
) -> tuple[DataFile, ...]:
    """Return the files of a set whose tables share one id space, with the hashes that are known."""
    name = archive.name
    return (
        DataFile(archive, "ratings.csv", f"{name}/ratings.csv", ratings, RATINGS_HEADER),
        DataFile(archive, "links.csv", f"{name}/links.csv", links, LINKS_HEADER),
        DataFile(
            archive,
            "movies.csv",
            f"{name}/movies.csv",
            movies,
            MOVIES_HEADER,
            optional=True,  # titles, for the report
        ),
    )


DATASETS: dict[str, tuple[DataFile, ...]] = {
    "ml-100k": (
        DataFile(
            ML_100K,
            "u.data",
            "ml-100k/u.data",
            "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
        ),
        DataFile(
            ML_100K,
            "u.item",
            "ml-100k/u.item",
            "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
        ),
        DataFile(
            ML_LATEST_SMALL,
            "links.csv",
            "links.csv",
            SMALL_LINKS_SHA256,
            LINKS_HEADER,
            optional=True,  # the id table has every film of ML-100K too
        ),
    ),
    "ml-latest-small": _with_own_links(
        ML_LATEST_SMALL, SMALL_RATINGS_SHA256, SMALL_LINKS_SHA256, SMALL_MOVIES_SHA256
    ),
    "ml-25m": _with_own_links(ML_25M),
    "ml-32m": _with_own_links(ML_32M),
    "ml-latest": _with_own_links(ML_LATEST),
}
"""Every MovieLens set by name; ml-100k uses the links.csv of ml-latest-small."""
DEFAULT_DATASET = "ml-100k"
NAMES = (*DATASETS, "sample")
"""The values of --dataset; `sample` is generated."""

ML_100K_SPLITS = tuple(
    DataFile(ML_100K, name, f"ml-100k/{name}", sha256, optional=True)
    for name, sha256 in {
        "u1.test": "18c6014a4b2c7324f250a63f8904a7b16b2b19f911129e346141507b0cbac950",
        "u2.test": "4de658d1e04ed9104629509a2e2528fce833ac8e048280183f1df167632038c3",
        "u3.test": "0f548b51c78327de4c156461d3e430b7e5579fe2b5681586a59416e48fd35f6d",
        "u4.test": "7c02ad0a1e7ab1083c8b9d4b627203a051dd7b5eab46d99fa44de33470de8db9",
        "u5.test": "351cc52e0d15b6c721466276fc24671d40936899e3d01fadeaf312915b8c5634",
        "ua.test": "d0497e202417720f57a184ec8c66be2d1afa4ff41bb53787c57b28d6bf79bc42",
        "ub.test": "d54a72d05730d5892062734b2bec73e976f9b713d18c828a18b968d6cce442da",
    }.items()
)
"""The test parts of GroupLens's own splits of ML-100K; the other ratings are the training part."""

SEPARATOR = ","
_SAME_USERS = ("ml-latest-small", "ml-25m", "ml-32m", "ml-latest")
"""Drawn from one database at different times: a rating can be in several of them."""


def parse_datasets(text: str) -> tuple[str, ...]:
    """Return the names in "ml-100k,ml-latest-small", in that order.

    Raises:
        UsageError: an unknown name, one that is there twice, or sets that share ratings.
    """
    names = tuple(name.strip() for name in text.split(SEPARATOR))
    for name in names:
        if name not in NAMES:
            raise UsageError(f"there is no data set {name!r}: expected {', '.join(NAMES)}")
    if len(set(names)) < len(names):
        raise UsageError(f"--dataset {text} names a set twice")
    if "sample" in names and len(names) > 1:
        raise UsageError(f"--dataset {text}: the sample is generated, and goes with no other set")
    shared = [name for name in names if name in _SAME_USERS]
    if len(shared) > 1:
        raise UsageError(
            f"{' and '.join(shared)} can have the same ratings, being drawn from one database: "
            "choose one of them"
        )
    return names

"""What a build is made of, in the manifest's words, and whether a release is made of the same."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import ratings
from .algorithms.training import describe_parameters
from .errors import ReleaseError
from .release import history
from .release.files import verify_release
from .release.live import live_id, release_folder
from .release.manifest import describe_scores, installed_versions
from .spark.build import FILMS_ONLY, describe_whole, spark_version

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from pyspark.sql import DataFrame

    from .algorithms.training import Parameters
    from .datasets.movielens import MappedRatings
    from .evaluation.protocol import Score
    from .spark.ratings import Given
    from .spark.session import Cluster

TUNE_MINUTES = 10
logger = logging.getLogger(__name__)


@dataclass
class Build:
    """What a build knows of itself, step after step."""

    args: argparse.Namespace
    mapped: MappedRatings
    table: pd.DataFrame
    """All ratings to train on: MovieLens's, then the app's."""
    app_dropped: Mapping[str, int]
    """Rows of the app's that are no ratings, by reason."""
    parameters: Parameters
    live: dict[str, Any] | None
    """Manifest of the release to be replaced."""
    live_unreadable: bool = False
    """Whether there is one that cannot be read."""
    cluster: Cluster | None = None
    """Of --engine spark."""
    whole: Given | None = None
    """Ratings that stay on the cluster, for a release of films alone: the table is a sample."""
    users: DataFrame | None = None
    """Their vectors, there too."""
    tuned: bool = False
    scores: list[Score] = field(default_factory=list)
    """Of --cv."""
    evaluations: dict[str, list[Score]] = field(default_factory=dict)
    """Of --evaluate, by the way to hold out."""
    lines: list[str] = field(default_factory=list)
    """To print at the end: what was asked for by flags."""


def describe_inputs(build: Build) -> dict[str, Any]:
    """What decides the result of a build: the manifest's parts of the same names."""
    args = build.args
    return {
        "algorithm": args.algorithm,
        "parameters": describe_parameters(args.algorithm, build.parameters),
        "tuning": {"sets": args.tune, "minutes": args.tune_minutes or TUNE_MINUTES}
        if args.tune
        else None,
        "seed": args.seed,
        "shape": FILMS_ONLY if build.whole else None,
        "table_sha256": build.whole.fingerprint if build.whole else ratings.table_hash(build.table),
        "versions": installed_versions() | spark_version(args.engine),
    }


def find_same(models_dir: Path, inputs: Mapping[str, Any]) -> str | None:
    """The whole live release that was made of the same, or one that was gone back from."""
    live, kept = live_id(models_dir), set(history.build_ids(models_dir))
    left = sorted(history.rolled_back(models_dir) & kept)
    for build_id in [live, *left] if live else left:
        try:
            made = verify_release(release_folder(models_dir, build_id))
        except ReleaseError as error:
            logger.warning("%s", error)
            continue
        asked = made | {
            "table_sha256": made["data"].get("table_sha256"),
            "shape": made["model"].get("shape"),
        }
        if made.get("tuning"):
            asked["parameters"] = made["tuning"].get("from")
            asked["tuning"] = {key: made["tuning"].get(key) for key in ("sets", "minutes")}
        if {name: asked.get(name) for name in inputs} == inputs:
            return build_id
    return None


def describe_build(build: Build, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parts that are known before the model is judged."""
    args, mapped, table = build.args, build.mapped, build.table
    app = table.iloc[len(mapped.ratings) :]
    metrics = describe_scores(build.evaluations)
    if build.scores:
        metrics += describe_scores({f"{args.cv} random folds": build.scores})
    sources = [_describe_source(mapped.dataset, mapped.loaded, mapped.dropped(), mapped.ratings)]
    if not args.ratings:
        dropped = build.app_dropped
        sources.append(_describe_source("app", len(app) + sum(dropped.values()), dropped, app))
    films = set(build.whole.movie_ids.tolist() if build.whole else table["movie_id"])
    tuning = inputs["tuning"]
    catalog = mapped.catalog
    return {
        "algorithm": args.algorithm,
        "parameters": describe_parameters(args.algorithm, build.parameters),
        "tuning": tuning and {**tuning, "from": inputs["parameters"]},
        "seed": args.seed,
        "data": {
            "table_sha256": inputs["table_sha256"],
            **(describe_whole(build.whole) if build.whole else {"sources": sources}),
        },
        "versions": inputs["versions"],
        "shape": inputs["shape"],
        "catalog": None
        if catalog is None
        else {
            "films": len(catalog),
            "sha256": hashlib.sha256(
                "".join(f"{film}\n" for film in sorted(catalog)).encode()
            ).hexdigest(),
            "covered": len(catalog & films),
        },
        "metrics": metrics,
    }


def _describe_source(
    name: str, rows: int, dropped: Mapping[str, int], kept: pd.DataFrame
) -> dict[str, Any]:
    return {
        "name": name,
        "rows": rows,
        "dropped": dict(dropped),
        "kept": len(kept),
        "users": kept["user_id"].nunique(),
        "films": kept["movie_id"].nunique(),
    }

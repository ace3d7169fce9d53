"""What a build is made of, in the manifest's words."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from . import ratings
from .release import ITEM_ONLY, count, draft_manifest, installed_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from surprise import SVD, Trainset

    from .algorithms.training import Training
    from .options import BuildOptions
    from .spark.build import Loaded


def describe_inputs(
    options: BuildOptions,
    table: pd.DataFrame,
    films: frozenset[int] | None,
    given: Loaded | None,
) -> dict[str, Any]:
    """Return what decides the result of a build, by the names of `ReleaseStore.find_same`."""
    whole = given.whole if given else None
    versions = installed_versions()
    if options.spark:
        from .spark.build import spark_version

        versions |= spark_version()
    known: dict[str, Any] = {}
    if len(options.trainings) == 1:  # of several, the same data choose the same
        known["parameters"] = options.trainings[0].describe(len(table))
    return known | {
        "asked": options.algorithm,
        "seed": options.trainings[0].seed,
        "catalog_sha256": films and catalog_hash(films),
        "shape": ITEM_ONLY if whole else None,
        "table_sha256": whole.fingerprint if whole else ratings.table_hash(table),
        "versions": versions,
    }


def catalog_hash(films: frozenset[int]) -> str:
    """Return the SHA-256 of TMDB ids in decimal, ascending, a line each, in hex."""
    return hashlib.sha256("".join(f"{film}\n" for film in sorted(films)).encode()).hexdigest()


def draft(
    whole_model: tuple[SVD, Trainset],
    model: tuple[SVD, Trainset],
    training: Training,
    table: pd.DataFrame,
    films: frozenset[int] | None,
    inputs: Mapping[str, Any],
    given: Loaded | None,
) -> dict[str, Any]:
    """Return the manifest's parts that are known before the model is judged.

    Args:
        whole_model: as trained.
        model: as published, cut to some films.
        training: of it.
        table: all ratings.
        films: the catalog.
        inputs: see `describe_inputs`.
        given: see `load_given`.
    """
    whole = given.whole if given else None
    data: dict[str, Any] = {"table_sha256": inputs["table_sha256"]}
    if whole:
        from .spark.build import describe_whole

        data |= describe_whole(whole)
        rated = set(whole.movie_ids.tolist())
    else:
        data |= count(whole_model[1])._asdict()
        data["sources"] = [source.as_dict() for source in ratings.sources_of(table)]
        rated = set(table["movie_id"].unique().tolist())
    catalog = films and {
        "films": len(films),
        "sha256": inputs["catalog_sha256"],
        "covered": len(films & rated),
        "published": model[1].n_items,
    }
    known = {name: inputs[name] for name in ("asked", "seed", "versions", "shape")}
    return draft_manifest(
        *model, data=data, catalog=catalog or None, algorithm=training.algorithm.name,
        parameters=training.describe(len(table)), **known,
    )  # fmt: skip

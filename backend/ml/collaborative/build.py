"""The steps of a build that the plan does not name: what is live, the verdict, the summary."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import datasets, ratings, report
from .errors import GateError, ReleaseError, UsageError
from .evaluation import (
    Check,
    Published,
    Verdict,
    check_model,
    describe_refusal,
    hold_out,
    keep_real_model,
    too_few,
)
from .paths import from_here
from .release import (
    ITEM_ONLY,
    counts_of,
    describe_scores,
    draft_manifest,
    installed_versions,
    read_held_out,
)
from .spark import on_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from pyspark.sql import DataFrame
    from surprise import SVD, Trainset

    from .algorithms.training import Training
    from .options import BuildOptions
    from .ratings import Counts
    from .release import ReleaseStore
    from .spark.build import Loaded
    from .spark.ratings import Given
    from .spark.session import Cluster

HELD_OUT = "a fifth by hash of user and film"
"""What the manifest calls the ratings that a model is judged on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """What a build is to replace."""

    manifest: Mapping[str, Any] | None = None
    """None where nothing is live."""
    is_unreadable: bool = False
    """Whether there is a release that cannot be read, and the build goes on by force."""

    @property
    def counts(self) -> Counts | None:
        """What it was trained on; None where nothing is live."""
        return counts_of(self.manifest) if self.manifest else None


@contextmanager
def cluster_of(options: BuildOptions) -> Iterator[Cluster | None]:
    """Open the Spark cluster that the options name; None where they name none.

    Raises:
        MlError, SourceError: see `spark.session.open_cluster`.
    """
    if options.spark is None:
        yield None
        return
    from .spark.session import open_cluster

    with open_cluster(options.spark.master, checkpoints=options.spark.checkpoint_dir) as cluster:
        yield cluster


def load_given(
    options: BuildOptions, cluster: Cluster | None, films: frozenset[int] | None
) -> Loaded | None:
    """Read the ratings that take the place of MovieLens's and the app's; None where none do.

    Raises:
        InputError, SourceError: see `spark.ratings.read_given`.
    """
    if cluster is None or options.spark is None or options.spark.ratings is None:
        return None
    from .spark.build import load_ratings

    return load_ratings(
        cluster, options.spark.ratings, films, item_only=options.spark.item_only,
        factors=options.training.parameters.factors,
    )  # fmt: skip


def place(training: Training, cluster: Cluster | None) -> Training:
    """Return the training, done on the cluster where there is one."""
    return training if cluster is None else on_cluster(training, cluster)


def read_live(store: ReleaseStore, options: BuildOptions) -> Live:
    """Read what is live.

    Raises:
        ReleaseError: it cannot be read, and the options do not say to go on all the same.
        UsageError: it is a model of real ratings, and this build is of the sample.
    """
    try:
        live = Live(store.live_manifest())
    except ReleaseError as error:
        if not options.force_publish:
            raise type(error)(
                f"{error}. What is published is unknown: roll back to another release with "
                "python -m ml.collaborative rollback ID, or build without comparing by "
                "--force-publish"
            ) from None
        logger.warning("%s; going on, as --force-publish says", error)
        return Live(is_unreadable=True)
    if options.dataset == "sample" and not options.force_publish:
        keep_real_model(live.counts, options.models_dir)
    return live


def describe_inputs(
    options: BuildOptions, table: pd.DataFrame, given: Loaded | None
) -> dict[str, Any]:
    """Return what decides the result of a build: the manifest's parts of the same names."""
    whole = given.whole if given else None
    versions = installed_versions()
    if options.spark:
        from .spark.build import spark_version

        versions |= spark_version()
    return {
        "algorithm": options.training.algorithm.name,
        "parameters": options.training.describe(),
        "seed": options.training.seed,
        "shape": ITEM_ONLY if whole else None,
        "table_sha256": whole.fingerprint if whole else ratings.table_hash(table),
        "versions": versions,
    }


def judge(
    store: ReleaseStore,
    options: BuildOptions,
    training: Training,
    table: pd.DataFrame,
    model: tuple[SVD, Trainset],
    live: Live,
    draft: Mapping[str, Any],
) -> Verdict:
    """Judge a model by the same training on four fifths of the ratings.

    Args:
        store: where it is to be published.
        options: of the build.
        training: of the model.
        table: all ratings, or for an item-only release a sample.
        model: the trained model and its trainset.
        live: what it is to replace.
        draft: of the manifest.
    """
    few = too_few(table)
    metrics: list[dict[str, Any]] = []
    if few:
        if options.report:
            raise UsageError(f"--report needs more: {few}")
        held_out, checks = None, [Check(passed=False, text=few)]
    else:
        held_out = hold_out(table, training, ranking=options.report)
        before = _published(store, options, table, live)
        checks = check_model(model[0], held_out, counts_of(draft), before)
        metrics = describe_scores({HELD_OUT: held_out.scores})
    if live.is_unreadable:
        text = "the published release cannot be read, so nothing is compared with it"
        checks.append(Check(passed=False, text=text))
    passed = all(check.passed for check in checks)
    gate = {
        "passed": passed,
        "forced": options.force_publish and not passed,
        "checks": [check._asdict() for check in checks],
    }
    return Verdict(tuple(checks), held_out, {**draft, "metrics": metrics, "gate": gate})


def _published(
    store: ReleaseStore, options: BuildOptions, table: pd.DataFrame, live: Live
) -> Published | None:
    """Return what the new model is compared with; None where nothing is, or less is meant."""
    counts = live.counts
    if live.manifest is None or counts is None:
        return None
    if counts.is_sample != (options.dataset == "sample"):
        return None
    given = options.spark is not None and options.spark.ratings is not None
    if options.allow_missing_app_ratings and not given and not ratings.has_app_ratings(table):
        counts = counts.without_app()
    try:
        held_out = read_held_out(store.folder(live.manifest["build_id"]))
    except ReleaseError as error:
        logger.warning("%s; errors are not compared with the published model's", error)
        held_out = None
    return Published(counts, held_out, live.manifest["algorithm"] or "of unknown algorithm")


def draft(
    model: tuple[SVD, Trainset],
    table: pd.DataFrame,
    films: frozenset[int] | None,
    inputs: Mapping[str, Any],
    given: Loaded | None,
) -> dict[str, Any]:
    """Return the manifest's parts that are known before the model is judged."""
    whole = given.whole if given else None
    data: dict[str, Any] = {"table_sha256": inputs["table_sha256"]}
    if whole:
        from .spark.build import describe_whole

        data |= describe_whole(whole)
        rated = set(whole.movie_ids.tolist())
    else:
        data["sources"] = [source.as_dict() for source in ratings.sources_of(table)]
        rated = set(table["movie_id"])
    catalog = films and {
        "films": len(films),
        "sha256": hashlib.sha256(
            "".join(f"{film}\n" for film in sorted(films)).encode()
        ).hexdigest(),
        "covered": len(films & rated),
    }
    known = {
        name: inputs[name] for name in ("algorithm", "parameters", "seed", "versions", "shape")
    }
    return draft_manifest(*model, data=data, catalog=catalog or None, **known)


def make_page(
    options: BuildOptions, verdict: Verdict, table: pd.DataFrame, svd: SVD,
    films: frozenset[int] | None, live: Live,
) -> str | None:  # fmt: skip
    """Return the page about a build; None where it is not wanted, or nothing was held out."""
    if not options.report or verdict.held_out is None:
        return None
    names = datasets.name_films(options.dataset, options.data_dir)
    content = report.Content(names.titles, names.unmapped, films, table, svd, verdict.held_out)
    return report.render_report(content, verdict.manifest, live.manifest)


def refuse(
    store: ReleaseStore, options: BuildOptions, model: tuple[SVD, Trainset], verdict: Verdict,
    page: str | None,
) -> GateError:  # fmt: skip
    """Keep a refused build for a look; return the error that says why and where it is."""
    folder = store.refuse(*model, verdict.manifest, page)
    return describe_refusal(verdict.checks, from_here(folder), options.training.algorithm.name)


def train_items(
    cluster: Cluster | None, given: Given, training: Training
) -> tuple[tuple[SVD, Trainset], DataFrame]:
    """Train an item-only model on the cluster; return model and trainset, and users' vectors."""
    from .spark import build as spark_build

    assert cluster is not None  # noqa: S101  it holds the ratings
    svd, trainset, vectors = spark_build.train_items(cluster, given, training)
    return (svd, trainset), vectors


def write_vectors(options: BuildOptions, vectors: DataFrame | None, build_id: str) -> None:
    """Write the users' vectors of an item-only release where the options say."""
    if vectors is None or options.spark is None or options.spark.user_vectors is None:
        return
    from .spark.build import write_users

    write_users(vectors, options.spark.user_vectors, build_id)

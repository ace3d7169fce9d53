"""The steps of a build that the plan does not name: what is live, what is chosen, the verdict."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import datasets, ratings, report
from .catalog import ALL
from .errors import GateError, ReleaseError, UsageError
from .evaluation import (
    COLD_LIST,
    Check,
    HoldOut,
    Published,
    Verdict,
    check_model,
    describe_lists,
    describe_refusal,
    hold_out,
    is_no_better_than_biases,
    keep_real_model,
    too_few,
)
from .paths import from_here
from .process import give_back_memory
from .release import (
    counts_of,
    describe_scores,
    read_held_out,
)
from .spark import on_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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


def load_given(options: BuildOptions, cluster: Cluster | None) -> Loaded | None:
    """Read the ratings that take the place of MovieLens's and the app's; None where none do.

    Raises:
        InputError, SourceError: see `spark.ratings.read_given`.
    """
    if cluster is None or options.spark is None or options.spark.ratings is None:
        return None
    from .spark.build import load_ratings

    return load_ratings(
        cluster, options.spark.ratings, item_only=options.spark.item_only,
        factors=options.trainings[0].parameters.factors,
    )  # fmt: skip


def choose_trainings(
    options: BuildOptions, cluster: Cluster | None, given: Loaded | None
) -> list[Training]:
    """Return what is to be trained and judged."""
    if cluster is None:
        return list(options.trainings)
    item_only = given is not None and given.whole is not None
    return [on_cluster(one, cluster, folded=item_only) for one in options.trainings]


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
    if live.manifest and live.manifest["catalog"] and str(options.catalog) == ALL:
        logger.warning(
            "the published release is of a catalog of %s films, and this build is of all: leave "
            "--catalog all out to keep to the catalog",
            f"{live.manifest['catalog']['films']:,}",
        )
    return live


def hold_out_fifth(
    options: BuildOptions,
    trainings: Sequence[Training],
    table: pd.DataFrame,
    wanted: frozenset[int] | None,
) -> HoldOut | None:
    """Measure the trainings on a fifth of the ratings; None where there are too few.

    Raises:
        UsageError: a report is asked for, and there are too few ratings.
    """
    few = too_few(table)
    if few is None:
        found = hold_out(table, trainings, wanted, with_plan=options.report)
        give_back_memory()
        return found
    if options.report:
        raise UsageError(f"--report needs more: {few.text}")
    return None


def judge(
    store: ReleaseStore, options: BuildOptions, table: pd.DataFrame, svd: SVD, live: Live,
    held_out: HoldOut | None, draft: Mapping[str, Any],
) -> Verdict:  # fmt: skip
    """Judge a model by what the same training says of held-out ratings.

    Args:
        store: where it is to be published.
        options: of the build.
        table: all ratings, or for an item-only release a sample.
        svd: the trained model.
        live: what it is to replace.
        held_out: what the training says of held-out ratings; None where there were too few.
        draft: of the manifest.
    """
    metrics: list[dict[str, Any]] = []
    if held_out is None:
        few = too_few(table)
        checks = [few] if few else []
    else:
        before = _published(store, options, table, live)
        checks = check_model(svd, held_out, counts_of(draft), before)
        metrics = describe_scores({HELD_OUT: held_out.scores})
        if held_out.lists.served == COLD_LIST:
            logger.warning("lists: %s", describe_lists(held_out.lists))
        if is_no_better_than_biases(held_out):
            logger.warning(
                "the model predicts no better than film and user averages (%s); what helps is "
                "more ratings of these films: another --dataset, or the app's own",
                checks[0].text,
            )
    if live.is_unreadable:
        text = "the published release cannot be read, so nothing is compared with it"
        checks.append(Check(passed=False, text=text))
    passed = all(check.passed for check in checks)
    gate = {
        "passed": passed,
        "forced": options.force_publish and not passed,
        "checks": [check._asdict() for check in checks],
    }
    model = {**draft["model"], "lists": held_out.lists.served if held_out else COLD_LIST}
    manifest = {**draft, "model": model, "metrics": metrics, "gate": gate}
    return Verdict(tuple(checks), held_out, manifest)


def _published(
    store: ReleaseStore, options: BuildOptions, table: pd.DataFrame, live: Live
) -> Published | None:
    """Return what the new model is compared with; None where nothing is, or less is meant."""
    counts = live.counts
    if live.manifest is None or counts is None:
        return None
    if counts.is_sample != (options.dataset == "sample"):
        return None
    names = {source["name"] for source in live.manifest["data"]["sources"]} - {ratings.APP}
    if names and names != {source.name for source in ratings.sources_of(table)} - {ratings.APP}:
        counts = counts.of_app()  # another data set is no loss of ratings; the app's still count
    given = options.spark is not None and options.spark.ratings is not None
    if options.allow_missing_app_ratings and not given and not ratings.has_app_ratings(table):
        counts = counts.without_app()
    try:
        held_out = read_held_out(store.folder(live.manifest["build_id"]))
    except ReleaseError as error:
        logger.warning("%s; errors are not compared with the published model's", error)
        held_out = {}
    return Published(counts, held_out, live.manifest["algorithm"] or "of unknown algorithm")


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
    store: ReleaseStore, model: tuple[SVD, Trainset], verdict: Verdict,
    page: str | None,
) -> GateError:  # fmt: skip
    """Keep a refused build for a look; return the error that says why and where it is."""
    folder = store.refuse(*model, verdict.manifest, page)
    return describe_refusal(verdict.checks, from_here(folder))


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

"""One build: ratings in, a judged and published release out."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import ratings
from .algorithms.training import ALS, DEFAULTS, TITLES, Parameters, make_fit, train
from .app_ratings.reading import read_app_ratings_or_stop
from .cli import print_lines, resolve_catalog
from .datasets import movielens
from .errors import ReleaseError, UsageError
from .evaluation.gate import (
    Check,
    Published,
    check_model,
    describe_refusal,
    keep_real_model,
    too_few,
)
from .files import locked
from .paths import from_here
from .provenance import TUNE_MINUTES, Build, describe_build, describe_inputs, find_same
from .release import history, publishing
from .release.files import read_held_out
from .release.live import MODEL_FILE, REPORT_FILE, TRAINSET_FILE, live_id, release_folder
from .release.manifest import counts_of, describe_scores, draft_manifest, read_manifest
from .report import summary
from .spark.build import check_flags, read_ratings, train_films, write_users
from .spark.session import open_cluster

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from surprise import SVD, Trainset

    from .evaluation.hold_out import HoldOut
    from .evaluation.protocol import Score

HELD_OUT = "a fifth by hash of user and film"
"""What the manifest calls the way to hold out."""

logger = logging.getLogger(__name__)


def check_parameters(args: argparse.Namespace) -> Parameters:
    """As asked for, else the plan's.

    Raises:
        UsageError: flags that do not go together.
    """
    check_flags(args)
    if args.algorithm not in {"svd", ALS}:
        for name in ("epochs", "lr", "reg", "tune"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} is of --algorithm svd")
    if args.tune_minutes and not args.tune:
        raise UsageError("--tune-minutes without --tune: say --tune N, how many sets to try")
    asked = {name: getattr(args, name) for name in ("factors", "epochs", "lr", "reg")}
    return replace(
        DEFAULTS[args.algorithm], **{name: value for name, value in asked.items() if value}
    )


def run_build(args: argparse.Namespace) -> None:
    """Do what the flags of `build_collaborative` ask for, and print the summary.

    Raises:
        MlError: it ends without a new release; what was live stays so.
    """
    started = time.monotonic()
    parameters = check_parameters(args)
    catalog = resolve_catalog(args.catalog, args.dataset)
    publishing.check_place(args.models_dir)
    if args.engine == "local":
        mapped = movielens.load(args.dataset, args.data_dir, catalog)
        _run(Build(args, mapped, mapped.ratings, {}, parameters, None), started)
        return
    with open_cluster(
        args.master, partitions=args.partitions, storage=args.storage_level,
        checkpoints=args.checkpoint_dir, verbose=args.verbose,
    ) as cluster:  # fmt: skip
        if args.ratings:
            mapped, whole = read_ratings(cluster, args, parameters, catalog)
        else:
            mapped, whole = movielens.load(args.dataset, args.data_dir, catalog), None
        build = Build(args, mapped, mapped.ratings, {}, parameters, None)
        build.cluster, build.whole = cluster, whole
        _run(build, started)


def _run(build: Build, started: float) -> None:
    args = build.args
    if build.whole is None:
        for line in build.mapped.describe():
            logger.info("%s", line)
    with locked(args.models_dir):
        _gather(build)
        inputs = describe_inputs(build)
        if args.if_changed and (same := find_same(args.models_dir, inputs)):
            history.prune(args.models_dir, args.keep)
            if not args.quiet:
                left = "" if same == live_id(args.models_dir) else ", which was rolled back"
                print_lines([f"Nothing changed since release {same}{left}: nothing built"])
            return
        if len(build.table):
            _look_closely(build)
        svd, trainset = _train(build)
        held_out, checks, draft = _judge(build, svd, trainset, inputs)
        page = _report(build, svd, draft, held_out) if args.report and held_out else None
        if not (args.force_publish or all(check.passed for check in checks)):
            folder = publishing.refuse(svd, trainset, args.models_dir, draft, page)
            _print_asked(build)
            raise describe_refusal(checks, from_here(folder), args.algorithm)
        folder = publishing.publish(
            svd, trainset, args.models_dir, draft=draft, report=page, keep=args.keep,
            held_out=held_out.rows() if held_out else None, forced=not draft["gate"]["passed"],
        )  # fmt: skip
        if args.user_vectors and build.users is not None:
            write_users(build.users, args.user_vectors, folder.name)
        _print(build, svd, checks, folder, time.monotonic() - started)


def _train(build: Build) -> tuple[SVD, Trainset]:
    args = build.args
    if build.whole is None:
        return train(
            build.table, args.algorithm, build.parameters, args.seed, cluster=build.cluster
        )
    assert build.cluster is not None  # noqa: S101  it holds the ratings
    svd, trainset, build.users = train_films(
        build.cluster, build.whole, args.seed, build.parameters
    )
    return svd, trainset


def _gather(build: Build) -> None:
    """The ratings of both sides, and what is to be replaced by what comes of them."""
    args = build.args
    publishing.prepare(args.models_dir)
    live, unreadable = _read_live_manifest(args.models_dir, forced=args.force_publish)
    counts = counts_of(live) if live else None
    dropped: dict[str, int] = {}
    if args.ratings:
        app_ratings = ratings.empty_ratings()
    elif args.dataset == "sample":
        app_ratings = ratings.empty_ratings()
        if not args.replace_real_model:
            keep_real_model(counts, args.models_dir)
    else:
        app_ratings, dropped = read_app_ratings_or_stop(counts, args.allow_missing_app_ratings)
    build.table = ratings.combine(build.mapped.ratings, app_ratings)
    build.app_dropped, build.live, build.live_unreadable = dropped, live, unreadable


def _read_live_manifest(models_dir: Path, *, forced: bool) -> tuple[dict[str, Any] | None, bool]:
    """None where nothing is live; or, by force, where it cannot be read; and whether that is so."""
    try:
        build_id = live_id(models_dir)
        live = read_manifest(release_folder(models_dir, build_id)) if build_id else None
    except ReleaseError as error:
        if not forced:
            raise type(error)(
                f"{error}. What is published is unknown: go back with --rollback ID, or build "
                "without comparing by --force-publish"
            ) from None
        logger.warning("%s; going on, as --force-publish asks for", error)
        return None, True
    return live, False


def _look_closely(build: Build) -> None:
    """Tune, cross-validate and evaluate, as asked for."""
    args = build.args
    if args.tune:
        build.parameters, lines = _tune(build)
        build.tuned = True
        build.lines += lines
    if args.cv:
        build.scores = _cross_validate(build)
    if args.evaluate:
        build.evaluations = _evaluate(build)
        build.lines += summary.describe_evaluation(build.evaluations)


def _tune(build: Build) -> tuple[Parameters, list[str]]:
    """The best parameters found, and the lines that say so."""
    from .evaluation.tuning import FOLDS, tune

    args, first = build.args, build.parameters
    _check_folds(FOLDS, build.table, "--tune")
    minutes = args.tune_minutes or TUNE_MINUTES
    logger.info("trying %d sets of parameters, at most %g minutes", args.tune, minutes)
    trials = tune(build.table, first, args.tune, 60 * minutes, args.seed)
    return trials[0].parameters, summary.describe_tuning(trials, first, args.tune, minutes)


def _cross_validate(build: Build) -> list[Score]:
    from .evaluation.protocol import evaluate
    from .evaluation.splits import k_folds

    args = build.args
    _check_folds(args.cv, build.table, f"--cv {args.cv}")
    logger.info("cross-validation in %d folds", args.cv)
    fit = make_fit(args.algorithm, build.parameters, args.seed, cluster=build.cluster)
    fits = {TITLES[args.algorithm]: fit}
    splits = list(k_folds(len(build.table), args.cv, args.seed))
    return evaluate(build.table, splits, fits, ranking=False)


def _evaluate(build: Build) -> dict[str, list[Score]]:
    """What is to be trained beside the plan's SVD and simple baselines, each way to hold out."""
    from .evaluation.hold_out import name_trainings
    from .evaluation.protocol import evaluate
    from .evaluation.splits import FOLDS, all_splits

    args = build.args
    _check_folds(FOLDS, build.table, "--evaluate")
    if build.mapped.dataset == "ml-100k":
        movielens.fetch_splits(args.data_dir)
    named = name_trainings(args.algorithm, build.parameters, tuned=build.tuned)
    cluster = build.cluster
    fits = {
        name: make_fit(*training, args.seed, cluster=cluster) for name, training in named.items()
    }
    ways = all_splits(build.mapped, build.table, args.data_dir, args.seed)
    return {name: evaluate(build.table, splits, fits) for name, splits in ways.items()}


def _check_folds(folds: int, table: pd.DataFrame, flag: str) -> None:
    if folds > len(table):
        raise UsageError(f"{flag} asks for more folds than {len(table):,} ratings")


def _judge(
    build: Build, svd: SVD, trainset: Trainset, inputs: Mapping[str, Any]
) -> tuple[HoldOut | None, list[Check], dict[str, Any]]:
    """What a held-out fifth says, what speaks for and against the model, and a manifest."""
    from .evaluation.hold_out import hold_out

    args = build.args
    draft = draft_manifest(svd, trainset, **describe_build(build, inputs))
    few = too_few(build.table)
    if few:
        if args.report:
            raise UsageError(f"--report needs more: {few}")
        held_out, checks = None, [Check(passed=False, text=few)]
    else:
        held_out = hold_out(
            build.table, args.algorithm, build.parameters, args.seed,
            tuned=build.tuned, ranking=args.report, cluster=build.cluster,
        )  # fmt: skip
        checks = check_model(svd, held_out, counts_of(draft), _published(build))
        draft["metrics"] = describe_scores({HELD_OUT: held_out.scores}) + draft["metrics"]
    if build.live_unreadable:
        checks.append(Check(passed=False, text="what was live cannot be read, nor compared with"))
    passed = all(check.passed for check in checks)
    draft["gate"] = {
        "passed": passed,
        "forced": args.force_publish and not passed,
        "checks": [check._asdict() for check in checks],
    }
    return held_out, checks, draft


def _published(build: Build) -> Published | None:
    """What the new model is held against; None where nothing is live, or less is meant."""
    args = build.args
    if build.live is None:
        return None
    counts = counts_of(build.live)
    if counts.is_sample != (args.dataset == "sample"):
        return None
    if (
        args.allow_missing_app_ratings
        and not args.ratings
        and len(build.table) == len(build.mapped.ratings)
    ):
        counts = counts.without_app()
    try:
        held_out = read_held_out(release_folder(args.models_dir, build.live["build_id"]))
    except ReleaseError as error:
        logger.warning("%s; errors are not compared with what was published", error)
        held_out = None
    return Published(counts, held_out, build.live["algorithm"] or "of unknown algorithm")


def _report(build: Build, svd: SVD, draft: dict[str, Any], held_out: HoldOut) -> str:
    """The page about the build."""
    from .report import page as report

    args = build.args
    titles = movielens.read_titles(args.dataset, args.data_dir)
    return report.render_report(
        report.Content(build.mapped, titles, build.table, svd, held_out, build.evaluations),
        draft,
        build.live,
    )


def _print_asked(build: Build) -> None:
    """What --tune, --evaluate and --cv found, and no more."""
    errors = ["", *summary.describe_errors(build.scores)] if build.scores else []
    if build.lines or errors:
        print_lines(build.lines + errors)


def _print(build: Build, svd: SVD, checks: list[Check], folder: Path, seconds: float) -> None:
    args, lines = build.args, build.lines
    if args.quiet:
        _print_asked(build)
    else:
        files = [args.models_dir / name for name in (MODEL_FILE, TRAINSET_FILE)]
        if (folder / REPORT_FILE).is_file():
            files.append(args.models_dir / REPORT_FILE)
        lines += summary.describe_build(
            build.mapped, build.table, svd, build.scores, checks, files, folder, seconds,
            counts_of(read_manifest(folder)) if build.whole else None,
        )  # fmt: skip
        if args.dataset == "sample":
            lines += summary.describe_demo(svd, build.table)
        print_lines(lines)

"""What a build is asked to do, as frozen values made and checked once, in the script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .algorithms.training import ALGORITHMS, AUTO, find_algorithm, make_training
from .datasets import DEFAULT_DATASET
from .errors import UsageError
from .spark import ALS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from .algorithms.training import Training


@dataclass(frozen=True)
class SparkOptions:
    """How to train on a Spark cluster."""

    master: str | None = None
    """`spark://HOST:PORT`, `yarn`, …; None: `local[*]`, or what spark-submit says."""
    ratings: str | None = None
    """Ratings in place of MovieLens's and the app's: a Hadoop path or a `jdbc:` URL."""
    item_only: bool = False
    """Whether to release no users, however few there are."""
    user_vectors: str | None = None
    """Hadoop path where an item-only build writes users' biases and vectors."""
    checkpoint_dir: str | None = None
    """Hadoop path for stages that are done, so that a build that was killed resumes."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build does; a manifest repeats what decides its result."""

    dataset: str
    """One of `datasets.NAMES`, or several with commas between."""
    catalog: str | None
    """Path of the app's TMDB ids, or `all`; None: the app's, and for the sample all."""
    data_dir: Path
    models_dir: Path
    algorithm: str
    """As asked for: a name, or `AUTO`."""
    trainings: tuple[Training, ...]
    """Algorithms with their parameters and seed; the best of several is published."""
    report: bool
    """Whether to leave a page about the build beside the files."""
    if_changed: bool
    """Whether to build only where ratings, parameters or versions have changed."""
    keep: int
    """Releases to keep."""
    allow_missing_app_ratings: bool
    """Whether to build without app ratings where they cannot be read."""
    force_publish: bool
    """Whether to publish what the gate refuses."""
    quiet: bool
    """Whether to print no summary."""
    spark: SparkOptions | None = None
    """None: train on this machine."""


def make_build_options(args: argparse.Namespace) -> BuildOptions:
    """Return the options that the flags of `ml.build_collaborative` ask for.

    Raises:
        UsageError: flags that do not go together.
    """
    return BuildOptions(
        dataset=args.dataset,
        catalog=args.catalog,
        data_dir=args.data_dir,
        models_dir=args.models_dir,
        algorithm=choose_algorithm(args),
        trainings=choose_trainings(args),
        report=args.report,
        if_changed=args.if_changed,
        keep=args.keep,
        allow_missing_app_ratings=args.allow_missing_app_ratings,
        force_publish=args.force_publish,
        quiet=args.quiet,
        spark=_make_spark_options(args),
    )


def choose_algorithm(args: argparse.Namespace) -> str:
    """Return the algorithm that the flags ask for: a name, or `AUTO`.

    Parameters that only the SVD has ask for the SVD.

    Raises:
        UsageError: an algorithm is named beside --spark, which has its own.
    """
    if getattr(args, "spark", None) is not None:
        if args.algorithm:
            raise UsageError(
                f"--spark trains by ALS: leave --algorithm {args.algorithm} out, "
                "or leave --spark out"
            )
        return ALS.name
    of_svd = any(getattr(args, name) is not None for name in ("epochs", "lr", "reg"))
    return str(args.algorithm or ("svd" if of_svd else AUTO))


def choose_trainings(args: argparse.Namespace) -> tuple[Training, ...]:
    """Return the trainings that the flags ask for.

    Raises:
        UsageError: a parameter has no meaning for the algorithm; or see `choose_algorithm`.
    """
    name = choose_algorithm(args)
    asked = {name: getattr(args, name) for name in ("factors", "epochs", "lr", "reg")}
    if name != AUTO:
        chosen = ALS if name == ALS.name else find_algorithm(name)
        return (make_training(chosen, args.seed, **asked),)
    for flag in ("epochs", "lr", "reg"):
        if asked[flag] is not None:
            raise UsageError(f"--{flag} is of the SVD alone: say --algorithm svd")
    return tuple(
        make_training(algorithm, args.seed, factors=args.factors)
        for algorithm in ALGORITHMS.values()
    )


def _make_spark_options(args: argparse.Namespace) -> SparkOptions | None:
    if args.spark is None:
        for flag in ("ratings", "item_only", "checkpoint_dir"):
            if getattr(args, flag) is not None:
                raise UsageError(f"--{flag.replace('_', '-')} needs --spark")
        return None
    if args.report:
        raise UsageError("--report is not available with --spark: leave one of them out")
    if args.item_only is not None and not args.ratings:
        raise UsageError("--item-only needs ratings on the cluster: name them with --ratings")
    if args.ratings and args.dataset != DEFAULT_DATASET:
        raise UsageError(f"--ratings takes the place of --dataset {args.dataset}: leave one out")
    return SparkOptions(
        master=args.spark or None,
        ratings=args.ratings,
        item_only=args.item_only is not None,
        user_vectors=None if args.item_only is True else args.item_only,
        checkpoint_dir=args.checkpoint_dir,
    )

"""Train collaborative filtering on MovieLens and the app's own ratings, and publish it.

Run it in `backend/`: python -m ml.build_collaborative
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__" and not __package__:
    print("error: run by path: use python -m ml.build_collaborative in backend/", file=sys.stderr)
    sys.exit(2)

from .collaborative import ratings
from .collaborative.algorithms.training import ALGORITHMS, ALS, DEFAULTS, PLAN, Parameters, train
from .collaborative.app_ratings.reading import read_app_ratings
from .collaborative.build import run_build
from .collaborative.cli import (
    BUILD_CODES,
    at_least,
    folder,
    make_parser,
    positive,
    print_lines,
    run,
    some_text,
)
from .collaborative.errors import InputError, SourceError
from .collaborative.paths import MODELS_DIR
from .collaborative.provenance import TUNE_MINUTES
from .collaborative.release import history, publishing
from .collaborative.report import summary
from .collaborative.spark.session import STORAGE_LEVELS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import pandas as pd
    from surprise import SVD, Trainset

logger = logging.getLogger("ml.collaborative.script")


def get_real_user_ratings() -> pd.DataFrame:
    """Every rating in the app's database, see `app_ratings.read_app_ratings`.

    Returns:
        Columns user_id (str, held as categories), movie_id (int64, TMDB) and rating (float64).
        Empty where that is not configured, and, with a warning, where it fails.
    """
    try:
        return read_app_ratings()[0]
    except (SourceError, InputError) as error:
        logger.warning("%s; going on without app ratings", error)
        return ratings.empty_ratings()


def combine_ratings(ml_ratings: pd.DataFrame, real_ratings: pd.DataFrame) -> pd.DataFrame:
    """One table of MovieLens's ratings, then the app's own; see `ratings.combine`."""
    return ratings.combine(ml_ratings, real_ratings)


def train_svd_model(
    combined_ratings: pd.DataFrame,
    *,
    algorithm: str = "svd",
    factors: int = PLAN.factors,
    epochs: int = PLAN.epochs,
    lr: float = PLAN.lr,
    reg: float = PLAN.reg,
    seed: int = 0,
) -> tuple[SVD, Trainset]:
    """Train a scikit-surprise SVD (matrix factorization with biases) on every rating.

    Args:
        combined_ratings: a ratings table; its order decides the order of the SGD steps.
        algorithm: `svd`, scikit-surprise's own by SGD, or `bayesian`: by Gibbs sampling, with
            smaller errors (see `bayesian`); it takes no `epochs`, `lr` and `reg`.
        factors: length of the film and user vectors.
        epochs: passes over the ratings.
        lr: learning rate of all parameters.
        reg: regularisation of all parameters.
        seed: of what is drawn at random; the same seed gives the same model.

    Returns:
        The trained model and the trainset it was trained on.

    Raises:
        InputError: no ratings, or not a ratings table.
        GateError: training diverged.
    """
    return train(combined_ratings, algorithm, Parameters(factors, epochs, lr, reg), seed)


def save_models(svd_model: SVD, trainset: Trainset, models_dir: str | None = None) -> None:
    """Publish a release with `svd_model.pkl` and `cf_trainset.pkl` in `models_dir`.

    It takes the place of what was there in one step, once it is whole on the disk; the gate of
    the script is not asked.

    Args:
        svd_model: a trained model.
        trainset: what it was trained on, with its ratings.
        models_dir: default `ml/models`.

    Raises:
        InputError: the trainset has no ratings, or its ids are no text and integers.
        OSError: it could not be written; what was there stays.
    """
    publishing.publish(svd_model, trainset, Path(models_dir or MODELS_DIR))


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    parser = make_parser(
        "ml.build_collaborative",
        "Train collaborative filtering and publish it to the models folder.",
        BUILD_CODES,
    )
    add = parser.add_argument
    add("--models-dir", type=folder, default=MODELS_DIR, metavar="DIR",
        help="where the artifacts go (default ml/models)")  # fmt: skip
    add("--algorithm", choices=ALGORITHMS,
        help="svd (default), or bayesian: slower, with smaller errors")  # fmt: skip
    add("--cv", type=at_least(2), metavar="N", help="N-fold cross-validation before training")
    add("--evaluate", action="store_true",
        help="measure errors and rankings in several ways before training")  # fmt: skip
    add("--report", action="store_true",
        help="leave a page about the build beside the artifacts, report.html")  # fmt: skip
    add("--tune", type=at_least(1), metavar="N",
        help="try N sets of the SVD's parameters and train with the best")  # fmt: skip
    add("--tune-minutes", type=positive, metavar="M",
        help=f"with --tune: end the trials after so long, default {TUNE_MINUTES}")  # fmt: skip
    add("--factors", type=at_least(1),
        help=f"length of the film and user vectors, default {PLAN.factors}; "
        f"of --engine spark {DEFAULTS[ALS].factors}")  # fmt: skip
    add(
        "--epochs",
        type=at_least(1),
        help=f"of svd and spark: passes over the ratings, default {PLAN.epochs}; "
        f"of spark {DEFAULTS[ALS].epochs}",
    )
    add("--lr", type=positive, help=f"of svd: learning rate, default {PLAN.lr}")
    add("--reg", type=positive, help=f"of svd and spark: regularisation, default {PLAN.reg}; "
        f"of spark {DEFAULTS[ALS].reg}")  # fmt: skip
    add("--seed", type=at_least(0), default=0,
        help="the same seed and data give the same model, default %(default)s")  # fmt: skip
    add("--allow-missing-app-ratings", action="store_true",
        help="build without app ratings where their database fails, or has none")  # fmt: skip
    add("--force-publish", action="store_true",
        help="publish a model that is not fit to be; its manifest says so")  # fmt: skip
    add("--replace-real-model", action="store_true",
        help="let a model of the generated sample replace one of real ratings")  # fmt: skip
    add("--if-changed", action="store_true",
        help="build only where ratings, parameters or versions have changed")  # fmt: skip
    add("--keep", type=at_least(1), default=publishing.KEEP, metavar="N",
        help="releases to keep, default %(default)s; the live one always stays")  # fmt: skip
    _add_spark(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true",
        help="show the releases, and which is live, instead of a build")  # fmt: skip
    instead.add_argument("--rollback", nargs="?", const="", metavar="ID",
        help="make an older release live instead of a build: ID, or the one before")  # fmt: skip
    return run(_work, parser.parse_args(argv))


def _add_spark(parser: argparse.ArgumentParser) -> None:
    """The flags of training on a Spark cluster."""
    group = parser.add_argument_group("on a Spark cluster", "see requirements-spark.txt")
    add = group.add_argument
    add("--engine", choices=("local", "spark"), default="local",
        help="local (default), or spark: ALS on a Spark cluster")  # fmt: skip
    add("--master", metavar="URL",
        help="spark://HOST:PORT, yarn, ...; default local[*], or spark-submit's")  # fmt: skip
    add("--ratings", metavar="PATH", type=some_text,
        help="ratings in place of MovieLens's and the app's: Parquet or .csv on any Hadoop path, "
        "or a jdbc: URL; columns user_id, movie_id (TMDB) and rating")  # fmt: skip
    add("--films-only", action="store_true",
        help="release films alone, users to be folded in, however few there are")  # fmt: skip
    add("--user-vectors", metavar="PATH", type=some_text,
        help="with a release of films alone: write users' vectors there as Parquet")  # fmt: skip
    add("--checkpoint-dir", metavar="PATH", type=some_text,
        help="keep what is done there, so that a build that was killed resumes")  # fmt: skip
    add("--partitions", type=at_least(1), metavar="N", help="default: a million ratings in each")
    add("--storage-level", choices=STORAGE_LEVELS,
        help="of what is kept between steps, default by size")  # fmt: skip


def _work(args: argparse.Namespace) -> None:
    if args.list:
        print_lines(
            summary.describe_releases(args.models_dir, history.list_releases(args.models_dir))
        )
    elif args.rollback is not None:
        live, before = publishing.roll_back(args.models_dir, args.rollback)
        print_lines([summary.describe_rollback(live, before)])
    else:
        run_build(args)


if __name__ == "__main__":
    sys.exit(main())

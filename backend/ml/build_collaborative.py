"""Train collaborative filtering on MovieLens and the app's own ratings, and publish it.

Run it in `backend/`: python -m ml.build_collaborative
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__" and not __package__:
    print("error: run by path: use python -m ml.build_collaborative in backend/", file=sys.stderr)
    sys.exit(2)

from . import movielens, ratings, release, summary
from .app_ratings import read_app_ratings, read_app_ratings_or_stop
from .cli import (
    BUILD_CODES,
    at_least,
    folder,
    make_parser,
    positive,
    print_lines,
    resolve_catalog,
    run,
)
from .errors import SourceError, UsageError
from .files import locked
from .gate import Check, keep_real_model, refuse_or_pass
from .training import ALGORITHMS, PLAN, Parameters, make_fit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import pandas as pd
    from surprise import SVD, Trainset

    from .evaluation import Score
    from .hold_out import HoldOut

TUNE_MINUTES = 10
logger = logging.getLogger("ml.build_collaborative")


def get_real_user_ratings() -> pd.DataFrame:
    """Every rating in the app's Supabase table `ratings`.

    Returns:
        Columns user_id (str, held as categories), movie_id (int64, TMDB) and rating (float64).
        Empty where Supabase is not configured, and, with a warning, where it fails.
    """
    try:
        return read_app_ratings()
    except SourceError as error:
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
    from .trainset import make_trainset

    fit = make_fit(algorithm, Parameters(factors, epochs, lr, reg), seed)
    trainset = make_trainset(ratings.check_ratings(combined_ratings))
    low, high = trainset.rating_scale
    logger.info("training on %s ratings, scale %g to %g", f"{trainset.n_ratings:,}", low, high)
    return fit(trainset), trainset


def save_models(svd_model: SVD, trainset: Trainset, models_dir: str | None = None) -> None:
    """Write `svd_model.pkl` and `cf_trainset.pkl` to `models_dir` (default `ml/models`).

    No reader sees half a file, and what was there stays until both are whole on the disk.
    """
    release.publish(svd_model, trainset, Path(models_dir or release.DEFAULT_MODELS_DIR))


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    parser = make_parser(
        "ml.build_collaborative",
        "Train collaborative filtering and publish it to the models folder.",
        BUILD_CODES,
    )
    add = parser.add_argument
    add("--models-dir", type=folder, default=release.DEFAULT_MODELS_DIR, metavar="DIR",
        help="where the artifacts go (default ml/models)")  # fmt: skip
    add("--algorithm", choices=ALGORITHMS, default="svd",
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
    add("--factors", type=at_least(1), default=PLAN.factors,
        help="length of the film and user vectors, default %(default)s")  # fmt: skip
    add(
        "--epochs",
        type=at_least(1),
        help=f"of svd: passes over the ratings, default {PLAN.epochs}",
    )
    add("--lr", type=positive, help=f"of svd: learning rate, default {PLAN.lr}")
    add("--reg", type=positive, help=f"of svd: regularisation, default {PLAN.reg}")
    add("--seed", type=at_least(0), default=0,
        help="the same seed and data give the same model, default %(default)s")  # fmt: skip
    add("--allow-missing-app-ratings", action="store_true",
        help="publish without app ratings even where the published model has some")  # fmt: skip
    add("--force-publish", action="store_true",
        help="publish a model that is not fit to be")  # fmt: skip
    add("--replace-real-model", action="store_true",
        help="let a model of the generated sample replace one of real ratings")  # fmt: skip
    return run(_work, parser.parse_args(argv))


def _parameters(args: argparse.Namespace) -> Parameters:
    """As asked for, else the plan's."""
    if args.algorithm != "svd":
        for name in ("epochs", "lr", "reg", "tune"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} is of --algorithm svd")
    if args.tune_minutes and not args.tune:
        raise UsageError("--tune-minutes without --tune: say --tune N, how many sets to try")
    return Parameters(
        args.factors, args.epochs or PLAN.epochs, args.lr or PLAN.lr, args.reg or PLAN.reg
    )


def _work(args: argparse.Namespace) -> None:
    started = time.monotonic()
    parameters = _parameters(args)
    catalog = resolve_catalog(args.catalog, args.dataset)
    release.check_place(args.models_dir)
    mapped = movielens.load(args.dataset, args.data_dir, catalog)
    for line in mapped.describe():
        logger.info("%s", line)
    with locked(args.models_dir):
        if args.dataset == "sample":
            app_ratings = ratings.empty_ratings()
            if not args.replace_real_model:
                keep_real_model(args.models_dir)
        else:
            app_ratings = read_app_ratings_or_stop(args.models_dir, args.allow_missing_app_ratings)
        combined = combine_ratings(mapped.ratings, app_ratings)
        lines: list[str] = []
        if args.tune and len(combined):
            parameters, lines = _tune(args, combined, parameters)
        scores: list[Score] = []
        if args.cv and len(combined):
            scores = _cross_validate(args, combined, parameters)
        evaluations: dict[str, list[Score]] = {}
        if args.evaluate and len(combined):
            evaluations = _evaluate(args, mapped, combined, parameters)
            lines += summary.describe_evaluation(evaluations)
        svd, trainset = train_svd_model(
            combined, algorithm=args.algorithm, **asdict(parameters), seed=args.seed
        )
        published = None if args.force_publish else release.read_published(args.models_dir)
        held_out, checks = _judge(args, combined, svd, parameters, published)
        page = None
        if args.report and held_out:
            page = _report(args, mapped, combined, svd, parameters, held_out, evaluations)
        if not args.force_publish:
            refuse_or_pass(checks, svd, trainset, args.models_dir, page)
        files = release.publish(svd, trainset, args.models_dir, page)
    if args.quiet:  # only what was asked for by --tune, --evaluate and --cv
        lines += ["", *summary.describe_errors(scores)] if scores else []
    else:
        seconds = time.monotonic() - started
        lines += summary.describe_build(mapped, combined, svd, scores, checks, files, seconds)
        if args.dataset == "sample":
            lines += summary.describe_demo(svd, combined)
    if lines:
        print_lines(lines)


def _tune(
    args: argparse.Namespace, combined: pd.DataFrame, first: Parameters
) -> tuple[Parameters, list[str]]:
    """The best parameters found, and the lines that say so."""
    from .tuning import FOLDS, tune

    _check_folds(FOLDS, combined, "--tune")
    minutes = args.tune_minutes or TUNE_MINUTES
    logger.info("trying %d sets of parameters, at most %g minutes", args.tune, minutes)
    trials = tune(combined, first, args.tune, 60 * minutes, args.seed)
    return trials[0].parameters, summary.describe_tuning(trials, first, args.tune, minutes)


def _cross_validate(
    args: argparse.Namespace, combined: pd.DataFrame, parameters: Parameters
) -> list[Score]:
    from .evaluation import evaluate
    from .splits import k_folds

    _check_folds(args.cv, combined, f"--cv {args.cv}")
    logger.info("cross-validation in %d folds", args.cv)
    fits = {ALGORITHMS[args.algorithm]: make_fit(args.algorithm, parameters, args.seed)}
    splits = list(k_folds(len(combined), args.cv, args.seed))
    return evaluate(combined, splits, fits, ranking=False)


def _evaluate(
    args: argparse.Namespace,
    mapped: movielens.MappedRatings,
    combined: pd.DataFrame,
    parameters: Parameters,
) -> dict[str, list[Score]]:
    """What is to be trained beside the plan's SVD and simple baselines, each way to hold out."""
    from .evaluation import evaluate
    from .hold_out import name_trainings
    from .splits import FOLDS, all_splits

    _check_folds(FOLDS, combined, "--evaluate")
    if args.dataset == "ml-100k":
        movielens.fetch_splits(args.data_dir)
    named = name_trainings(args.algorithm, parameters, tuned=bool(args.tune))
    fits = {name: make_fit(*training, args.seed) for name, training in named.items()}
    return {
        name: evaluate(combined, splits, fits)
        for name, splits in all_splits(mapped, combined, args.data_dir, args.seed).items()
    }


def _judge(
    args: argparse.Namespace,
    combined: pd.DataFrame,
    svd: SVD,
    parameters: Parameters,
    published: release.Published | None,
) -> tuple[HoldOut | None, list[Check]]:
    """What a held-out fifth says of the training, and what speaks for and against the model."""
    from .gate import check_model, too_few
    from .hold_out import hold_out

    few = too_few(combined)
    if few:
        if args.report:
            raise UsageError(f"--report needs more: {few}")
        return None, [Check(passed=False, text=few)]
    held_out = hold_out(
        combined, args.algorithm, parameters, args.seed, tuned=bool(args.tune), ranking=args.report
    )
    if args.allow_missing_app_ratings or (
        published and published.is_sample != (args.dataset == "sample")
    ):
        published = None  # fewer ratings are meant
    app_users = combined["user_id"][ratings.is_app_user(combined["user_id"])].nunique()
    return held_out, check_model(svd, held_out, app_users, published)


def _report(
    args: argparse.Namespace,
    mapped: movielens.MappedRatings,
    combined: pd.DataFrame,
    svd: SVD,
    parameters: Parameters,
    held_out: HoldOut,
    evaluations: dict[str, list[Score]],
) -> str:
    """The page about the build."""
    from . import report

    build = report.Build(
        mapped, movielens.read_titles(args.dataset, args.data_dir), combined, svd,
        args.algorithm, parameters, bool(args.tune), args.seed, held_out, evaluations,
    )  # fmt: skip
    return report.render_report(build, report.read_facts(args.models_dir / release.REPORT_FILE))


def _check_folds(folds: int, table: pd.DataFrame, flag: str) -> None:
    if folds > len(table):
        raise UsageError(f"{flag} asks for more folds than {len(table):,} ratings")


if __name__ == "__main__":
    sys.exit(main())

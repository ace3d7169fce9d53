"""Train collaborative filtering on MovieLens and the app's own ratings, and publish it.

Run it in `backend/`: python -m ml.build_collaborative
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import movielens, ratings, release, summary
from .cli import folder, make_parser, print_lines, resolve_catalog, run
from .errors import SourceError, UsageError
from .files import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from surprise import SVD, Trainset

    from .evaluation import Score

logger = logging.getLogger("ml.build_collaborative")

FACTORS, EPOCHS, LEARNING_RATE, REGULARISATION = 100, 20, 0.005, 0.02


def get_real_user_ratings() -> pd.DataFrame:
    """Every rating in the app's Supabase table `ratings`.

    Returns:
        Columns user_id (str, held as categories), movie_id (int64, TMDB) and rating (float64).
        Empty where Supabase is not configured, and, with a warning, where it fails.
    """
    try:
        return _read_app_ratings()
    except SourceError as error:
        logger.warning("%s; going on without app ratings", error)
        return ratings.empty_ratings()


def _read_app_ratings() -> pd.DataFrame:
    """As `get_real_user_ratings`, but raises SourceError where Supabase fails."""
    from config import settings

    url, key = settings.supabase_url, settings.supabase_service_role_key
    if not url and not key:
        logger.info("no app ratings: SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY are not set")
        return ratings.empty_ratings()
    if not url or not key:
        missing = "SUPABASE_SERVICE_ROLE_KEY" if url else "SUPABASE_URL"
        raise SourceError(f"Supabase is half configured: {missing} is not set")
    from .supabase_ratings import read_ratings

    table, dropped = read_ratings(url, key)
    for reason, count in dropped.items():
        logger.warning("left out %s app ratings: %s", f"{count:,}", reason)
    return table


def combine_ratings(ml_ratings: pd.DataFrame, real_ratings: pd.DataFrame) -> pd.DataFrame:
    """One table of MovieLens's ratings, then the app's own; see `ratings.combine`."""
    return ratings.combine(ml_ratings, real_ratings)


def train_svd_model(
    combined_ratings: pd.DataFrame,
    *,
    factors: int = FACTORS,
    epochs: int = EPOCHS,
    lr: float = LEARNING_RATE,
    reg: float = REGULARISATION,
    seed: int = 0,
) -> tuple[SVD, Trainset]:
    """Train scikit-surprise's SVD (Funk's matrix factorization with biases) on every rating.

    Args:
        combined_ratings: a ratings table; its order decides the order of the SGD steps.
        factors: length of the film and user vectors.
        epochs: passes over the ratings.
        lr: learning rate of all parameters.
        reg: regularisation of all parameters.
        seed: of the initial factors; the same seed gives the same model.

    Returns:
        The trained model and the trainset it was trained on.

    Raises:
        InputError: no ratings, or not a ratings table.
        GateError: training diverged.
    """
    from .svd import fit_svd
    from .trainset import make_trainset

    trainset = make_trainset(ratings.check_ratings(combined_ratings))
    low, high = trainset.rating_scale
    logger.info("training on %s ratings, scale %g to %g", f"{trainset.n_ratings:,}", low, high)
    return fit_svd(trainset, factors=factors, epochs=epochs, lr=lr, reg=reg, seed=seed), trainset


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
    )
    add = parser.add_argument
    add("--models-dir", type=folder, default=release.DEFAULT_MODELS_DIR, metavar="DIR",
        help="where the artifacts go (default ml/models)")  # fmt: skip
    add("--cv", type=_at_least(2), metavar="N", help="N-fold cross-validation before training")
    add("--factors", type=_at_least(1), default=FACTORS,
        help="length of the film and user vectors, default %(default)s")  # fmt: skip
    add("--epochs", type=_at_least(1), default=EPOCHS,
        help="passes over the ratings, default %(default)s")  # fmt: skip
    add("--lr", type=_positive, default=LEARNING_RATE, help="learning rate, default %(default)s")
    add("--reg", type=_positive, default=REGULARISATION,
        help="regularisation, default %(default)s")  # fmt: skip
    add("--seed", type=_at_least(0), default=0,
        help="the same seed and data give the same model, default %(default)s")  # fmt: skip
    add("--allow-missing-app-ratings", action="store_true",
        help="publish without app ratings even where the published model has some")  # fmt: skip
    add("--replace-real-model", action="store_true",
        help="let a model of the generated sample replace one of real ratings")  # fmt: skip
    return run(_work, parser.parse_args(argv))


def _at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: an integer from `lowest` to what NumPy takes as a seed."""

    def integer(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) < 2**32):
            raise argparse.ArgumentTypeError(f"{text!r} is no integer from {lowest} to {2**32 - 1}")
        return int(text)

    return integer


def _positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _work(args: argparse.Namespace) -> None:
    started = time.monotonic()
    parameters = {name: getattr(args, name) for name in ("factors", "epochs", "lr", "reg", "seed")}
    catalog = resolve_catalog(args.catalog, args.dataset)
    mapped = movielens.load(args.dataset, args.data_dir, catalog)
    for line in mapped.describe():
        logger.info("%s", line)
    with locked(args.models_dir):
        if args.dataset == "sample":
            app_ratings = ratings.empty_ratings()
            if not args.replace_real_model:
                _keep_real_model(args.models_dir)
        else:
            app_ratings = _read_app_ratings_or_stop(args.models_dir, args.allow_missing_app_ratings)
        combined = combine_ratings(mapped.ratings, app_ratings)
        scores: list[Score] = []
        if args.cv and len(combined):
            from .evaluation import cross_validate
            from .svd import fit_svd

            if args.cv > len(combined):
                raise UsageError(
                    f"--cv {args.cv} asks for more folds than {len(combined):,} ratings"
                )
            logger.info("cross-validation in %d folds", args.cv)
            scores = cross_validate(combined, partial(fit_svd, **parameters), args.cv, args.seed)
        svd, trainset = train_svd_model(combined, **parameters)
        sanity = _predict_known_pair(svd, combined)
        files = release.publish(svd, trainset, args.models_dir)
    if not args.quiet:
        seconds = time.monotonic() - started
        lines = summary.describe_build(mapped, combined, scores, sanity, files, seconds)
        if args.dataset == "sample":
            lines += summary.describe_demo(svd, combined)
        print_lines(lines)


def _keep_real_model(models_dir: Path) -> None:
    """Refuse to go on where the published model is one of real ratings."""
    published = release.read_published(models_dir)
    if published and not published.is_sample:
        raise UsageError(
            f"{models_dir} holds a model of real ratings, and a sample would replace it: "
            "name another folder with --models-dir, or pass --replace-real-model"
        )


def _read_app_ratings_or_stop(models_dir: Path, allow_missing: bool) -> pd.DataFrame:
    """The app's ratings; stops where none came and the published model was trained with some."""
    failure = ""
    try:
        table = _read_app_ratings()
    except SourceError as error:
        table, failure = ratings.empty_ratings(), str(error)
    if table.empty and not allow_missing:
        published = release.read_published(models_dir)
        if published and published.app_users:
            raise SourceError(
                f"{failure or 'no app ratings came'}. The published model knows "
                f"{published.app_users:,} app users and is kept; mend that, "
                "or publish without them by --allow-missing-app-ratings"
            )
    if failure:
        logger.warning("%s; going on without app ratings", failure)
    return table


def _predict_known_pair(svd: SVD, combined: pd.DataFrame) -> str:
    """Predict the first rating, and say what came."""
    known = combined.iloc[0]
    prediction = svd.predict(known["user_id"], int(known["movie_id"]))
    user = (
        known["user_id"] if known["user_id"].startswith(ratings.NOT_APP_PREFIX) else "an app user"
    )
    return (
        f"{user} gave film {known['movie_id']} {known['rating']:g} stars, "
        f"predicted {prediction.est:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""Train collaborative filtering on MovieLens and the app's own ratings, and publish it.

Run it beside the folder `ml`: python -m ml.build_collaborative
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:
        print("error: run it as a module: python -m ml.build_collaborative", file=sys.stderr)
        sys.exit(2)
    from .collaborative import process

    process.begin()

import time
from typing import TYPE_CHECKING, Any

from .collaborative import catalog, cli, datasets, ratings
from .collaborative.algorithms.training import find_algorithm, make_training, train
from .collaborative.errors import InputError, SourceError
from .collaborative.options import make_build_options
from .collaborative.paths import MODELS_DIR, expand
from .collaborative.release import KEEP, ReleaseStore
from .download_movielens import download_movielens_100k, load_movielens_ratings_with_tmdb_mapping

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD, Trainset

    from .collaborative.algorithms.training import Algorithm
    from .collaborative.options import BuildOptions
    from .collaborative.ratings import Counts
    from .collaborative.spark.session import Cluster


def get_real_user_ratings(
    *, required: bool = False, published: Counts | None = None
) -> pd.DataFrame:
    """Read every rating in the app's database, as the settings say.

    Args:
        required: whether a failure is an error, as in the script, and so is a database without
            ratings where the published model has some.
        published: counts of the published model.

    Returns:
        Columns user_id (str, held as categories), movie_id (int64, TMDB) and rating (float64, 0.5
        to 5). Empty where no database is configured and, with a warning, on any failure.

    Raises:
        InputError, SourceError: the ratings are required and cannot be read.
    """
    try:
        from .collaborative.app_ratings import read_app_ratings, read_app_ratings_or_stop

        return read_app_ratings_or_stop(published) if required else read_app_ratings()
    except (SourceError, InputError, ImportError, OSError) as error:
        if required:
            raise
        cli.logger.warning("%s; going on without app ratings", error)
        return ratings.empty_ratings()


def combine_ratings(ml_ratings: pd.DataFrame, real_ratings: pd.DataFrame) -> pd.DataFrame:
    """Return one table of MovieLens's ratings, then the app's own.

    Raises:
        InputError: a table lacks a column, or has an invalid value.
    """
    return ratings.combine(ml_ratings, real_ratings)


def train_svd_model(
    combined_ratings: pd.DataFrame,
    *,
    algorithm: str | Algorithm = "svd",
    factors: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    reg: float | None = None,
    seed: int = 0,
) -> tuple[SVD, Trainset]:
    """Train a scikit-surprise SVD (matrix factorization with biases) on every rating.

    Args:
        combined_ratings: a ratings table; its order decides the order of the SGD steps.
        algorithm: `svd`: scikit-surprise's own, by SGD, by default with the plan's parameters; or
            `bayesian`: by Gibbs sampling, with smaller errors, see `algorithms.bayesian`.
        factors: length of the film and user vectors.
        epochs: passes over the ratings.
        lr: learning rate of all parameters.
        reg: regularisation of all parameters.
        seed: of what is drawn at random; the same seed gives the same model.

    Returns:
        The trained model and the trainset it was trained on.

    Raises:
        InputError: there are no ratings, or it is not a ratings table.
        UsageError: there is no such algorithm, or it does not use one of the parameters.
        GateError: training diverged.
    """
    chosen = find_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    asked = {"factors": factors, "epochs": epochs, "lr": lr, "reg": reg}
    return train(combined_ratings, make_training(chosen, seed, **asked))


def save_models(
    svd_model: SVD,
    trainset: Trainset,
    models_dir: str | None = None,
    *,
    draft: Mapping[str, Any] | None = None,
    report: str | None = None,
    held_out: Mapping[str, NDArray[Any]] | None = None,
    keep: int = KEEP,
    forced: bool = False,
) -> None:
    """Publish `svd_model.pkl` and `cf_trainset.pkl` in `models_dir`, as a new release.

    It takes the place of the one before in one step, once it is whole on the disk. The gate is not
    asked: that is the script's.

    Args:
        svd_model: a trained model.
        trainset: what it was trained on.
        models_dir: default `ml/models`.
        draft: what is known of the build, see `release.draft_manifest`.
        report: HTML page about the build.
        held_out: what a later build compares with, see `evaluation.HoldOut.rows`.
        keep: releases to keep, at least 1; the live one always stays.
        forced: whether the gate refused it.

    Raises:
        InputError: the trainset's ids are not text and integers; or see `settings.read_settings`.
        OSError: it could not be written; what was published stays.
    """
    cli.use_file_mode()
    ReleaseStore(expand(models_dir or MODELS_DIR)).publish(
        svd_model, trainset, draft=draft, report=report, held_out=held_out, keep=keep, forced=forced
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = cli.make_parser(
        "ml.build_collaborative",
        "Train collaborative filtering and publish it to the models folder.",
        cli.BUILD_CODES,
    )
    cli.add_data_flags(parser)
    cli.add_models_flag(parser)
    cli.add_training_flags(parser)
    add = parser.add_argument
    add("--report", action="store_true",
        help="leave report.html, a page about the build, beside the published files")  # fmt: skip
    add("--if-changed", action="store_true",
        help="build only where ratings, parameters or versions have changed")  # fmt: skip
    add("--keep", type=cli.at_least(1), default=KEEP, metavar="N",
        help="releases to keep (default %(default)s); the live one always stays")  # fmt: skip
    add("--allow-missing-app-ratings", action="store_true",
        help="build without app ratings where they cannot be read or are gone")  # fmt: skip
    add("--force-publish", action="store_true",
        help="publish what the gate refuses, or a sample over real ratings")  # fmt: skip
    cli.add_noise_flags(parser)
    spark = parser.add_argument_group("on a Spark cluster", "see docs/spark.md").add_argument
    spark("--spark", nargs="?", const="", metavar="MASTER",
        help="train by ALS there: spark://HOST:PORT, yarn, … (default local[*])")  # fmt: skip
    spark("--ratings", type=cli.hadoop_path, metavar="PATH",
        help="ratings in place of MovieLens's and the app's: Parquet, .csv or jdbc:")  # fmt: skip
    spark("--item-only", type=cli.hadoop_path, nargs="?", const=True, metavar="PATH",
        help="release no users (they are folded in); write their vectors to PATH")  # fmt: skip
    spark("--checkpoint-dir", type=cli.hadoop_path, metavar="PATH",
        help="keep stages that are done, so that a build that was killed resumes")  # fmt: skip
    return cli.run(_work, parser.parse_args(argv))


def _work(args: argparse.Namespace) -> None:
    from .collaborative import build

    options = make_build_options(args)
    cli.use_file_mode()
    with build.cluster_of(options) as cluster:
        _build(options, cluster)


def _build(options: BuildOptions, cluster: Cluster | None) -> None:
    """Do the plan: MovieLens, the app's ratings, one table, a model, two files.

    The model is trained on all films, and published for the catalog's and those that the app's
    users rated: what a user gave to other films tells about these too.
    """
    from .collaborative import build, provenance, report
    from .collaborative import films as choice

    started = time.monotonic()
    films = catalog.resolve_catalog(options.catalog, options.dataset)
    store = ReleaseStore(options.models_dir)
    store.check_place()
    given = build.load_given(options, cluster)
    with store.locked():
        live = build.read_live(store, options)
        combined = _combine_sources(options, films, live.counts) if given is None else given.table
        inputs = provenance.describe_inputs(options, combined, films, given)
        if options.if_changed and (same := store.find_same(inputs)):
            store.prune(options.keep)
            if not options.quiet:
                cli.print_lines([report.describe_unchanged(same, store.live_id())])
            return
        if given is None:
            choice.check_catalog(options, films, combined)
        wanted = choice.choose_films(films, combined, given.whole if given else None)
        trainings = build.choose_trainings(options, cluster, given)
        held_out = build.hold_out_fifth(options, trainings, combined, wanted)
        training = held_out.training if held_out else trainings[0]
        if given is None or given.whole is None:
            whole, vectors = train_svd_model(combined, **training.as_keywords()), None
        else:
            whole, vectors = build.train_items(cluster, given.whole, training)
        model = choice.published_model(*whole, wanted)
        draft = provenance.draft(whole, model, training, combined, films, inputs, given)
        verdict = build.judge(store, options, combined, model[0], live, held_out, draft)
        published = choice.published_part(combined, wanted)
        page = build.make_page(options, verdict, published, model[0], films, live)
        if not (verdict.passed or options.force_publish):
            raise build.refuse(store, model, verdict, page)
        build.write_vectors(options, vectors, draft["build_id"])
        save_models(
            model[0], model[1], str(options.models_dir), draft=verdict.manifest, report=page,
            held_out=held_out.rows() if held_out else None, keep=options.keep,
            forced=not verdict.passed,
        )  # fmt: skip
        release = store.live_folder()
        if not options.quiet:
            seconds = time.monotonic() - started
            cli.print_lines(
                report.describe_build(
                    release, store.models_dir, published, films, model[0], verdict, seconds
                )
            )


def _combine_sources(
    options: BuildOptions, films: frozenset[int] | None, published: Counts | None
) -> pd.DataFrame:
    """Return all ratings of MovieLens, of films in the catalog or not, then the app's own."""
    from .collaborative import films as choice

    if options.dataset == "ml-100k":
        download_movielens_100k(str(options.data_dir))
    movielens = load_movielens_ratings_with_tmdb_mapping(
        str(options.data_dir), dataset=options.dataset, catalog=catalog.ALL
    )
    for line in datasets.describe(movielens, None):
        cli.logger.info("%s", line)
    if options.dataset == "sample":
        return movielens
    app = get_real_user_ratings(required=not options.allow_missing_app_ratings, published=published)
    choice.check_app_films(films, app)
    return combine_ratings(movielens, app)


if __name__ == "__main__":
    process.run(main)

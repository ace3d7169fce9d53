"""The tool for what is not a build: python -m ml.collaborative COMMAND."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:
        print("error: run it as a module: python -m ml.collaborative", file=sys.stderr)
        sys.exit(2)
    from . import process

    process.begin()

import argparse
from functools import partial
from typing import TYPE_CHECKING

from . import cli
from .errors import InputError, UsageError
from .options import choose_trainings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from .ratings import MappedRatings
    from .serving import CollaborativeModel, FoldedUser

TUNE_MINUTES = 10.0
ANYONES_LIST = "this is the list of someone of whom nothing is known"
LIKED = 4.0
"""Stars from which on a film is shown as liked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = cli.make_parser(
        __package__ or "ml.collaborative", "Look at what the builds made.", cli.SOURCE_CODES
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, work: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        added.set_defaults(work=work)
        cli.add_noise_flags(added)
        return added

    cli.add_models_flag(command("releases", _releases, "List the releases; * marks the live one."))
    rollback = command("rollback", _rollback, "Make an older release live again.")
    cli.add_models_flag(rollback)
    rollback.add_argument("id", nargs="?", default="", metavar="ID",
        help="default: the newest older one that has not itself been rolled back")  # fmt: skip

    evaluate = command("evaluate", _evaluate, "Measure errors and lists on held-out ratings.")
    tune = command("tune", _tune, "Try sets of the SVD's parameters; print the best as flags.")
    for measured in (evaluate, tune):
        cli.add_data_flags(measured)
        cli.add_training_flags(measured)
    tune.add_argument("--sets", type=cli.at_least(1), default=30, metavar="N",
        help="sets to try (default %(default)s)")  # fmt: skip
    tune.add_argument("--minutes", type=cli.positive, default=TUNE_MINUTES, metavar="M",
        help="stop after so long (default %(default)g)")  # fmt: skip

    recommend = command("recommend", _recommend, "Print a user's list of films, with titles.")
    recommend.add_argument("user", nargs="?", help="the user's id, as in the app; or ml_1, ml_2, …")
    recommend.add_argument("--stars", type=_stars, nargs="+", metavar="FILM=STARS",
        help="for a user with these ratings instead, by TMDB id: --stars 862=4.5 12=3")  # fmt: skip
    similar = command("similar", _similar, "Print the films most similar to one, with titles.")
    similar.add_argument("film", type=cli.at_least(1), help="TMDB id")
    for shown in (recommend, similar):
        shown.add_argument("-n", type=cli.at_least(1), default=10,
            help="films to print (default %(default)s)")  # fmt: skip
        cli.add_models_flag(shown)
        cli.add_data_dir_flag(shown)

    export = command("export", _export, "Write the lists of all users to a Parquet file.")
    export.add_argument(
        "file", type=cli.file, help="columns user_id, movie_id, rank, score and stars"
    )
    export.add_argument("-n", type=cli.at_least(1), default=10,
        help="films for each user (default %(default)s)")  # fmt: skip
    cli.add_models_flag(export)

    clear = command("clear-checkpoints", _clear_checkpoints,
        "Delete the checkpoints of Spark builds in a folder, and nothing else.")  # fmt: skip
    clear.add_argument(
        "path", type=cli.hadoop_path, metavar="PATH", help="that of --checkpoint-dir"
    )
    args = parser.parse_args(argv)
    return cli.run(args.work, args)


def _stars(text: str) -> tuple[int, float]:
    film, _, stars = text.partition("=")
    try:
        return int(film), float(stars)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FILM=STARS, such as 862=4.5") from None


def _releases(args: argparse.Namespace) -> None:
    from .release import ReleaseStore
    from .report import describe_releases

    store = ReleaseStore(args.models_dir)
    cli.print_result(describe_releases(store.models_dir, store.releases()))


def _rollback(args: argparse.Namespace) -> None:
    from .release import ReleaseStore
    from .report import describe_rollback

    cli.use_file_mode()
    cli.print_lines([describe_rollback(*ReleaseStore(args.models_dir).roll_back(args.id))])


def _load_ratings(args: argparse.Namespace, folds: int) -> tuple[MappedRatings, pd.DataFrame]:
    """Return MovieLens's ratings, and those with the app's own."""
    from . import datasets, ratings
    from .app_ratings import read_app_ratings
    from .catalog import resolve_catalog

    cli.use_file_mode()
    mapped = datasets.load(args.dataset, args.data_dir, resolve_catalog(args.catalog, args.dataset))
    app = ratings.empty_ratings() if args.dataset == "sample" else read_app_ratings()
    table = ratings.combine(mapped.ratings, app)
    if folds > len(table):
        raise InputError(f"found {len(table):,} ratings, expected {folds} at least: no folds")
    return mapped, table


def _evaluate(args: argparse.Namespace) -> None:
    from . import datasets
    from .evaluation import FOLDS, all_splits, evaluate, name_trainings
    from .report import describe_evaluation

    trainings = choose_trainings(args)
    mapped, table = _load_ratings(args, FOLDS)
    if "ml-100k" in args.dataset.split(datasets.SEPARATOR):
        datasets.fetch_splits(args.data_dir)
    fits = {name: named.fit for one in trainings for name, named in name_trainings(one).items()}
    cli.logger.info("measuring %s beside simple baselines", " and ".join(fits))
    ways = all_splits(mapped, table, args.data_dir, args.seed)
    cli.print_result(
        describe_evaluation({way: evaluate(table, splits, fits) for way, splits in ways.items()})
    )


def _tune(args: argparse.Namespace) -> None:
    from .evaluation import TUNING_FOLDS, tune
    from .report import describe_tuning

    if args.algorithm not in (None, "svd"):
        raise UsageError("tune is for --algorithm svd: leave the other out")
    args.algorithm = "svd"
    (training,) = choose_trainings(args)
    _, table = _load_ratings(args, TUNING_FOLDS)
    first = training.parameters
    trials = tune(table, first, args.sets, 60 * args.minutes, args.seed)
    cli.print_result(describe_tuning(trials, first, args.sets, args.minutes))


def _load_model(args: argparse.Namespace) -> tuple[CollaborativeModel, dict[int, str]]:
    """Return the live model, and titles by TMDB id of the sets it was trained on.

    Without pandas, as where only NumPy is installed, there are no titles, with a warning.
    """
    from . import datasets
    from .serving import load_collaborative

    model = load_collaborative(args.models_dir)
    titles: dict[int, str] = {}
    try:
        for source in reversed(model.manifest["data"]["sources"]):
            if source["name"] in datasets.NAMES:
                titles |= datasets.read_titles(source["name"], args.data_dir)
    except ModuleNotFoundError as error:
        cli.logger.warning("no titles: the package %s is not installed", error.name)
    return model, titles


def _title(titles: dict[int, str], film: int) -> str:
    return titles.get(film, f"TMDB {film}")


def _recommend(args: argparse.Namespace) -> None:
    from .report import describe_list

    if args.user is None and args.stars is None:
        raise UsageError("name a user, or a new user's ratings by --stars FILM=STARS")
    if args.user is not None and args.stars is not None:
        raise UsageError("name a user or give --stars FILM=STARS, not both")
    model, titles = _load_model(args)
    user: str | FoldedUser
    if args.stars:
        user, name, rated = model.fold_in(dict(args.stars)), "a new user", dict(args.stars)
        unknown = [str(film) for film in rated if not model.knows_movie(film)]
        if unknown:
            cli.logger.warning(
                "the release does not know film %s: such ratings say nothing%s",
                ", ".join(unknown),
                "; this is the list of someone of whom nothing is known"
                if len(unknown) == len(rated)
                else "",
            )
    else:
        user, name, rated = args.user, args.user, _stars_of(model, args.user)
        if not model.knows_user(args.user):
            cli.logger.warning(
                "the release does not know this user (MovieLens's are ml_1, ml_2, …): %s",
                ANYONES_LIST,
            )

    title = partial(_title, titles)
    liked = [film for film in sorted(rated, key=lambda film: -rated[film]) if rated[film] >= LIKED]
    recommended = model.recommend(user, args.n)
    films = [(title(film.movie_id), film.score, film.stars) for film in recommended]
    cli.print_result(describe_list(name, list(map(title, liked[: cli.SHOWN])), films))


def _stars_of(model: CollaborativeModel, user: str) -> dict[int, float]:
    """Return what a user of the release rated, by TMDB id."""
    rows, stars = model.snapshot.rated_by(user)
    films = model.movie_ids[rows]
    return dict(zip(films.tolist(), stars.tolist(), strict=True))


def _similar(args: argparse.Namespace) -> None:
    from .report import describe_similar

    model, titles = _load_model(args)
    if not model.knows_movie(args.film):
        raise InputError(f"the release does not know film {args.film}: it has no ratings of it")
    films = model.similar(args.film, args.n)
    cli.print_result(
        describe_similar([(_title(titles, film.movie_id), film.score) for film in films])
    )


def _export(args: argparse.Namespace) -> None:
    from .serving import export_lists

    cli.use_file_mode()
    rows, users = export_lists(args.models_dir, args.file, args.n)
    if not args.quiet:
        cli.print_lines([f"{rows:,} recommendations for {users:,} users in {args.file}"])


def _clear_checkpoints(args: argparse.Namespace) -> None:
    from .spark.checkpoints import clear_checkpoints
    from .spark.failures import without_secrets
    from .spark.session import open_cluster

    with open_cluster("local[1]") as cluster:
        deleted = clear_checkpoints(cluster.session, args.path)
    if not args.quiet:
        place = without_secrets(args.path)
        cli.print_lines([f"{deleted} folders of checkpoints deleted from {place}"])


if __name__ == "__main__":
    process.run(main)

"""Which films a build publishes, and what it can say of the others."""

from __future__ import annotations

import copy
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from . import datasets, ratings
from .algorithms.cut import cut_to_films
from .algorithms.parts import attach, parts_of, ranking_of
from .coverage import measure_coverage
from .errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from surprise import SVD

    from .options import BuildOptions
    from .spark.ratings import Given
    from .trainset import ArrayTrainset

MIN_COVERED = 0.5
"""Share of films below which people are warned."""

logger = logging.getLogger(__name__)


def check_catalog(options: BuildOptions, films: frozenset[int] | None, table: pd.DataFrame) -> None:
    """Look at a catalog: are its ids TMDB's, and how many of its films have ratings.

    Less than `MIN_COVERED` is a warning, with what other sets cover.

    Raises:
        InputError: its ids look like those of another number space.
    """
    if films is None or options.dataset == "sample":
        return
    links = datasets.links_path(options.dataset, options.data_dir)
    ids = None
    with suppress(InputError, OSError):  # where it is needed, it was read before
        ids = datasets.read_link_ids(links) if links.is_file() else None
    if ids is not None:
        datasets.check_id_space(films, ids, "the catalog")
    rated = table["movie_id"].unique().tolist()
    titles = datasets.read_titles(options.dataset, options.data_dir)
    coverage = measure_coverage(films, rated, titles)
    line, *by_decade = coverage.describe()
    if 2 * sum(films for _, films in coverage.decades.values()) >= coverage.films:
        line = "; ".join([line, *by_decade])
    if coverage.share >= MIN_COVERED:
        logger.info("%s", line)
        return
    advice = "a set with newer films covers more: --dataset ml-32m"
    if ids is not None and options.dataset == "ml-100k":
        small = len(films & frozenset(ids["tmdbId"].tolist()))
        if small > coverage.rated:
            advice = (
                f"--dataset ml-latest-small has {small:,} of them ({small / len(films):.0%}), "
                "and --dataset ml-32m more"
            )
    logger.warning("%s; %s", line, advice)


def check_app_films(films: frozenset[int] | None, app: pd.DataFrame) -> None:
    """Warn if few of the films that the app's users rated are in the catalog."""
    if films is None or app.empty:
        return
    rated = app["movie_id"].unique()
    known = int(np.isin(rated, list(films)).sum())
    line = f"{known:,} of the {len(rated):,} films that the app's users rated are in the catalog"
    if known < MIN_COVERED * len(rated):
        logger.warning("%s: are both TMDB ids?", line)
    else:
        logger.info("%s", line)


def choose_films(
    films: frozenset[int] | None, table: pd.DataFrame, whole: Given | None = None
) -> frozenset[int] | None:
    """Return the films to publish: those of the catalog, and what the app's users rated.

    Args:
        films: the catalog; None stands for every film, and so does the result.
        table: the ratings.
        whole: all ratings, on a cluster, where the table is a sample of them.

    Raises:
        InputError: none of them has ratings.
    """
    if films is None:
        return None
    if whole is None:
        of_app = ratings.is_app_user(table["user_id"].astype("str")).to_numpy()
        rated, by_app = table["movie_id"].to_numpy(), table["movie_id"].to_numpy()[of_app]
    else:
        rated, by_app = whole.movie_ids, whole.movie_ids[whole.of_app]
    wanted = films | frozenset(by_app.tolist())
    if not np.isin(rated, list(wanted)).any():
        names = ", ".join(source.name for source in ratings.sources_of(table))
        raise InputError(
            f"none of the catalog's {len(films):,} films has ratings in {names}: use a set with "
            "newer films, such as --dataset ml-latest-small or ml-32m"
        )
    return wanted


def published_part(table: pd.DataFrame, wanted: frozenset[int] | None) -> pd.DataFrame:
    """Return the ratings of the films that are published, with where all are from."""
    if wanted is None:
        return table
    part = table[table["movie_id"].isin(wanted)].reset_index(drop=True)
    part["user_id"] = part["user_id"].cat.remove_unused_categories()
    return ratings.with_sources(part, *ratings.sources_of(table))


def published_model(
    svd: SVD, trainset: ArrayTrainset, wanted: frozenset[int] | None
) -> tuple[SVD, ArrayTrainset]:
    """Return the part of a model that is published, with its ranking.

    Args:
        svd: the model.
        trainset: what it was trained on.
        wanted: films to publish; None stands for every film.
    """
    if wanted is not None:
        svd, trainset = cut_to_films(svd, trainset, wanted)
    parts = replace(parts_of(svd), ranking=ranking_of(svd, trainset))
    return attach(copy.copy(svd), parts), trainset

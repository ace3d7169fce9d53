"""A page about one build: what it was trained on, how good it is, what it recommends."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.parts import parts_of
from ..algorithms.svd import predict_pairs
from ..evaluation import ALL, BIASES, COLD, COLD_LIST, LIKED, MOST_LIKED, make_lists
from ..ratings import is_app_user, sources_of
from .summary import COLUMNS, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from surprise import SVD

    from ..evaluation.held_out import HoldOut

TEMPLATE = "report.html.jinja"
TOP = 10
MOST_LISTED = 40
"""Films in a list that might be long; the rest is counted."""


@dataclass(frozen=True)
class Content:
    """What a report is about, besides the manifest."""

    titles: Mapping[int, str]
    """By TMDB id."""
    unmapped: Sequence[str]
    """Titles of the films that have no TMDB id."""
    catalog: frozenset[int] | None
    """None stands for every film."""
    table: pd.DataFrame
    """All ratings trained on."""
    svd: SVD
    hold_out: HoldOut


@dataclass(frozen=True)
class Film:
    """A line of a list of films."""

    tmdb_id: int
    title: str
    ratings: int
    """It has in the training."""
    stars: float | None
    """Given or predicted."""


def render_report(
    build: Content, manifest: Mapping[str, Any], previous: Mapping[str, Any] | None
) -> str:
    """Render the page; it needs no script and no network.

    Args:
        build: what it is about.
        manifest: of the build.
        previous: manifest of the release to compare with.
    """
    import jinja2

    facts = describe_facts(manifest)
    then = None if previous is None else describe_facts(previous)
    name = _name_films(build)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = _value
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        changes=None if then is None else list(_changes(then, facts)),
        previous=then,
        charts=_charts(build, facts),
        tables={"a random fifth held out": build.hold_out.scores},
        columns=COLUMNS,
        label=label,
        liked=LIKED,
        biases=BIASES,
        most_liked=MOST_LIKED,
        films=_film_lists(build, name),
        users=_examples(build, name),
        most_listed=MOST_LISTED,
    )


def describe_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says, in words for people; what it does not say is left out."""
    data = manifest["data"]
    app: dict[str, Any] = {}
    movielens: dict[str, Any] = {}
    for source in data["sources"]:
        (app if source["name"] == "app" else movielens).update(source)
    catalog = manifest["catalog"] or {}
    held_out = (manifest["metrics"] or [{}])[0]
    lists = held_out
    if manifest["model"].get("lists") == COLD_LIST:
        cold = (
            one for one in manifest["metrics"] if one["model"] == COLD.format(held_out["model"])
        )
        lists = next(cold, {})
    facts: dict[str, Any] = {
        "release": manifest["build_id"],
        "built": manifest["created"],
        "dataset": movielens.get("name"),
        "ratings": data["ratings"],
        "ratings of MovieLens loaded": movielens.get("rows"),
        **{f"left out: {why}": rows for why, rows in movielens.get("dropped", {}).items()},
        "ratings of MovieLens": movielens.get("kept"),
        "ratings of the app": data["app_ratings"],
        **{f"left out of the app: {why}": rows for why, rows in app.get("dropped", {}).items()},
        "users": data["users"],
        "users of the app": data["app_users"],
        "films": data["films"],
        "films in the catalog": catalog.get("films"),
        "films in the catalog with ratings": catalog.get("covered"),
        "scale": "{:g} to {:g} stars".format(*manifest["model"]["rating_scale"]),
        "algorithm": manifest["algorithm"],
        **(manifest["parameters"] or {}),
        "seed": manifest["seed"],
        "RMSE held out": held_out.get("rmse"),
        "NDCG@10 held out": lists.get("ndcg"),
        **manifest["versions"],
        "git commit": manifest["git_commit"],
        "ratings SHA-256": data["table_sha256"],
        "catalog SHA-256": catalog.get("sha256"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _changes(previous: Mapping[str, Any], facts: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return each fact that has changed: name, value then, value now (None for no value)."""
    names = [*facts, *(name for name in previous if name not in facts)]
    return [
        (name, previous.get(name), facts.get(name))
        for name in names
        if name not in ("release", "built") and previous.get(name) != facts.get(name)
    ]


def _charts(build: Content, facts: Mapping[str, Any]) -> dict[str, str]:
    # Without a home that can be written, it keeps its cache in a temporary folder, and warns.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from . import charts

    held_out = build.hold_out
    scores = {score.model: score.measures for score in held_out.scores if score.users == ALL}
    stages = _stages(build, facts)
    source = "the sample" if facts["dataset"] == "sample" else "MovieLens"
    groups = {source: held_out.ratings[~held_out.of_app]}
    groups["the app"] = held_out.ratings[held_out.of_app]
    groups = {name: ratings for name, ratings in groups.items() if len(ratings)}
    curve: tuple[float | None, list[str], str] = None, ["held out"], "epoch"
    if facts["algorithm"] == "bayesian":
        curve = held_out.known_rmse, ["one chain's mean", "the model"], "samples of the chain"
    rankings = {name: found.ndcg for name, found in scores.items() if found.ndcg is not None}
    return {
        "ndcg": charts.compare(rankings, "NDCG@10, more is better", digits=3) if rankings else "",
        "funnel": charts.funnel(stages),
        "rmse": charts.compare(
            {name: found.rmse for name, found in scores.items() if found.rmse is not None},
            "RMSE in stars, less is better",
        ),
        "curve": charts.curves(held_out.curves, *curve),
        "distribution": charts.distribution(groups, held_out.predictions),
        "calibration": charts.calibration(held_out.predictions, held_out.ratings),
    }


def _stages(build: Content, facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return how many ratings are left after each step of the mapping."""
    (found, *_) = sources_of(build.table)
    stages, left = [(f"in {found.name}", found.rows)], found.rows
    for reason, count in found.dropped.items():
        left -= count
        stages.append((f"without: {reason}", left))
    return [*stages, ("with the app's own: trained on", facts["ratings"])]


def _name_films(build: Content) -> Callable[..., Film]:
    """Return a function that makes a `Film` of a TMDB id and perhaps stars."""
    counts = build.table["movie_id"].value_counts().to_dict()

    def name(tmdb_id: int, stars: float | None = None) -> Film:
        return Film(
            tmdb_id, build.titles.get(tmdb_id, f"TMDB {tmdb_id}"), counts.get(tmdb_id, 0), stars
        )

    return name


def _film_lists(build: Content, name: Callable[..., Film]) -> dict[str, Any]:
    """Return the films with most, fewest and no ratings, and those that have no TMDB id."""
    rated = [name(film) for film in sorted(build.table["movie_id"].unique().tolist())]
    rated.sort(key=lambda film: -film.ratings)
    unrated = (build.catalog or frozenset()) - {film.tmdb_id for film in rated}
    return {
        "most": rated[:TOP],
        "fewest": rated[-TOP:][::-1],
        "once": sum(film.ratings == 1 for film in rated),
        "unrated": sorted(map(name, unrated), key=lambda film: (film.title, film.tmdb_id)),
        "unmapped": build.unmapped,
    }


def _examples(build: Content, name: Callable[..., Film]) -> list[dict[str, Any]]:
    """Return three of MovieLens's users, with few, some and many ratings, and their lists."""
    table, trainset = build.table, build.svd.trainset
    counts = table["user_id"].value_counts(sort=False)
    counts = counts[(counts > 0) & ~is_app_user(counts.index.to_series().astype("str"))]
    counts = counts.sort_index().sort_values(kind="stable")
    places = sorted({round(share * (len(counts) - 1)) for share in (0.1, 0.5, 0.9) if len(counts)})
    examples: list[dict[str, Any]] = []
    ranking = parts_of(build.svd).ranking
    if ranking is None:
        return examples
    way = "model"
    served = COLD.format(way) if build.hold_out.lists.served == COLD_LIST else way
    users = counts.index[places]
    inner = np.array([trainset.to_inner_uid(user) for user in users], dtype=np.intp)
    lists = make_lists(trainset, ranking, {way: build.svd}, inner, np.arange(trainset.n_items))
    for user, row, places_of in zip(users, inner, lists[served], strict=True):
        own = table[table["user_id"] == user].sort_values("rating", ascending=False, kind="stable")
        top = places_of[places_of >= 0]
        stars = predict_pairs(build.svd, np.repeat(row, len(top)), top)
        best = own.head(TOP)
        films = [trainset.to_raw_iid(item) for item in top.tolist()]
        examples.append(
            {
                "name": user,
                "ratings": len(own),
                "liked": list(map(name, best["movie_id"].tolist(), best["rating"].tolist())),
                "recommended": list(map(name, films, stars.tolist())),
            }
        )
    return examples


def _value(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text

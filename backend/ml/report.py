"""A page about one build: what it was trained on, how good it is, what it recommends."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluation import ALL, BIASES, POPULAR
from .metrics import LIKED
from .ratings import is_app_user, table_hash
from .summary import COLUMNS, label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from surprise import SVD

    from .evaluation import Score
    from .hold_out import HoldOut
    from .movielens import MappedRatings
    from .training import Parameters

TEMPLATE = "report.html.jinja"
TOP = 10
MOST_LISTED = 40
"""Films in a list that might be long; the rest is counted."""
LIBRARIES = ("scikit-surprise", "numpy", "pandas", "numba")


@dataclass(frozen=True)
class Build:
    """What a report is about."""

    mapped: MappedRatings
    titles: Mapping[int, str]
    """Of the set's films, by their own ids; see `movielens.read_titles`."""
    table: pd.DataFrame
    """All ratings trained on."""
    svd: SVD
    algorithm: str
    parameters: Parameters
    tuned: bool
    """Whether the parameters were chosen by their error on these ratings."""
    seed: int
    hold_out: HoldOut
    evaluations: Mapping[str, Sequence[Score]]
    """Of --evaluate, by the way to hold out."""


@dataclass(frozen=True)
class Film:
    """A line of a list of films."""

    tmdb_id: int
    title: str
    ratings: int
    """It has in the training."""
    stars: float | None
    """Given or predicted."""


def render_report(build: Build, previous: Mapping[str, Any] | None) -> str:
    """The page, whole in itself: no script, no network.

    Args:
        build: what it is about.
        previous: the facts of the build to compare with, see `read_facts`.
    """
    import jinja2

    facts = describe_facts(build)
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
        changes=None if previous is None else list(_changes(previous, facts)),
        previous=previous,
        charts=_charts(build, facts),
        tables={"a random fifth held out": build.hold_out.scores, **build.evaluations},
        columns=COLUMNS,
        label=label,
        liked=LIKED,
        biases=BIASES,
        popular=POPULAR,
        films=_film_lists(build, name),
        users=_examples(build, name),
        most_listed=MOST_LISTED,
    )


def read_facts(page: Path) -> dict[str, Any] | None:
    """The facts that the report at `page` keeps of its build; None where it has none."""
    try:
        text = page.read_text(encoding="utf-8")
        found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', text)
        facts = json.loads(found.group(1)) if found else None
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def describe_facts(build: Build) -> dict[str, Any]:
    """What is kept of a build to compare the next with; nothing in it is a person's."""
    mapped, table = build.mapped, build.table
    app = is_app_user(table["user_id"])
    catalog = mapped.catalog
    parameters = asdict(build.parameters)
    if build.algorithm != "svd":
        parameters = {"factors": build.parameters.factors}
    held_out = build.hold_out.scores[0].measures
    facts: dict[str, Any] = {
        "built": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": mapped.dataset,
        "ratings": len(table),
        "ratings of MovieLens loaded": mapped.loaded,
        "ratings with a TMDB id": mapped.mapped,
        "ratings in the catalog": mapped.in_catalog,
        "ratings of MovieLens": len(mapped.ratings),
        "ratings of the app": int(app.sum()),
        "users": table["user_id"].nunique(),
        "users of the app": table.loc[app, "user_id"].nunique(),
        "films": table["movie_id"].nunique(),
        "scale": "{:g} to {:g} stars".format(*build.svd.trainset.rating_scale),
        "algorithm": build.algorithm,
        **parameters,
        "parameters tuned on these ratings": build.tuned,
        "seed": build.seed,
        "RMSE held out": held_out.rmse,
        "NDCG@10 held out": held_out.ndcg,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "ratings SHA-256": table_hash(table),
    }
    if catalog is not None:
        ids = "".join(f"{film}\n" for film in sorted(catalog))
        facts |= {
            "films in the catalog": len(catalog),
            "films in the catalog with ratings": len(catalog & set(table["movie_id"])),
            "catalog SHA-256": hashlib.sha256(ids.encode()).hexdigest(),
        }
    return facts


def _changes(previous: Mapping[str, Any], facts: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Each fact that is another than before: its name, then, now (None where there was none)."""
    names = [*facts, *(name for name in previous if name not in facts)]
    return [
        (name, previous.get(name), facts.get(name))
        for name in names
        if name != "built" and previous.get(name) != facts.get(name)
    ]


def _charts(build: Build, facts: Mapping[str, Any]) -> dict[str, str]:
    from . import charts

    held_out = build.hold_out
    scores = {score.model: score.measures for score in held_out.scores if score.users == ALL}
    loaded = f"in {facts['dataset']}"
    stages = [
        (loaded, facts["ratings of MovieLens loaded"]),
        ("under a TMDB id", facts["ratings with a TMDB id"]),
        ("in the catalog", facts["ratings in the catalog"]),
        ("the latest of each user and film", facts["ratings of MovieLens"]),
        ("with the app's own: trained on", facts["ratings"]),
    ]
    source = "the sample" if facts["dataset"] == "sample" else "MovieLens"
    groups = {source: held_out.ratings[~held_out.of_app]}
    groups["the app"] = held_out.ratings[held_out.of_app]
    groups = {name: ratings for name, ratings in groups.items() if len(ratings)}
    curve: tuple[float | None, list[str], str] = None, ["held out"], "epoch"
    if build.algorithm == "bayesian":
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


def _name_films(build: Build) -> Callable[..., Film]:
    """What makes a `Film` of a TMDB id and perhaps stars."""
    ids = build.mapped.tmdb_ids.dropna()
    titles: dict[int, str] = {}
    for own, tmdb_id in zip(ids.index.tolist(), ids.tolist(), strict=True):
        if own in build.titles:
            titles.setdefault(tmdb_id, build.titles[own])
    counts = build.table["movie_id"].value_counts().to_dict()

    def name(tmdb_id: int, stars: float | None = None) -> Film:
        return Film(tmdb_id, titles.get(tmdb_id, f"TMDB {tmdb_id}"), counts.get(tmdb_id, 0), stars)

    return name


def _film_lists(build: Build, name: Callable[..., Film]) -> dict[str, Any]:
    """The films with most, fewest and no ratings, and those that have no TMDB id."""
    rated = [name(film) for film in sorted(build.table["movie_id"].unique().tolist())]
    rated.sort(key=lambda film: -film.ratings)
    unrated = (build.mapped.catalog or frozenset()) - {film.tmdb_id for film in rated}
    blank = build.mapped.tmdb_ids.isna()
    unmapped = [build.titles.get(own, str(own)) for own in blank.index[blank].tolist()]
    return {
        "most": rated[:TOP],
        "fewest": rated[-TOP:][::-1],
        "once": sum(film.ratings == 1 for film in rated),
        "unrated": sorted(map(name, unrated), key=lambda film: (film.title, film.tmdb_id)),
        "unmapped": sorted(unmapped),
    }


def _examples(build: Build, name: Callable[..., Film]) -> list[dict[str, Any]]:
    """Three of MovieLens's users, with few, some and many ratings: what they liked, and would."""
    import numpy as np

    from .evaluation import rank
    from .svd import predict_pairs

    table, trainset = build.table, build.svd.trainset
    counts = table["user_id"].value_counts(sort=False)
    counts = counts[(counts > 0) & ~is_app_user(counts.index.to_series().astype("str"))]
    counts = counts.sort_index().sort_values(kind="stable")
    places = sorted({round(share * (len(counts) - 1)) for share in (0.1, 0.5, 0.9) if len(counts)})
    examples = []
    for user in counts.index[places]:
        own = table[table["user_id"] == user].sort_values("rating", ascending=False, kind="stable")
        inner = np.array([trainset.to_inner_uid(user)])
        top = rank(build.svd, inner)[0]
        top = top[top >= 0]
        stars = predict_pairs(build.svd, np.repeat(inner, len(top)), top)
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
    """As a person reads it."""
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

"""The lines a build ends with, for people.

What needs scikit-surprise is imported when it is first used: lists and releases are shown without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..coverage import measure_coverage
from ..paths import from_here
from ..ratings import APP, GIVEN, NOT_APP_PREFIX, SAMPLE_NOTICE
from ..release import MODEL_FILE, REPORT_FILE, TRAINSET_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from surprise import SVD

    from ..algorithms.training import Parameters
    from ..evaluation import Score, Trial, Verdict
    from ..release import Listed

TOP = 5
"""Films of a demo list, and sets of parameters of a tuning, that are printed."""


def describe_build(
    release: Path,
    models_dir: Path,
    table: pd.DataFrame,
    films: frozenset[int] | None,
    svd: SVD,
    verdict: Verdict,
    seconds: float,
) -> list[str]:
    """Return the summary of a build: what it was trained on, how good it is, where it is.

    Args:
        release: folder of the release.
        models_dir: where its files are found.
        table: the ratings; for an item-only release a sample.
        films: the catalog; None stands for every film.
        svd: the model.
        verdict: what the gate said.
        seconds: that the build took.
    """
    from ..evaluation import describe_lists

    data = verdict.manifest["data"]
    kept = {source["name"]: source["kept"] for source in data["sources"]}
    app = kept.pop(APP, 0)
    item_only, catalog = verdict.manifest["model"].get("shape"), verdict.manifest["catalog"]
    names = " and ".join(f"{count:,} from {_name_source(name)}" for name, count in kept.items())
    lines = [
        "",
        f"Ratings   {names}" + ("" if GIVEN in kept else f"; {app:,} from the app"),
        f"Users     {data['users']:,}"
        + (
            "; none in the release, fold them in"
            if item_only
            else f"; {data['app_users']:,} of the app"
        ),
        f"Films     {data['films']:,}"
        + (f" trained on; {catalog['published']:,} published" if catalog else ""),
    ]
    if films is not None and not item_only:
        rated = table["movie_id"].unique().tolist()
        lines += _column("Catalog", measure_coverage(films, rated, {}).describe())
    if verdict.held_out:
        lines += describe_errors(verdict.held_out.scores)
        lines.append(f"Lists     {describe_lists(verdict.held_out.lists)}")
    if not item_only:
        lines.append(f"Check     {_describe_known_pair(svd, table)}")
    failed = [f"{check.text}: published by force" for check in verdict.checks if not check.passed]
    lines += _column("Gate", failed or [verdict.checks[0].text])
    files = [models_dir / name for name in (MODEL_FILE, TRAINSET_FILE)]
    if (release / REPORT_FILE).is_file():
        files.append(models_dir / REPORT_FILE)
    lines += _column(
        "Files", [f"{from_here(path)} ({path.stat().st_size / 1e6:.1f} MB)" for path in files]
    )
    return [*lines, f"Release   {release.name}", f"Time      {seconds:.1f} s"]


def _column(title: str, texts: Sequence[str]) -> list[str]:
    return [f"{'' if n else title:10}{text}" for n, text in enumerate(texts)]


def _name_source(name: str) -> str:
    if name == "sample":
        return f"a {SAMPLE_NOTICE}"
    return "--ratings" if name == GIVEN else f"MovieLens ({name})"


def describe_unchanged(build_id: str, live: str | None) -> str:
    """Return the line for a build that would give what is there."""
    rolled_back = "" if build_id == live else ", which was rolled back"
    return f"Nothing changed since release {build_id}{rolled_back}: nothing built"


def describe_releases(models_dir: Path, releases: Sequence[Listed]) -> list[str]:
    """Return a table of the releases kept, the newest first; the live one is marked."""
    if not releases:
        return [f"no releases in {from_here(models_dir)}"]
    titles = "release", "built (UTC)", "ratings", "of app", "users", "films", "RMSE", "algorithm"
    lines = ["  {:22} {:16} {:>11} {:>9} {:>8} {:>7} {:>7}  {}".format(*titles)]
    for listed in releases:
        line = f"{'*' if listed.is_live else ' '} {listed.build_id:22}"
        if listed.manifest is None:
            lines.append(f"{line} {listed.problem}")
            continue
        data, metrics = listed.manifest["data"], listed.manifest["metrics"]
        rmse = f"{metrics[0]['rmse']:.4f}" if metrics and "rmse" in metrics[0] else "-"
        films = (listed.manifest["catalog"] or {}).get("published", data["films"])
        numbers = *(data.get(name, 0) for name in ("ratings", "app_ratings", "users")), films
        counts = (f"{number:,}" for number in numbers)
        marks = [listed.manifest.get("algorithm") or "unknown"]
        marks += [shape] if (shape := listed.manifest["model"].get("shape")) else []
        marks += ["sample"] if data["is_sample"] else []
        marks += ["forced"] if (listed.manifest.get("gate") or {}).get("forced") else []
        marks += ["rolled back"] if listed.rolled_back else []
        built = listed.manifest["created"][:16].replace("T", " ")
        row = "{} {:>11} {:>9} {:>8} {:>7}".format(built, *counts)
        lines.append(f"{line} {row} {rmse:>7}  {', '.join(marks)}")
    lines.append(
        "* live. Films: published. RMSE: on the fifth held out of that build; not to be compared "
        "between catalogs"
    )
    return lines


def describe_rollback(live: str, before: str | None) -> str:
    """Return a line on a rollback."""
    if live == before:
        return f"release {live} is live already: nothing done"
    return f"release {live} is live again, in place of {before}"


def describe_errors(scores: Sequence[Score]) -> list[str]:
    """Return the errors on held-out ratings, a line for each model that predicts stars."""
    from ..evaluation import ALL

    return _column(
        "Errors",
        [
            f"RMSE {score.measures.rmse:.4f}, MAE {score.measures.mae:.4f}  {score.model}"
            for score in scores
            if score.measures.rmse is not None and score.users == ALL
        ],
    )


COLUMNS = {
    "rmse": "RMSE", "mae": "MAE", "ndcg": "NDCG@10", "precision": "P@10", "recall": "R@10",
    "hit_rate": "hit rate", "coverage": "coverage", "popularity": "popularity",
}  # fmt: skip
"""What the evaluation's tables call the measures."""


LISTS_NOTE = (
    "Lists are by score unless the line says otherwise; popularity: ratings of a listed film"
)


def describe_evaluation(evaluations: Mapping[str, Sequence[Score]]) -> list[str]:
    """Return a table for each way to hold ratings out: models by measures."""
    scores = [score for table in evaluations.values() for score in table]
    width = max(map(len, [*evaluations, *map(label, scores)]), default=0)
    lines = []
    for name, table in evaluations.items():
        lines += [
            "",
            " ".join([f"{name:{width}}", *(f"{title:>10}" for title in COLUMNS.values())]),
        ]
        for score in table:
            values = (_value(getattr(score.measures, column), column) for column in COLUMNS)
            lines.append(" ".join([f"{label(score):{width}}", *values]).rstrip())
    return [*lines, "", LISTS_NOTE]


def label(score: Score) -> str:
    """Return the model's name; for a group of users with the group and its ratings."""
    from ..evaluation import ALL

    if score.users == ALL:
        return score.model
    return f"{score.model}, {score.users} ({score.ratings:,})"


def describe_tuning(
    trials: Sequence[Trial], first: Parameters, asked: int, minutes: float
) -> list[str]:
    """Return the best sets of parameters, as flags to use again.

    Args:
        trials: those made, the best first.
        first: the set asked for.
        asked: how many trials were to be made.
        minutes: the time after which none went on.
    """
    from ..evaluation import TUNING_FOLDS

    tried = f"{len(trials):,} sets"
    if len(trials) < asked:
        tried = f"{len(trials):,} of {asked:,} sets (stopped after {minutes:g} minutes)"
    lines = [f"Best of {tried}, by mean RMSE over {TUNING_FOLDS} folds; lists are not looked at"]
    return lines + [
        f"  {trial.rmse:.4f}  {trial.parameters.as_flags()}"
        + ("  (as asked for)" if trial.parameters == first else "")
        for n, trial in enumerate(trials)
        if n < TOP or trial.parameters == first
    ]


def _value(number: float | None, column: str) -> str:
    if number is None:
        return f"{'':>10}"
    return f"{number:10.1f}" if column == "popularity" else f"{number:10.4f}"


def _describe_known_pair(svd: SVD, combined: pd.DataFrame) -> str:
    """Return the first rating, and what is predicted for it."""
    known = combined.iloc[0]
    prediction = svd.predict(known["user_id"], int(known["movie_id"]))
    user = known["user_id"] if known["user_id"].startswith(NOT_APP_PREFIX) else "an app user"
    return (
        f"{user} gave film {known['movie_id']} {known['rating']:g} stars, "
        f"predicted {prediction.est:.2f}"
    )


def describe_list(
    user: str, liked: Sequence[str], films: Sequence[tuple[str, float, float]]
) -> list[str]:
    """Return a user's favourite films, and a line for each film listed.

    Args:
        user: what to call the user.
        liked: titles.
        films: title, score and predicted stars of those listed, best first.
    """
    width = max((len(title) for title, *_ in films), default=0)
    return [
        user,
        *([f"  liked  {', '.join(liked)}"] if liked else []),
        *([f"         {'':{width}}  score  stars"] if films else []),
        *(
            f"  {n:<5}  {title:{width}}  {score:5.2f}  {stars:5.1f}"
            for n, (title, score, stars) in enumerate(films, 1)
        ),
    ]


def describe_similar(films: Sequence[tuple[str, float]]) -> list[str]:
    """Return a numbered line for each film, from its title and how similar it is, -1 to 1."""
    width = max((len(title) for title, _ in films), default=0)
    return [f"{n:<3} {title:{width}}  {score:5.2f}" for n, (title, score) in enumerate(films, 1)]

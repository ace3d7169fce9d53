"""The lines a build ends with, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets import sample
from ..datasets.movielens import describe_coverage
from ..paths import from_here
from ..ratings import NOT_APP_PREFIX, is_app_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from surprise import SVD

    from ..algorithms.training import Parameters
    from ..datasets.movielens import MappedRatings
    from ..evaluation.gate import Check
    from ..evaluation.protocol import Score
    from ..evaluation.tuning import Trial
    from ..ratings import Counts
    from ..release.history import Listed

DEMO_USERS = ("ml_sample_155", "ml_sample_187")
TOP = 5
GIVEN = "ratings"
"""What a build calls the ratings of --ratings."""


def describe_build(
    mapped: MappedRatings,
    combined: pd.DataFrame,
    svd: SVD,
    scores: Sequence[Score],
    checks: Sequence[Check],
    files: Sequence[Path],
    release: Path,
    seconds: float,
    whole: Counts | None = None,
) -> list[str]:
    """Summary of a build: what it was trained on, how good it is, where it is.

    `whole` counts the ratings that stayed on a cluster, of a release of films alone.
    """
    app = combined[is_app_user(combined["user_id"])]
    users, app_users = mapped.ratings["user_id"].nunique(), app["user_id"].nunique()
    source = f"a {sample.NOTICE}" if mapped.dataset == "sample" else f"MovieLens ({mapped.dataset})"
    lines = [
        "",
        f"Ratings   {len(mapped.ratings):,} from {source}; {len(app):,} from the app",
        f"Users     {users:,}; {app_users:,} of the app",
        f"Films     {combined['movie_id'].nunique():,}",
    ]
    if mapped.dataset == GIVEN:
        lines[1:3] = [
            f"Ratings   {whole.ratings if whole else len(combined):,} of --ratings",
            f"Users     {whole.users:,}, to be folded in" if whole else f"Users     {users:,}",
        ]
    if whole:
        lines[3] = f"Films     {whole.films:,}"
    elif mapped.catalog is not None:
        lines.append(f"Catalog   {describe_coverage(combined, mapped.catalog, mapped.dataset)}")
    lines += describe_errors(scores)
    if not whole:
        lines.append(f"Check     {_describe_known_pair(svd, combined)}")
    failed = [f"{check.text}: published by force" for check in checks if not check.passed]
    lines.extend(
        f"{'Gate' if not n else '':10}{text}" for n, text in enumerate(failed or [checks[0].text])
    )
    lines.extend(
        f"{'Files' if not n else '':10}{from_here(path)} ({path.stat().st_size / 1e6:.1f} MB)"
        for n, path in enumerate(files)
    )
    lines.append(f"Release   {release.name}")
    lines.append(f"Time      {seconds:.1f} s")
    return lines


def describe_releases(models_dir: Path, releases: Sequence[Listed]) -> list[str]:
    """A table of the releases kept, the newest first; the live one is marked."""
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
        counts = (f"{data.get(name, 0):,}" for name in ("ratings", "app_ratings", "users", "films"))
        marks = [listed.manifest.get("algorithm") or "unknown"]
        marks += [shape] if (shape := listed.manifest["model"].get("shape")) else []
        marks += ["sample"] if data["is_sample"] else []
        marks += ["forced"] if (listed.manifest.get("gate") or {}).get("forced") else []
        marks += ["rolled back"] if listed.rolled_back else []
        built = listed.manifest["created"][:16].replace("T", " ")
        row = "{} {:>11} {:>9} {:>8} {:>7}".format(built, *counts)
        lines.append(f"{line} {row} {rmse:>7}  {', '.join(marks)}")
    lines.append("* live. RMSE: of each build's own training on a fifth of the ratings held out")
    return lines


def describe_rollback(live: str, before: str | None) -> str:
    """What became of a rollback."""
    if live == before:
        return f"release {live} is live already: nothing done"
    return f"release {live} is live again, in place of {before}"


def describe_errors(scores: Sequence[Score]) -> list[str]:
    """The errors of cross-validation, a line for each model."""
    return [
        f"{'Errors' if not n else '':10}RMSE {score.measures.rmse:.4f}, "
        f"MAE {score.measures.mae:.4f}  {score.model}"
        for n, score in enumerate(scores)
    ]


COLUMNS = {
    "rmse": "RMSE", "mae": "MAE", "ndcg": "NDCG@10", "precision": "P@10", "recall": "R@10",
    "hit_rate": "hit rate", "coverage": "coverage", "popularity": "popularity",
}  # fmt: skip
"""What the evaluation's tables call the measures."""


def describe_evaluation(evaluations: Mapping[str, Sequence[Score]]) -> list[str]:
    """A table for each way to hold ratings out, models by measures; columns stand in line."""
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
    return lines


def label(score: Score) -> str:
    """The model, and of a group of users which, and from how many ratings it is known."""
    from ..evaluation.protocol import ALL

    if score.users == ALL:
        return score.model
    return f"{score.model}, {score.users} ({score.ratings:,})"


def describe_tuning(
    trials: Sequence[Trial], first: Parameters, asked: int, minutes: float
) -> list[str]:
    """The best sets of parameters, as flags to use again.

    Args:
        trials: those made, the best first.
        first: the set asked for.
        asked: how many trials were to be made.
        minutes: after which none went on.
    """
    from ..evaluation.tuning import FOLDS

    tried = f"{len(trials):,} sets"
    if len(trials) < asked:
        tried = f"{len(trials):,} of {asked:,} sets (the time was over: {minutes:g} min)"
    lines = ["", f"Tuning    best of {tried}, mean RMSE over {FOLDS} folds; rankings not looked at"]
    lines += [
        f"          {trial.rmse:.4f}  {trial.parameters.as_flags()}"
        + ("  (as asked for)" if trial.parameters == first else "")
        for n, trial in enumerate(trials)
        if n < TOP or trial.parameters == first
    ]
    return lines


def _value(number: float | None, column: str) -> str:
    if number is None:
        return f"{'':>10}"
    return f"{number:10.1f}" if column == "popularity" else f"{number:10.4f}"


def _describe_known_pair(svd: SVD, combined: pd.DataFrame) -> str:
    """The first rating, and what is predicted for it."""
    known = combined.iloc[0]
    prediction = svd.predict(known["user_id"], int(known["movie_id"]))
    user = known["user_id"] if known["user_id"].startswith(NOT_APP_PREFIX) else "an app user"
    return (
        f"{user} gave film {known['movie_id']} {known['rating']:g} stars, "
        f"predicted {prediction.est:.2f}"
    )


def describe_demo(svd: SVD, combined: pd.DataFrame) -> list[str]:
    """The films two sample users liked, and the five unseen ones the model puts first."""
    titles = sample.film_titles()
    lines = []
    for user in DEMO_USERS:
        seen = combined[combined["user_id"] == user].set_index("movie_id")["rating"]
        liked = seen.sort_values(ascending=False, kind="stable").index[:TOP]
        scores = {
            film: svd.predict(user, film, clip=False).est for film in titles if film not in seen
        }
        top = sorted(scores, key=lambda film: -scores[film])[:TOP]
        lines += [
            "",
            f"{user} ({sample.NOTICE})",
            f"  liked  {', '.join(titles[film] for film in liked)}",
            *(f"  {n}.     {titles[film]}" for n, film in enumerate(top, start=1)),
        ]
    return lines

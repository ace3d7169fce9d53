"""Whether a trained model is fit to take the published one's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import GateError, UsageError
from .chance import compare_errors, compare_gains
from .held_out import COLD_LIST
from .metrics import rmse
from .splits import FOLDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from surprise import SVD

    from ..ratings import Counts
    from .held_out import HoldOut, Lists

MIN_HELD_OUT = 20
"""Held-out ratings without which nothing can be said of errors."""
MIN_SPREAD = 0.01
"""Standard deviation of the predictions below which a model predicts the same for all, in stars."""
MAX_LOST = 0.1
"""Share of the ratings, users and app ratings that may be fewer than in the published model."""
MAX_ABOVE_BIASES = 0.05
"""How much higher the RMSE may be than that of biases, in stars, where it is beyond chance.

On ten catalogs of apps, two data sets and ten seeds of the plan's SVD, no smaller bound gives every
seed the same verdict; a model that predicts one number for all is 0.06 to 0.18 above biases."""
MAX_WORSE = 0.03
"""How much higher the RMSE may be than the published model's, in stars, where it is beyond chance.

Of 1,260 pairs of seeds on the same data none differs by more (benchmarks/RESULTS.md)."""
MIN_COMMON = 1000
"""Ratings held out of both trainings, without which the two are not compared."""
MAX_WORSE_LISTS = 0.03
"""How much less the lists' NDCG@10 may be above that of the most liked films than the published
model's is, where it is beyond chance."""
MIN_COMMON_LISTS = 100
"""Users who like the same held-out films then and now, without whom lists are not compared."""


class Check(NamedTuple):
    """One thing that a model must hold to be published."""

    passed: bool
    text: str
    """What was found and what is wanted, with the numbers."""


class Published(NamedTuple):
    """What is to be replaced."""

    counts: Counts
    held_out: Mapping[str, NDArray[Any]]
    """See `held_out.HoldOut.rows`; what the release does not have is left out."""
    algorithm: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a model."""

    checks: tuple[Check, ...]
    held_out: HoldOut | None
    """None where there are too few ratings to hold some out."""
    manifest: Mapping[str, Any]
    """Draft of the release's."""

    @property
    def passed(self) -> bool:
        """Whether the model is fit to be published."""
        return all(check.passed for check in self.checks)


def check_model(
    svd: SVD, held_out: HoldOut, counts: Counts, published: Published | None
) -> list[Check]:
    """Look at a model from all sides.

    On held-out ratings, the same training is not worse beyond chance than user and item biases,
    better than one rating for all, and its predictions differ; its factors are finite. It neither
    knows much less than the published one, nor predicts what was held out of both worse beyond
    chance, nor lists worse what the same users like. Lists that do not beat the most liked films
    are no fault: the release serves its cold list then, and the check says so.

    Args:
        svd: the model, trained on all ratings.
        held_out: what the same training says of ratings that it has not seen.
        counts: of the ratings that it was trained on.
        published: what is to be replaced; None where there is nothing to compare with.
    """
    spread = float(held_out.predictions.std())
    finite = all(np.isfinite(array).all() for array in (svd.bu, svd.bi, svd.pu, svd.qi))
    checks = [
        _compare_with_biases(held_out),
        _compare_with_mean(held_out),
        Check(finite, f"factors {'' if finite else 'not '}finite"),
        Check(
            spread >= MIN_SPREAD,
            f"predictions spread over {spread:.2g} stars, wanted {MIN_SPREAD:g} at least",
        ),
        Check(passed=True, text=describe_lists(held_out.lists)),
    ]
    if published:
        checks += _compare_counts(counts, published.counts)
        checks += _compare_errors(held_out, published)
        checks += _compare_lists(held_out.lists, published)
    return checks


def _compare_with_biases(held_out: HoldOut) -> Check:
    errors, others = (
        found - held_out.ratings for found in (held_out.predictions, held_out.baseline)
    )
    found = compare_errors(errors, others, held_out.users)
    worse = found.is_worse_by(MAX_ABOVE_BIASES)
    limit = f", wanted at most {MAX_ABOVE_BIASES:g} above" if worse else ""
    films = "" if held_out.is_of_catalog else " (of all films: the catalog has too few ratings)"
    return Check(
        not worse,
        f"held-out RMSE {rmse(errors):.4f}, biases {rmse(others):.4f}, "
        f"difference {found.value:+.4f} ± {found.standard_error:.4f}{limit}{films}",
    )


def _compare_with_mean(held_out: HoldOut) -> Check:
    errors = held_out.predictions - held_out.ratings
    constant = float(held_out.ratings.std())
    return Check(
        rmse(errors) < constant,
        f"held-out RMSE {rmse(errors):.4f}, wanted below {constant:.4f} of one rating for all",
    )


def is_no_better_than_biases(held_out: HoldOut) -> bool:
    """Return whether user and item biases alone predict as well as the model."""
    errors = [found - held_out.ratings for found in (held_out.predictions, held_out.baseline)]
    return rmse(errors[0]) >= rmse(errors[1])


def _compare_counts(now: Counts, before: Counts) -> list[Check]:
    names = ("ratings", "users", "app_ratings")
    pairs = {name.replace("_", " "): (getattr(now, name), getattr(before, name)) for name in names}
    return [
        Check(
            found >= (1 - MAX_LOST) * then,
            f"{found:,} {name}, wanted {1 - MAX_LOST:.0%} of the published {then:,} at least",
        )
        for name, (found, then) in pairs.items()
    ]


def _compare_errors(held_out: HoldOut, published: Published) -> list[Check]:
    """Compare this training and the published one on the ratings held out of both."""
    before = published.held_out.get("held_out")
    here = there = np.empty(0, dtype=np.intp)
    if before is not None:
        _, here, there = np.intersect1d(held_out.pairs, before["pair"], return_indices=True)
    if before is None or len(here) < MIN_COMMON:
        text = f"{len(here):,} ratings were held out then and now, {MIN_COMMON:,} would be enough"
        return [Check(passed=True, text=f"errors not compared with the published model's: {text}")]
    ratings = held_out.ratings[here]
    now, then = held_out.predictions[here] - ratings, before["prediction"][there] - ratings
    found = compare_errors(now, then, held_out.users[here])
    worse = found.is_worse_by(MAX_WORSE)
    return [
        Check(
            not worse,
            f"RMSE {rmse(now):.4f} on {len(here):,} ratings held out then and now, "
            f"published model {rmse(then):.4f} ({published.algorithm}), difference "
            f"{found.value:+.4f} ± {found.standard_error:.4f}, wanted at most {MAX_WORSE:g} "
            "beyond chance",
        )
    ]


def describe_lists(lists: Lists) -> str:
    """Return how good the lists are beside plain ones, and where the plain one is served."""
    if not len(lists.ndcg):
        return "lists not measured, as nobody likes a held-out film: the cold list is served"
    text = (
        f"NDCG@10 {lists.ndcg.mean():.4f}, most liked {lists.most_liked.mean():.4f}, "
        f"most rated {lists.most_rated.mean():.4f}"
    )
    if lists.served == COLD_LIST:
        text += (
            "; the ranking did not beat the most liked films beyond chance: the cold list is served"
        )
    return text


def _compare_lists(lists: Lists, published: Published) -> list[Check]:
    """Compare lists with the published model's, for users who like the same held-out films.

    Other films to list, or other users, make NDCG another; so both are compared by how far they are
    above the most liked films.
    """
    before = published.held_out.get("held_out_lists")
    here = there = np.empty(0, dtype=np.intp)
    if before is not None:
        _, here, there = np.intersect1d(lists.films, before["films"], return_indices=True)
    if before is None or len(here) < MIN_COMMON_LISTS:
        text = (
            f"{len(here):,} users like the same held-out films then and now, "
            f"{MIN_COMMON_LISTS:,} would be enough"
        )
        return [Check(passed=True, text=f"lists not compared with the published model's: {text}")]
    now, then = (lists.ndcg - lists.most_liked)[here], before["above"][there]
    found = compare_gains(now, then)
    return [
        Check(
            not found.is_worse_by(MAX_WORSE_LISTS),
            f"lists' NDCG@10 {now.mean():+.4f} above the most liked films for {len(here):,} users "
            f"as before, published model {then.mean():+.4f} ({published.algorithm}), difference "
            f"{0 - found.value:+.4f} ± {found.standard_error:.4f}, wanted at most "
            f"{MAX_WORSE_LISTS:g} lower beyond chance",
        )
    ]


def too_few(table: pd.DataFrame) -> Check | None:
    """Return the failed check of a table too small to hold ratings out of it, else None."""
    if len(table) >= MIN_HELD_OUT * FOLDS:
        return None
    least = MIN_HELD_OUT * FOLDS
    text = f"{len(table):,} ratings, wanted {least} at least to judge a model by a fifth"
    return Check(passed=False, text=text)


def describe_refusal(checks: Sequence[Check], folder: Path) -> GateError:
    """Return the error that names what failed, where the refused build is, and what to do."""
    failed = "; ".join(check.text for check in checks if not check.passed)
    return GateError(
        f"refused to publish: {failed}. What is live stays; the refused build is in {folder}. "
        f"Fix the data or the parameters, or publish it by --force-publish"
    )


def keep_real_model(published: Counts | None, models_dir: Path) -> None:
    """Refuse to go on to a sample where the published model is one of real ratings.

    Raises:
        UsageError: it is.
    """
    if published and not published.is_sample:
        raise UsageError(
            f"{models_dir} holds a model of real ratings, and a sample would replace it: "
            "name another folder with --models-dir, or publish it by --force-publish"
        )

"""Whether a trained model is fit to take the published one's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from . import release
from .errors import GateError, UsageError
from .splits import FOLDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from surprise import SVD, Trainset

    from .hold_out import HoldOut
    from .release import Published

REFUSED = "refused"
"""Folder in the models folder."""
ENOUGH = 20
"""Held-out ratings without which nothing can be said of errors."""
LEAST_SPREAD = 0.01
"""Standard deviation of the predictions below which a model says the same to all, in stars."""
MOST_LOST = 0.1
"""Share of the ratings, users and app users that may be fewer than in the published model."""


class Check(NamedTuple):
    """One thing that a model must hold to be published."""

    passed: bool
    text: str
    """What was found and what is wanted, with the numbers."""


def check_model(
    svd: SVD, held_out: HoldOut, app_users: int, published: Published | None
) -> list[Check]:
    """Look at a model from all sides.

    On held-out ratings, the same training predicts better than user and item biases alone and does
    not say the same to all; its factors are finite; and it does not know much less than the
    published one.

    Args:
        svd: the model, trained on all ratings.
        held_out: what the same training says of ratings that it has not seen.
        app_users: of the app, in the training.
        published: what is to be replaced; None where there is nothing.
    """
    import numpy as np

    from .evaluation import ALL, BIASES

    scores = {score.model: score.measures for score in held_out.scores if score.users == ALL}
    rmse, baseline = next(iter(scores.values())).rmse, scores[BIASES].rmse
    assert rmse is not None and baseline is not None  # noqa: PT018, S101  both predict
    spread = float(held_out.predictions.std())
    finite = all(np.isfinite(array).all() for array in (svd.bu, svd.bi, svd.pu, svd.qi))
    checks = [
        Check(
            rmse < baseline,
            f"held-out RMSE {rmse:.4f}, wanted below {baseline:.4f} of biases alone",
        ),
        Check(finite, f"factors {'' if finite else 'not '}finite"),
        Check(
            spread >= LEAST_SPREAD,
            f"predictions spread over {spread:.2g} stars, wanted {LEAST_SPREAD:g} at least",
        ),
    ]
    if published:
        counts = {
            "ratings": (svd.trainset.n_ratings, published.ratings),
            "users": (svd.trainset.n_users, published.users),
            "app users": (app_users, published.app_users),
        }
        checks += [
            Check(
                now >= (1 - MOST_LOST) * before,
                f"{now:,} {name}, wanted {1 - MOST_LOST:.0%} of the published {before:,} at least",
            )
            for name, (now, before) in counts.items()
        ]
    return checks


def too_few(table: pd.DataFrame) -> str:
    """What to say of a table from which too little can be held out; nothing of a larger one."""
    if len(table) >= ENOUGH * FOLDS:
        return ""
    return f"{len(table):,} ratings, wanted {ENOUGH * FOLDS} at least to judge a model by a fifth"


def refuse_or_pass(
    checks: Sequence[Check], svd: SVD, trainset: Trainset, models_dir: Path, report: str | None
) -> None:
    """Where a check failed, keep the build in the folder `refused` for a look, and stop.

    Raises:
        GateError: names what failed.
    """
    failed = [check.text for check in checks if not check.passed]
    if not failed:
        return
    folder = models_dir / REFUSED
    release.publish(svd, trainset, folder, report)
    raise GateError(
        f"refused to publish: {'; '.join(failed)}. What was published stays; the refused build is "
        f"in {folder}. Mend the data or the parameters, or publish it by --force-publish"
    )


def keep_real_model(models_dir: Path) -> None:
    """Refuse to go on to a sample where the published model is one of real ratings.

    Raises:
        UsageError: it is.
    """
    published = release.read_published(models_dir)
    if published and not published.is_sample:
        raise UsageError(
            f"{models_dir} holds a model of real ratings, and a sample would replace it: "
            "name another folder with --models-dir, or pass --replace-real-model"
        )

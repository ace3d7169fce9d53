"""Publish the two artifacts whole, and look at what is published."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .files import locked, replace_together
from .ratings import NOT_APP_PREFIX
from .sample import USER_PREFIX as SAMPLE_PREFIX

if TYPE_CHECKING:
    from surprise import SVD, Trainset

logger = logging.getLogger("ml.release")

DEFAULT_MODELS_DIR = Path(__file__).parent / "models"
MODEL_FILE = "svd_model.pkl"
TRAINSET_FILE = "cf_trainset.pkl"


@dataclass(frozen=True)
class Published:
    """What is known of the published model, from its trainset's user ids."""

    app_users: int
    is_sample: bool


def publish(svd: SVD, trainset: Trainset, models_dir: Path) -> list[Path]:
    """Write both artifacts under their final names once both are whole on the disk.

    Returns:
        Their paths.

    Raises:
        OSError: they could not be written; what was there is untouched.
    """
    import joblib

    paths = [models_dir / MODEL_FILE, models_dir / TRAINSET_FILE]
    with locked(models_dir), replace_together(*paths) as (model_file, trainset_file):
        joblib.dump(svd, model_file)
        joblib.dump(trainset, trainset_file)
    for path in paths:
        logger.info("wrote %s (%s bytes)", path, f"{path.stat().st_size:,}")
    return paths


def read_published(models_dir: Path) -> Published | None:
    """What the published trainset says of itself; None where nothing is published.

    Raises:
        InputError: something is there, but what it is cannot be read.
    """
    import joblib

    path = models_dir / TRAINSET_FILE
    if not path.is_file() and not (models_dir / MODEL_FILE).is_file():
        return None
    try:
        trainset: Any = joblib.load(path)
        users = [str(trainset.to_raw_uid(inner)) for inner in trainset.all_users()]
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}), so what is published is unknown: "
            f"move {MODEL_FILE} and {TRAINSET_FILE} away to build anew"
        ) from None
    return Published(
        app_users=sum(not user.startswith(NOT_APP_PREFIX) for user in users),
        is_sample=all(user.startswith(SAMPLE_PREFIX) for user in users),
    )

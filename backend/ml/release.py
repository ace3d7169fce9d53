"""Publish the two artifacts whole, and look at what is published."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from .errors import InputError, MlError
from .files import locked, replace_together
from .ratings import is_app_user
from .sample import USER_PREFIX as SAMPLE_PREFIX

if TYPE_CHECKING:
    from surprise import SVD, Trainset

logger = logging.getLogger("ml.release")

DEFAULT_MODELS_DIR = Path(__file__).parent / "models"
MODEL_FILE = "svd_model.pkl"
TRAINSET_FILE = "cf_trainset.pkl"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Published:
    """What is known of the published model, from its trainset's user ids."""

    ratings: int
    users: int
    app_users: int
    is_sample: bool


def artifact_paths(models_dir: Path) -> list[Path]:
    """The model's file, then the trainset's: the order they are put in place."""
    return [models_dir / MODEL_FILE, models_dir / TRAINSET_FILE]


def check_place(models_dir: Path) -> None:
    """Make `models_dir` if need be, and see that artifacts can be written there.

    Raises:
        MlError: they cannot.
    """
    folder_in_place = next((path for path in artifact_paths(models_dir) if path.is_dir()), None)
    if folder_in_place:
        raise MlError(f"a folder is in the place of a file, move it away: {folder_in_place}")
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=models_dir):
            pass
    except OSError as error:
        raise MlError(
            f"{models_dir} cannot be written ({error.strerror}): "
            "make it a folder that can be, or name another with --models-dir"
        ) from None


def publish(
    svd: SVD, trainset: Trainset, models_dir: Path, report: str | None = None
) -> list[Path]:
    """Write both artifacts under their final names once both are whole on the disk.

    And the report with them; without one, that of the model they replace is removed.

    Returns:
        Their paths.

    Raises:
        InputError: the trainset is that of a loaded model, without its ratings.
        OSError: they could not be written; what was there is untouched.
    """
    import joblib

    from .trainset import ArrayTrainset, IdTrainset

    slim = copy.copy(svd)
    if isinstance(trainset, ArrayTrainset):
        slim.trainset = trainset.without_ratings()
    elif isinstance(trainset, IdTrainset):
        raise InputError("this trainset has no ratings: give the one from cf_trainset.pkl")
    paths = artifact_paths(models_dir)
    page = models_dir / REPORT_FILE
    if report is not None:
        paths.append(page)
    with locked(models_dir):
        with replace_together(*paths) as (model_file, trainset_file, *rest):
            joblib.dump(slim, model_file)
            joblib.dump(trainset, trainset_file)
            for file in rest:
                file.write((report or "").encode())
        if report is None:
            page.unlink(missing_ok=True)
    for path in paths:
        logger.info("wrote %s (%s bytes)", path, f"{path.stat().st_size:,}")
    return paths


def read_published(models_dir: Path) -> Published | None:
    """What the published model's trainset says; None where nothing is published.

    After a crash between the two files the model is the newer one, so it is asked first.

    Raises:
        InputError: something is there, but what it is cannot be read.
    """
    import joblib
    import pandas as pd

    path = next((p for p in artifact_paths(models_dir) if p.is_file()), None)
    if path is None:
        return None
    try:
        found: Any = joblib.load(path)
        trainset = getattr(found, "trainset", found)
        users = [str(trainset.to_raw_uid(inner)) for inner in trainset.all_users()]
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error!s:.80}), "
            "so what is published is unknown: "
            f"move {MODEL_FILE} and {TRAINSET_FILE} away to build anew"
        ) from None
    return Published(
        ratings=trainset.n_ratings,
        users=len(users),
        app_users=int(is_app_user(pd.Series(users, dtype="str")).sum()),
        is_sample=all(user.startswith(SAMPLE_PREFIX) for user in users),
    )

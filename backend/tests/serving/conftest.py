"""A small release and its model, for the tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.serving import CollaborativeModel, load_collaborative


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a release of the sample."""
    models = tmp_path_factory.mktemp("models")
    save_models(*train_svd_model(sample_ratings(), epochs=5), str(models))
    return models


@pytest.fixture(scope="module")
def model(folder: Path) -> CollaborativeModel:
    return load_collaborative(folder)

"""A release as an earlier build wrote it still loads: what the pickles name is a promise.

It lies in `data/schema-1`, from the generated sample. Another form of release gets a folder of its
own, by this command in `backend/`; delete the `.lock` that it leaves:

    python -c "from ml.build_collaborative import save_models, train_svd_model as train
    from ml.collaborative.datasets.sample import sample_ratings
    save_models(*train(sample_ratings().head(500), algorithm='bayesian', factors=2),
                'tests/release/data/schema-1')"
"""

from __future__ import annotations

import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
from published import names_in
from surprise import SVD, Trainset

from ml.build_collaborative import save_models, train_svd_model
from ml.collaborative import load_collaborative, load_models
from ml.collaborative.datasets.sample import sample_ratings
from ml.collaborative.errors import OtherVersionsError
from ml.collaborative.release import ReleaseStore, verify_release

STORED = Path(__file__).parent / "data" / "schema-1"
USER, FILMS = "ml_sample_1", (862, 603, 11)
STARS = (4.013041787055, 3.770013334051, 3.954631987387)
"""What the model predicted when it was written."""
RATED = [(244, 5), (15, 2), (567, 2), (389, 1), (426, 3), (539, 5), (9325, 5), (62, 4)]
"""The user's first ratings."""
RATED_BY = [("ml_sample_3", 3), ("ml_sample_6", 5), ("ml_sample_11", 5)]
"""All ratings of the first film."""
NAMED = {
    "joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype", "numpy.ndarray",
    "ml.collaborative.trainset.ArrayTrainset", "ml.collaborative.trainset.RawIds",
}  # fmt: skip
"""What the stored pickles ask for; the model's also for Surprise's SVD."""


def assert_loads(svd: SVD, trainset: Trainset) -> None:
    assert type(svd) is SVD
    assert svd.build_id == trainset.build_id == ReleaseStore(STORED).live_id()
    for rows in (trainset, svd.trainset):
        assert (rows.n_ratings, rows.n_users, rows.global_mean) == (500, 12, 3.524)
        of_user = rows.ur[rows.to_inner_uid(USER)]
        assert [(rows.to_raw_iid(film), stars) for film, stars in of_user][:8] == RATED
        of_film = rows.ir[rows.to_inner_iid(FILMS[0])]
        assert [(rows.to_raw_uid(user), stars) for user, stars in of_film] == RATED_BY
    np.testing.assert_allclose([svd.predict(USER, film).est for film in FILMS], STARS)
    assert len(trainset.build_testset()) == 500


def test_a_stored_release_serves() -> None:
    model = load_collaborative(STORED)
    np.testing.assert_allclose(model.predict(USER, FILMS), STARS)
    assert len(model.recommend(USER, 5)) == 5
    assert model.fold_in({FILMS[0]: 5.0}).bias


def test_the_pickles_of_a_stored_release_load_verified_and_by_plain_joblib() -> None:
    verify_release(ReleaseStore(STORED).live_folder())
    assert_loads(*(joblib.load(STORED / name) for name in ("svd_model.pkl", "cf_trainset.pkl")))
    try:
        svd, trainset = load_models(STORED)
    except OtherVersionsError as error:
        pytest.skip(str(error))
    assert_loads(svd, trainset)
    assert svd.parts.implicit.shape == (trainset.n_items, 3)


def test_the_stored_pickles_name_the_trainset_and_nothing_else_of_ours() -> None:
    assert names_in(STORED / "cf_trainset.pkl") == NAMED
    assert names_in(STORED / "svd_model.pkl") == NAMED | {f"{SVD.__module__}.SVD"}


def test_a_stored_release_is_published_over_like_any_other(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(STORED, models)
    before = ReleaseStore(models).live_id()
    save_models(*train_svd_model(sample_ratings().head(500), epochs=1, factors=2), str(models))
    assert ReleaseStore(models).roll_back()[0] == before

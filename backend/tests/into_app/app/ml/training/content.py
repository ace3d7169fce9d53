"""The content-based model: films with near ids are alike."""

import joblib

from ..build_model import MODELS


def similar_films(movie_id: int) -> list[int]:
    ids = joblib.load(MODELS / "movie_ids.pkl")
    return sorted(ids, key=lambda other: abs(other - movie_id))[1:6]

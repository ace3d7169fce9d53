"""The app's service: films that are like one, by its content-based model."""

from config import settings
from fastapi import FastAPI
from ml.evaluation import coverage
from ml.training.content import similar_films

app = FastAPI()


@app.get("/health")
def health() -> dict[str, object]:
    return {
        "environment": settings.environment,
        "tmdb": settings.tmdb_api_key[:4],
        "key": type(settings.supabase_service_role_key).__name__,
        "films": coverage(),
    }


@app.get("/films/{movie_id}/similar")
def similar(movie_id: int) -> list[int]:
    return similar_films(movie_id)

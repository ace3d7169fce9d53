"""Serve content-based and collaborative scores in one ranking, with each user's newest ratings.

Run it in `backend/`: uvicorn examples.fusion_service:app
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Query, Response

from ml.collaborative import ReleaseFollower, RequestError, load_collaborative

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODELS_DIR = os.environ.get("MODELS_DIR")
RELOAD_SECONDS = float(os.environ.get("RELOAD_SECONDS", "60"))

releases = ReleaseFollower(partial(load_collaborative, MODELS_DIR, mmap=True), RELOAD_SECONDS)
"""Loads the first release once there is one, and each after it."""
ratings: dict[str, dict[int, float]] = {}
"""In place of the app's table: stars by user and film."""
catalog = np.arange(1, 10_001)
content_scores = np.random.default_rng(0).uniform(0, 1, len(catalog))
"""In place of the app's content-based model: its films and their scores, from 0 to 1."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Follow the releases while the service runs."""
    with releases:
        yield


app = FastAPI(lifespan=lifespan)


def collaborative_weight(rated: int) -> float:
    """Return the weight of the collaborative score, by how many films the user has rated."""
    if rated < 5:
        return 0.0
    return 0.3 * rated / 20 if rated < 20 else 0.7


@app.put("/users/{user_id}/ratings/{movie_id}")
def rate(user_id: str, movie_id: Annotated[int, Path(ge=1, lt=1 << 31)], stars: float) -> None:
    """Store a rating; the next ranking uses it."""
    if not 0.5 <= stars <= 5:
        raise HTTPException(422, f"{stars:g} stars: expected 0.5 to 5")
    ratings.setdefault(user_id, {})[movie_id] = stars


@app.get("/users/{user_id}/recommendations")
def recommend(user_id: str, n: Annotated[int, Query(ge=1)] = 10) -> list[dict[str, int | float]]:
    """Return the best films of the catalog for this user, best first, without rated ones."""
    rated = dict(ratings.get(user_id, {}))  # a copy: another request may add to it
    scores = content_scores.copy()
    weight = collaborative_weight(len(rated))
    model = releases.model
    if model is not None and weight:
        try:
            now = model.scores(model.fold_in(rated), catalog)
        except RequestError as error:
            raise HTTPException(422, str(error)) from None
        scores = np.where(np.isnan(now), scores, (1 - weight) * scores + weight * now)
    left = np.flatnonzero(~np.isin(catalog, list(rated)))
    best = left[np.argsort(-scores[left], kind="stable")[:n]]
    return [{"movie_id": int(catalog[i]), "score": float(scores[i])} for i in best]


@app.get("/health")
def health(response: Response) -> dict[str, Any]:
    """Return what is served; 503 where new releases are no longer loaded, 200 before the first."""
    state = releases.state
    if state.status == "stale":
        response.status_code = 503
    return state._asdict()

"""Serve content-based and collaborative scores in one ranking, with each user's newest ratings.

Run it in `backend/`: uvicorn examples.fusion_service:app
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Query

from ml.collaborative import (
    CollaborativeModel,
    ReleaseError,
    RequestError,
    load_collaborative,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODELS_DIR = os.environ.get("MODELS_DIR")
RELOAD_SECONDS = float(os.environ.get("RELOAD_SECONDS", "60"))
logger = logging.getLogger("fusion")

model: CollaborativeModel | None = None
ratings: dict[str, dict[int, float]] = {}
"""In place of the app's table: stars by user and film."""
catalog = np.arange(1, 10_001)
content_scores = np.random.default_rng(0).uniform(0, 1, len(catalog))
"""In place of the app's content-based model: its films and their scores, from 0 to 1."""


async def follow_releases() -> None:
    """Load the live release as soon as there is one, and each release after it."""
    global model
    while True:
        try:
            if model is None:
                model = await asyncio.to_thread(load_collaborative, MODELS_DIR)
            elif await asyncio.to_thread(model.reload_if_changed):
                logger.info("serving release %s", model.manifest["build_id"])
        except (ReleaseError, OSError) as error:
            logger.warning("%s; going on with what is loaded", error)
        await asyncio.sleep(RELOAD_SECONDS)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Follow the releases while the service runs."""
    following = asyncio.create_task(follow_releases())
    yield
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


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
def health() -> dict[str, str | None]:
    """Return the release that is served."""
    return {"release": model.manifest["build_id"] if model else None}

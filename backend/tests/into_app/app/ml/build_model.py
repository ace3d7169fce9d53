"""Builds the content-based model: here the list of its films."""

import sys
from pathlib import Path

import joblib

MODELS = Path(__file__).parent / "models"


def main(ids: list[int]) -> None:
    MODELS.mkdir(exist_ok=True)
    joblib.dump(ids, MODELS / "movie_ids.pkl")


if __name__ == "__main__":
    main([int(text) for text in sys.stdin.read().split()])

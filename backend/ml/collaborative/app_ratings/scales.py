"""Map the scales that apps rate on to stars.

| scale  | values              | stars                               |
|--------|---------------------|-------------------------------------|
| 0.5-5  | stars, halves too   | the same                            |
| 1-5    | stars               | the same                            |
| 1-10   | points              | half as many: 10 points are 5 stars |
| thumbs | true, false; 1, 0, -1 | up 4.5, down 2.5                  |

Thumbs take the average of MovieLens's ratings of 4 stars or more, and of all others: on ML-100K
4.38 and 2.47, which are 4.5 and 2.5 in half stars.
"""

from __future__ import annotations

import pandas as pd

from ..ratings import HIGHEST, LOWEST

BOUNDS = {"0.5-5": (LOWEST, HIGHEST), "1-5": (1.0, 5.0), "1-10": (1.0, 10.0), "thumbs": (-1.0, 1.0)}
"""Lowest and highest rating by the scale's name."""
UP, DOWN = 4.5, 2.5
"""In stars."""
_THUMBS = {"true": "1", "false": "0"}
"""How Postgres writes booleans."""


def numbers(texts: pd.Series) -> pd.Series:
    """Return the number that each text is, float64; NaN where it is not a finite number."""
    found: pd.Series[float] = pd.to_numeric(texts, errors="coerce").astype("float64")
    return found.mask(found.abs() == float("inf"))


def ratings_of(texts: pd.Series, scale: str) -> pd.Series:
    """Return the rating that each text is, on the app's scale, float64; NaN if not a number."""
    return numbers(texts.replace(_THUMBS) if scale == "thumbs" else texts)


def are_on(ratings: pd.Series, scale: str) -> pd.Series:
    """Return for each rating whether it is on the scale, boolean."""
    inside = ratings.between(*BOUNDS[scale])
    return inside & (ratings % 1 == 0) if scale == "thumbs" else inside


def to_stars(ratings: pd.Series, scale: str) -> pd.Series:
    """Return ratings of the app's scale in stars, `LOWEST` to `HIGHEST`."""
    if scale == "thumbs":
        return (ratings > 0).map({True: UP, False: DOWN})
    return ratings / 2 if scale == "1-10" else ratings

"""The MovieLens sets: fetched, verified, and put under TMDB ids."""

from .movielens import DEFAULT_DATASET as DEFAULT_DATASET
from .movielens import NAMES as NAMES
from .movielens import FilmNames as FilmNames
from .movielens import describe as describe
from .movielens import fetch as fetch
from .movielens import fetch_splits as fetch_splits
from .movielens import load as load
from .movielens import name_films as name_films

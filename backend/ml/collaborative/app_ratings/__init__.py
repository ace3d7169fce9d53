"""The app's own ratings, over REST or straight from Postgres."""

from .reading import read_app_ratings as read_app_ratings
from .reading import read_app_ratings_or_stop as read_app_ratings_or_stop

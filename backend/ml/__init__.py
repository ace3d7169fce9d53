"""Collaborative filtering for the movie app."""

__version__ = "0.1.0"

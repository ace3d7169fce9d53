"""Collaborative filtering for a movie app."""

__version__ = "0.2.0"

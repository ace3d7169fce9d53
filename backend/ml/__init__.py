"""Collaborative filtering for the movie app."""

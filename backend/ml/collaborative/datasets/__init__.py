"""The MovieLens sets: fetched, verified, and put under TMDB ids."""

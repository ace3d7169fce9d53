"""Trainings: ratings in, a model out."""

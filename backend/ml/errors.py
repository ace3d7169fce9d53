"""The errors that end a script, each with its exit code."""

from __future__ import annotations


class MlError(Exception):
    """Base of the project's errors. Its text is one or two lines for the person at the terminal."""

    exit_code = 1


class UsageError(MlError):
    """The command asks for something it must not do as it stands."""

    exit_code = 2


class InputError(MlError):
    """An input is missing or not what it should be."""

    exit_code = 3


class SourceError(MlError):
    """A source (MovieLens, Supabase) could not be reached or gave nothing usable."""

    exit_code = 4


class GateError(MlError):
    """The trained model is not fit to be published."""

    exit_code = 5

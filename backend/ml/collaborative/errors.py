"""The errors that end a script, each with its exit code."""

from __future__ import annotations


class MlError(Exception):
    """Base of the project's errors. Its text is one or two lines for the person at the terminal."""

    exit_code = 1


class UsageError(MlError):
    """The command's arguments are invalid or do not go together."""

    exit_code = 2


class InputError(MlError):
    """An input is missing or invalid."""

    exit_code = 3


class ReleaseError(InputError):
    """A release cannot be used; the base of the four below."""


class MissingReleaseError(ReleaseError):
    """The models folder has no release."""


class DamagedReleaseError(ReleaseError):
    """A release's file is missing, cut, or not the one that was published."""


class NewerReleaseError(ReleaseError):
    """A release was written by a newer version of this project, in an unknown format."""


class OtherVersionsError(ReleaseError):
    """A release's pickles were made with other versions of the libraries than are installed."""


class SourceError(MlError):
    """A source (MovieLens, Supabase) could not be reached or gave nothing usable."""

    exit_code = 4


class GateError(MlError):
    """The trained model did not pass the checks before publishing."""

    exit_code = 5


class RequestError(MlError, ValueError):
    """A request to the model is invalid; the base of the three below."""

    exit_code = 2


class UserIdError(RequestError):
    """A user is neither an id as text or UUID nor a folded-in user."""


class MovieIdError(RequestError):
    """A film id is not an integer."""


class RatingError(RequestError):
    """A rating is not a number of stars from 0.5 to 5."""

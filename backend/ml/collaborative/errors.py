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


class ReleaseError(InputError):
    """A models folder does not give what is asked of it; the base of the four below."""


class MissingReleaseError(ReleaseError):
    """There is no release."""


class DamagedReleaseError(ReleaseError):
    """A release's file is missing, cut, or not the one that was published."""


class NewerReleaseError(ReleaseError):
    """A release was written by a newer version of this project, in a form not known here."""


class OtherVersionsError(ReleaseError):
    """A release's pickles were made with other versions of the libraries than are installed."""


class SourceError(MlError):
    """A source (MovieLens, Supabase) could not be reached or gave nothing usable."""

    exit_code = 4


class GateError(MlError):
    """The trained model is not fit to be published."""

    exit_code = 5


class RequestError(MlError, ValueError):
    """A service asks the model for what makes no sense; the base of the three below."""

    exit_code = 2


class UserIdError(RequestError):
    """Something is no user: neither an id as text nor a folded-in user."""


class MovieIdError(RequestError):
    """Something is no film id: not an integer."""


class RatingError(RequestError):
    """Something is no rating: not a number of stars from 0.5 to 5."""

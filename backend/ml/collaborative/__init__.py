"""Collaborative filtering for a movie app: what its service imports.

from ml.collaborative import load_collaborative
model = load_collaborative()
films = model.recommend(user_id, 10)
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  first of all: what follows does not parse there
    sys.stderr.write(
        "error: Python 3.11 or newer is needed, this is %d.%d\n" % sys.version_info[:2]  # noqa: UP031
    )
    sys.exit(2)

from .errors import (
    DamagedReleaseError as DamagedReleaseError,
)
from .errors import MissingReleaseError as MissingReleaseError
from .errors import MlError as MlError
from .errors import MovieIdError as MovieIdError
from .errors import NewerReleaseError as NewerReleaseError
from .errors import OtherVersionsError as OtherVersionsError
from .errors import RatingError as RatingError
from .errors import ReleaseError as ReleaseError
from .errors import RequestError as RequestError
from .errors import UserIdError as UserIdError
from .version import __version__ as __version__

TYPE_CHECKING = False  # as in process.py
if TYPE_CHECKING:
    from .release import load_models as load_models
    from .serving import CollaborativeModel as CollaborativeModel
    from .serving import FoldedUser as FoldedUser
    from .serving import FollowerState as FollowerState
    from .serving import Reason as Reason
    from .serving import Recommendation as Recommendation
    from .serving import ReleaseFollower as ReleaseFollower
    from .serving import SimilarFilm as SimilarFilm
    from .serving import load_collaborative as load_collaborative


_ROOMS = {
    "load_models": "release",
    "CollaborativeModel": "serving",
    "FoldedUser": "serving",
    "FollowerState": "serving",
    "Reason": "serving",
    "Recommendation": "serving",
    "ReleaseFollower": "serving",
    "SimilarFilm": "serving",
    "load_collaborative": "serving",
}
"""Where the names are that take NumPy to import: they are imported on first use."""


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)

"""The versions of the libraries: those of this build, and whether they can read its pickles."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import OtherVersionsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LIBRARIES = ("numpy", "scikit-surprise", "pandas", "numba", "joblib")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of the libraries a build depends on, and of this project."""
    from ..version import __version__

    libraries = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries, "ml": __version__}


def check_versions(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse pickles made with another scikit-surprise, or another major version of NumPy.

    Raises:
        OtherVersionsError: they were.
    """
    made = manifest["versions"]
    for library, parts in (("scikit-surprise", 3), ("numpy", 1)):
        here, then = version(library), made[library]
        if here.split(".")[:parts] != then.split(".")[:parts]:
            raise OtherVersionsError(
                f"{folder} was pickled with {library} {then}, and {here} is installed: install "
                f"{library}=={then}, build again, or use its plain arrays, which any NumPy reads"
            )

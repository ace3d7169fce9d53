"""What a person reads about a build: the page and the lines on the terminal.

The page is imported when it is first used: it needs scikit-surprise, and the lines do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .summary import describe_build as describe_build
from .summary import describe_evaluation as describe_evaluation
from .summary import describe_list as describe_list
from .summary import describe_releases as describe_releases
from .summary import describe_rollback as describe_rollback
from .summary import describe_similar as describe_similar
from .summary import describe_tuning as describe_tuning
from .summary import describe_unchanged as describe_unchanged

if TYPE_CHECKING:
    from .page import Content as Content
    from .page import render_report as render_report
else:  # or any name would pass the type checker

    def __getattr__(name: str) -> object:
        if name not in ("Content", "render_report"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(".page", __name__), name)

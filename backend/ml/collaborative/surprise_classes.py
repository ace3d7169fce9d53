"""Surprise's classes; it is imported here alone, because it makes a folder when it is imported.

That is `~/.surprise_data`, for data sets that it downloads itself. A user of a service or of cron
may have no home that can be written.
"""

from __future__ import annotations

import os
import tempfile

if "SURPRISE_DATA_FOLDER" not in os.environ and not os.path.isdir(  # noqa: PTH112  there may be no home
    os.path.expanduser("~/.surprise_data")  # noqa: PTH111
):
    try:
        os.environ["SURPRISE_DATA_FOLDER"] = tempfile.gettempdir()
    except FileNotFoundError:  # none can be written; that one is there is enough
        os.environ["SURPRISE_DATA_FOLDER"] = os.path.dirname(__file__)  # noqa: PTH120

from surprise import SVD as SVD
from surprise import AlgoBase as AlgoBase
from surprise import Trainset as Trainset

"""One release and the store of them: written, verified, published, rolled back."""

from .arrays import NAMES, model_arrays, ranking_from
from .manifest import (
    ITEM_ONLY,
    MODEL_FILE,
    REPORT_FILE,
    TRAINSET_FILE,
    counts_of,
    read_manifest,
)
from .reading import (
    load_arrays,
    load_models,
    read_held_out,
    read_served,
    read_users,
    verify_release,
)
from .store import KEEP, Listed, ReleaseStore
from .versions import check_versions, installed_versions
from .writing import count, describe_scores, draft_manifest

__all__ = [
    "ITEM_ONLY",
    "KEEP",
    "MODEL_FILE",
    "NAMES",
    "REPORT_FILE",
    "TRAINSET_FILE",
    "Listed",
    "ReleaseStore",
    "check_versions",
    "count",
    "counts_of",
    "describe_scores",
    "draft_manifest",
    "installed_versions",
    "load_arrays",
    "load_models",
    "model_arrays",
    "ranking_from",
    "read_held_out",
    "read_manifest",
    "read_served",
    "read_users",
    "verify_release",
]

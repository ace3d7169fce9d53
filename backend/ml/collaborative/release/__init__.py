"""One release and the store of them: written, verified, published, rolled back."""

from .files import (
    check_versions,
    load_arrays,
    load_models,
    read_held_out,
    verify_release,
)
from .history import Listed
from .live import MODEL_FILE, REPORT_FILE, TRAINSET_FILE
from .manifest import (
    count,
    counts_of,
    describe_scores,
    draft_manifest,
    installed_versions,
    read_manifest,
)
from .publishing import KEEP
from .store import ReleaseStore

__all__ = [
    "KEEP",
    "MODEL_FILE",
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
    "read_held_out",
    "read_manifest",
    "verify_release",
]

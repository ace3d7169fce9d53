"""The same training on a Spark cluster."""

from .algorithm import ALS as ALS
from .algorithm import on_cluster as on_cluster

"""The same training on a Spark cluster."""

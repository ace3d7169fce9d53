"""The version of this project, which every manifest names."""

__version__ = "0.2.0"

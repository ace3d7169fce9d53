"""The app's own training, a name that many apps have."""

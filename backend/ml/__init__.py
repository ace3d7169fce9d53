"""The app's machine learning."""

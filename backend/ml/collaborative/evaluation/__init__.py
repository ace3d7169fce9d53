"""How good a model is, and whether it is fit to be published."""

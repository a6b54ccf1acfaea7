"""The training loop, its recipes, and data-parallel runs."""

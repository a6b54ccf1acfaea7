"""Names that a command line offers. Does not import torch, so that ``--help`` does not wait for it."""

from __future__ import annotations

from fewscope.model.networks import registry

NETWORKS = tuple(name for name, spec in registry.NETWORKS.items() if spec.trained)
"""What can be trained."""

MODELS = registry.MODELS
"""What can be loaded to predict with."""

LOSSES = ("bce", "mse", "bce+dice", "dice")
"""Training losses (`model.training.objectives.LOSS_FUNCTIONS` computes them)."""

RECIPES = ("modern", "paper")
"""Training settings that have a name (`model.training.recipes.recipe`)."""

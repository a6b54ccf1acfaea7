"""Names of models, networks, losses and recipes. Imports nothing heavy, so that ``--help`` does not wait for torch."""

from typing import Literal

COMPACT = {"compact-S": "S", "compact-L": "L"}
"""Compact networks, and their size."""

RELATION: dict[str, tuple[str, Literal["released", "paper"]]] = {
    "vgg16-released": ("vgg16", "released"),
    "vgg16-paper": ("vgg16", "paper"),
    "resnet101-paper": ("resnet101", "paper"),
    "inception-paper": ("inception", "paper"),
}
"""Encoder and variant of each relation network. The published code has VGG-16 alone."""

NETWORKS = (*COMPACT, *RELATION)
"""What can be trained."""

MODELS = ("compact", *RELATION)
"""What can be loaded to predict with; the weights say whether ``compact`` is S or L."""

LOSSES = ("bce", "mse", "bce+dice")
"""Training losses (`model.training.objectives.LOSSES` computes them)."""

RECIPES = ("modern", "paper")
"""Training settings that have a name (`model.training.recipes.recipe`)."""

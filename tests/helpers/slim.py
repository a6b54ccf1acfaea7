"""Relation networks that cost nothing, for tests of what is around them. Ray's workers import this, too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import fewscope.model.networks.registry
import fewscope.model.training.loop
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.encoders import Encoder
from fewscope.model.networks.relation import RelationNet, Variant
from fewscope.model.training.job import TrainingJob


class SlimEncoder(Encoder):
    """Four channels everywhere."""

    taps = (4, 4, 4, 4, 4)
    deepest = 4

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(6)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        taps = []
        for block in self.blocks[:-1]:
            taps.append(block(x))
            x = F.max_pool2d(taps[-1], 2)
        return self.blocks[-1](x), tuple(taps)


def relation_network(variant: Variant) -> RelationNet:
    """A relation network of four channels."""
    return RelationNet(variant, SlimEncoder(), (4,) * 5)


def build_network(name: str) -> CompactNet | RelationNet:
    """As `model.networks.registry.build_network`, but relation networks have four channels."""
    if fewscope.model.networks.registry.NETWORKS[name].family == "compact":
        return fewscope.model.networks.registry.build_network(name)
    return relation_network("released" if name.endswith("-released") else "paper")


class SlimJob(TrainingJob):
    """A training of such networks."""

    __slots__ = ()

    def run(self, device: torch.device | None = None) -> list[str]:
        """In a process of its own: nothing is put back."""
        fewscope.model.training.loop.build_network = build_network
        return super().run(device)

"""Small versions of the networks of other papers, and pictures that they can learn."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewscope.model.networks.canet import CANet
from fewscope.model.networks.episodic import EpisodicNet
from fewscope.model.networks.guided import GuidedNet
from fewscope.model.networks.hsnet import HSNet
from fewscope.model.networks.oslsm import OSLSM
from fewscope.model.networks.panet import PANet
from fewscope.model.networks.prototype import PrototypeNet

SLIM: dict[str, Callable[[], EpisodicNet]] = {
    "oslsm": lambda: OSLSM(widths=(8,) * 5, width=32, n_outputs=16, condition_side=64),
    "guided": lambda: GuidedNet(widths=(8,) * 5, width=8),
    "panet": lambda: PANet(widths=(8,) * 5),
    "canet": lambda: CANet(width=16, blocks=(1, 1, 1)),
    "hsnet": lambda: HSNet("vgg16", widths=(4, 8, 8)),
    "prototype": lambda: PrototypeNet("compact"),
}


def discs(n: int, side: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (n, 3, side, side) with a reddish disc each, and its mask (n, 1, side, side)."""
    g = torch.Generator().manual_seed(seed)
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = []
    for _ in range(n):
        r, c, radius = (
            torch.rand(3, generator=g) * torch.tensor([0.4, 0.4, 0.1]) + torch.tensor([0.3, 0.3, 0.2])
        ) * side
        masks.append(((rows - r) ** 2 + (cols - c) ** 2 < radius**2).float())
    mask = torch.stack(masks)[:, None]
    ground = torch.tensor([0.3, 0.6, 0.4])[:, None, None]
    colour = torch.tensor([0.8, 0.3, 0.2])[:, None, None]
    noise = 0.05 * torch.randn(n, 3, side, side, generator=g)
    return (mask * colour + (1 - mask) * ground + noise).clamp(0, 1), mask

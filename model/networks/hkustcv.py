"""The relation network as FSS-1000's authors run it: batch statistics in use, too, and a sum over the supports.

Their code (HKUSTCV/FSS-1000) trains the decoder's batch norms with a momentum of 1 and never calls ``eval()``, so that
what their checkpoint predicts depends on the batch. They segment one query at a time. Here, a query is normalised by
its own statistics, which is the same for a batch of one, and makes a tile independent of the others in any batch. The
supports of a set are normalised together, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewscope.model.networks.relation import RelationNet, RelationPack


class EpisodeNorm(nn.Module):
    """Batch norm with the statistics of its input: of all images together, or of each alone.

    Not a `torch.nn.BatchNorm2d`, so that it is not folded into a convolution. It has the same state; the running
    statistics are kept for the file alone.

    Parameters
    ----------
    width : int
        Channels.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.together = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps (N, C, H, W)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = (0, 2, 3) if self.together else (2, 3)
        variance, mean = torch.var_mean(wide, dim=dims, correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + 1e-5)
        return ((wide - mean) * scale + self.bias[:, None, None]).to(x.dtype)


class AuthorsRelationNet(RelationNet):
    """The released network with `EpisodeNorm` for batch norm, and the sum of K support maps for any K."""

    def __init__(self) -> None:
        super().__init__("released")
        _replace_norms(self)
        self.eval()

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> RelationPack:
        """As `RelationNet.compile_support`; the supports are normalised together."""
        norms = [layer for layer in self.modules() if isinstance(layer, EpisodeNorm)]
        try:
            for norm in norms:
                norm.together = True
            return super().compile_support(images, foreground, background)
        finally:
            for norm in norms:
                norm.together = False

    def compile_maps(self, deepest: Tensor, taps: tuple[Tensor, ...]) -> RelationPack:
        """The sum of the maps of encoded supports."""
        return RelationPack(deepest.sum(0, keepdim=True), ())


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, EpisodeNorm(child.num_features))
        else:
            _replace_norms(child)

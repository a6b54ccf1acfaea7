"""The relation network of FSS-1000, in the paper's and in the published code's variant.

Li et al., *FSS-1000: A 1000-Class Dataset for Few-Shot Segmentation*, CVPR 2020, section 4 and Figure 5. The authors'
code differs from the paper in several places; ``variant`` says which is meant:

=================  ==========================  ==========================================
                   "paper"                     "released"
=================  ==========================  ==========================================
K support maps     mean                        sum over 5 (here: 5 x the mean, for any K)
skips              support and query           query only
relation module    two 1x1 convolutions        two 3x3 convolutions, batch norm
upsampling         nearest                     bilinear, align_corners
=================  ==========================  ==========================================

Where the paper is silent (how the support mask enters), both follow the code: it is a fourth input channel of the
encoder, zero for queries. In both, batch norm uses running statistics, so that a tile's result does not depend on the
other tiles of its batch, as it does in the published code (momentum of 1, no ``eval()``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.networks.encoders import Encoder, VGG16Encoder

Variant = Literal["paper", "released"]

WIDTHS = (512, 256, 128, 64, 64)
"""Output channels of the decoder's blocks, deepest first, and of the relation module: the first."""


@dataclass(frozen=True, slots=True, eq=False)
class RelationPack:
    """Encoded support set: the aggregated deepest map (1, C, h, w), and the skips if the decoder takes them."""

    deepest: Tensor
    skips: tuple[Tensor, ...]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RelationPack:
        """The same pack on another device, or in another dtype."""
        return RelationPack(
            self.deepest.to(device=device, dtype=dtype),
            tuple(s.to(device=device, dtype=dtype) for s in self.skips),
        )


def _conv(n_in: int, n_out: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


class RelationNet(nn.Module):
    """Encoder, relation module, decoder. Input sides must be multiples of 32.

    Parameters
    ----------
    variant : Variant
        "paper" or "released", see the module.
    encoder : Encoder | None
        VGG-16 by default.
    widths : tuple[int, ...]
        Output channels of relation module and decoder.

    Raises
    ------
    ConfigError
        There is no such variant.
    """

    def __init__(
        self,
        variant: Variant = "released",
        encoder: Encoder | None = None,
        widths: tuple[int, ...] = WIDTHS,
    ) -> None:
        super().__init__()
        if variant not in ("paper", "released"):
            raise ConfigError(f"variant {variant!r} is neither 'paper' nor 'released'")
        self.variant = variant
        self.encoder = encoder or VGG16Encoder()
        kernel = 1 if variant == "paper" else 3
        self.relation = nn.Sequential(
            *_conv(2 * self.encoder.deepest, widths[0], kernel), *_conv(widths[0], widths[0], kernel)
        )
        n_skips = 2 if variant == "paper" else 1
        blocks, n_in = [], widths[0]
        for i, (out, skip) in enumerate(zip(widths, reversed(self.encoder.taps), strict=True)):
            layers = _conv(n_in + n_skips * skip, out, 3)
            if i < 4:
                layers += _conv(out, out, 3)
            blocks.append(nn.Sequential(*layers))
            n_in = out
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(widths[-1], 1, 1)

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> RelationPack:
        """Encode K support pairs, once.

        Parameters
        ----------
        images : Tensor
            (K, 3, H, W) float in [0, 1].
        foreground : Tensor
            (K, 1, H, W) in {0, 1}.
        background : Tensor
            Not used, part of the common signature: this network does not distinguish unlabelled pixels from
            background.
        """
        return self.compile_maps(*self.encoder(torch.cat([images, foreground.to(images.dtype)], dim=1)))

    def compile_maps(self, deepest: Tensor, taps: tuple[Tensor, ...]) -> RelationPack:
        """`compile_support` for encoded pairs, (K, C, h, w) each: training encodes an episode at once."""
        total = deepest.mean(0, keepdim=True)
        if self.variant == "released":
            return RelationPack(5 * total, ())
        return RelationPack(total, tuple(t.mean(0, keepdim=True) for t in taps))

    def forward(self, images: Tensor, pack: RelationPack) -> Tensor:
        """Logits (N, 1, H, W) of queries (N, 3, H, W) in [0, 1]."""
        return self.predict_encoded(self.encode_queries(images), pack)

    def encode_queries(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Deepest map and taps of queries (N, 3, H, W): once per batch, for any number of packs."""
        images = images.to(self.head.weight.dtype)
        zeros = images.new_zeros(len(images), 1, *images.shape[2:])
        encoded: tuple[Tensor, tuple[Tensor, ...]] = self.encoder(torch.cat([images, zeros], dim=1))
        return encoded

    def predict_encoded(self, queries: tuple[Tensor, tuple[Tensor, ...]], pack: RelationPack) -> Tensor:
        """Logits (N, 1, H, W) of encoded queries, as `forward` returns them."""
        return self.decode(*queries, pack)

    def decode(self, deepest: Tensor, taps: tuple[Tensor, ...], pack: RelationPack) -> Tensor:
        """Logits (N, 1, H, W) from deepest maps and taps: relation module and decoder."""
        n = len(deepest)
        x = self.relation(torch.cat([pack.deepest.expand(n, -1, -1, -1), deepest], dim=1))
        for i, block in enumerate(self.decoder):
            level = len(taps) - 1 - i
            parts = [self._up(x, taps[level]), taps[level]]
            if pack.skips:
                parts.append(pack.skips[level].expand(n, -1, -1, -1))
            x = block(torch.cat(parts, dim=1))
        return self.head(x)

    def _up(self, x: Tensor, tap: Tensor) -> Tensor:
        """Resize to the tap, which is twice as large unless the encoder has no padding."""
        if self.variant == "paper":
            return F.interpolate(x, size=tap.shape[-2:], mode="nearest")
        return F.interpolate(x, size=tap.shape[-2:], mode="bilinear", align_corners=True)

"""The relation network of FSS-1000 with a VGG-16 encoder, in the paper's and in the published code's variant.

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
encoder, zero for queries. In both, batch norm uses proper running statistics, so that a tile's result does not depend
on its batch mates (the published code's momentum of 1 and missing ``eval()`` make it depend on them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

Variant = Literal["paper", "released"]

TAPS = (64, 128, 256, 512, 512)
"""Channels after the last ReLU of VGG-16's five stages, at strides 1, 2, 4, 8, 16."""


@dataclass(frozen=True, slots=True, eq=False)
class RelationPack:
    """Encoded support set: the aggregated deepest map (1, 512, H/32, W/32), and the skips if the decoder has them."""

    deepest: Tensor
    skips: tuple[Tensor, ...]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> RelationPack:
        """The same pack on another device, or in another dtype."""
        return RelationPack(
            self.deepest.to(device=device, dtype=dtype),
            tuple(s.to(device=device, dtype=dtype) for s in self.skips),
        )


class VGG16Encoder(nn.Module):
    """``vgg16_bn.features`` with four input channels: RGB in [0, 1] (no mean or deviation) and the mask."""

    def __init__(self) -> None:
        super().__init__()
        layers = torchvision.models.vgg16_bn(weights=None).features
        layers[0] = nn.Conv2d(4, 64, 3, padding=1)
        self.layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Deepest map (N, 512, H/32, W/32) and the taps at strides 1..16, from (N, 4, H, W)."""
        taps: list[Tensor] = []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                taps.append(x)
            x = layer(x)
        return x, tuple(taps)


def _conv(n_in: int, n_out: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


class RelationNet(nn.Module):
    """Encoder, relation module, decoder. Input sides must be multiples of 32."""

    def __init__(self, variant: Variant = "released") -> None:
        super().__init__()
        if variant not in ("paper", "released"):
            raise ValueError(f"variant {variant!r} is neither 'paper' nor 'released'")
        self.variant = variant
        self.encoder = VGG16Encoder()
        kernel = 1 if variant == "paper" else 3
        self.relation = nn.Sequential(*_conv(1024, 512, kernel), *_conv(512, 512, kernel))
        n_skips = 2 if variant == "paper" else 1
        widths = (512, 256, 128, 64, 64)  # out of the decoder's blocks, deepest first
        blocks, n_in = [], 512
        for i, (out, skip) in enumerate(zip(widths, reversed(TAPS), strict=True)):
            layers = _conv(n_in + n_skips * skip, out, 3)
            if i < 4:
                layers += _conv(out, out, 3)
            blocks.append(nn.Sequential(*layers))
            n_in = out
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(64, 1, 1)

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> RelationPack:
        """Encode K support pairs, once: images (K, 3, H, W), foreground (K, 1, H, W) in {0, 1}.

        `background` is taken for the sake of the common signature; this network cannot tell unlabelled from background.
        """
        deepest, taps = self.encoder(torch.cat([images, foreground.to(images.dtype)], dim=1))
        total = deepest.mean(0, keepdim=True)
        if self.variant == "released":
            return RelationPack(5 * total, ())
        return RelationPack(total, tuple(t.mean(0, keepdim=True) for t in taps))

    def forward(self, images: Tensor, pack: RelationPack) -> Tensor:
        """Logits (N, 1, H, W) of queries (N, 3, H, W) in [0, 1]."""
        return self.answer(self.encode_queries(images), pack)

    def encode_queries(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What of the queries does not depend on the support: once per batch, for any number of packs."""
        zeros = images.new_zeros(len(images), 1, *images.shape[2:])
        encoded: tuple[Tensor, tuple[Tensor, ...]] = self.encoder(torch.cat([images, zeros], dim=1))
        return encoded

    def answer(self, queries: tuple[Tensor, tuple[Tensor, ...]], pack: RelationPack) -> Tensor:
        """Logits of encoded queries, as `forward` has them."""
        return self.decode(*queries, pack)

    def decode(self, deepest: Tensor, taps: tuple[Tensor, ...], pack: RelationPack) -> Tensor:
        """Logits from an encoded query: relation module and decoder."""
        n = len(deepest)
        x = self.relation(torch.cat([pack.deepest.expand(n, -1, -1, -1), deepest], dim=1))
        for i, block in enumerate(self.decoder):
            level = len(taps) - 1 - i
            parts = [self._up(x), taps[level]]
            if pack.skips:
                parts.append(pack.skips[level].expand(n, -1, -1, -1))
            x = block(torch.cat(parts, dim=1))
        return self.head(x)

    def _up(self, x: Tensor) -> Tensor:
        if self.variant == "paper":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

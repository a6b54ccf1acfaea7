"""Guided Network: mean features of object and background, set beside every feature of the query.

Rakelly et al., *Few-Shot Segmentation Propagation with Guided Networks*, arXiv:1806.07373, 2018 (before: *Conditional
Networks for Few-Shot Semantic Segmentation*, ICLR Workshop 2018), in the form that the training script of their
repository (shelhamer/revolver) names: one VGG-16 at stride 32 for queries and supports, late
fusion, global guidance, 256 channels, weights of object, background and query not shared. That repository says of
itself that it is not yet a reference implementation of the paper.

It trains with a few random labelled points per class; FSS-1000's tables want whole masks, and so does this network's
recipe. The names of the weights are those of the authors' code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks.episodic import (
    EpisodicNet,
    SupportPack,
    bilinear_kernel,
    enlarged,
    initialise_vgg,
    load_vgg,
    vgg_layers,
    vgg_state,
)

STRIDE = 32
FIRST_PADDING = 81
"""Of the first convolution, px, so that the 7x7 convolution at stride 32 needs none."""

EPS = 1e-6
"""Added to the sum of a downsampled mask."""

WIDTHS = (64, 128, 256, 512, 512)
WIDTH = 256


class GuidedNet(EpisodicNet):
    """Guided Network for one class.

    Parameters
    ----------
    native_size : int | None
        None in the authors' code: images have the size at which they come.
    widths : tuple[int, ...]
        Channels of the five stages of VGG-16; fewer for tests.
    width : int
        Channels of the features.
    """

    kernel: Tensor

    def __init__(
        self, native_size: int | None = None, widths: tuple[int, ...] = WIDTHS, width: int = WIDTH
    ) -> None:
        super().__init__(native_size, caffe=True)
        fc6 = nn.Conv2d(widths[-1], width, 7)
        self.encoder = nn.Sequential(
            OrderedDict(
                [
                    *vgg_layers(widths, FIRST_PADDING),
                    ("fc6", fc6),
                    ("fc6_relu", nn.ReLU(inplace=True)),
                    ("fc6_drop", nn.Dropout2d(0.5)),
                ]
            )
        )
        fc7, score = nn.Conv2d(3 * width, 3 * width, 1), nn.Conv2d(3 * width, 2, 1)
        self.head = nn.Sequential(
            OrderedDict(
                [
                    ("fc7", fc7),
                    ("fc7_relu", nn.ReLU(inplace=True)),
                    ("fc7_drop", nn.Dropout2d(0.5)),
                    ("score", score),
                ]
            )
        )
        initialise_vgg(self.encoder, caffe=True)
        for layer in (fc6, fc7):
            nn.init.normal_(layer.weight, 0.0, 0.001)
        for zero in (fc6.bias, score.weight, score.bias):
            assert zero is not None
            nn.init.zeros_(zero)
        kernel = bilinear_kernel(STRIDE)
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map at stride 32."""
        maps: Tensor = self.encoder(images)
        return (maps,)

    def compile_features(
        self, features: tuple[Tensor, ...], foreground: Tensor, background: Tensor
    ) -> SupportPack:
        """Guides of background and object: (1, 2 C, 1, 1), each the mean over the shots."""
        (maps,) = features
        guides = []
        for side in (background, foreground):
            padded = F.pad(side, (0, STRIDE - 1, 0, STRIDE - 1))
            small = F.conv2d(padded, self.kernel / self.kernel.sum(), stride=STRIDE)
            share = small / (small.sum((2, 3), keepdim=True) + EPS)
            guides.append((maps * share).sum((2, 3)).mean(0))
        return SupportPack((torch.cat(guides)[None, :, None, None],))

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """Score of the object minus that of the background, enlarged by fixed bilinear weights."""
        (maps,), (guides,) = features, pack.tensors
        scores = self.head(torch.cat([maps, guides.expand(len(maps), -1, *maps.shape[-2:])], dim=1))
        large = enlarged(scores[:, 1:] - scores[:, :1], self.kernel, STRIDE)
        return large[..., : size[0], : size[1]]

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the convolutions from torchvision's ``vgg16``, in place."""
        convolutions = [layer for layer in self.encoder if isinstance(layer, nn.Conv2d)]
        load_vgg(convolutions[:-1], state, caffe=True)

    def backbone_state(self) -> dict[str, Tensor]:
        """The convolutions as torchvision's ``vgg16`` has them."""
        return vgg_state(self.encoder, caffe=True)

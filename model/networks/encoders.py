"""Encoders of the relation network: torchvision's layers, with a fourth input channel for the support mask.

All take (N, 4, H, W), RGB in [0, 1] and the mask, and return the deepest map and five taps: the last maps before each
of the five downscalings, finest first. The tap of an encoder without a map at full resolution has no channels there,
only the size. A new encoder is a class here and one line in `ENCODERS`.

==========  =======================================================  =============
encoder     taps of a 224 px image: channels at side                 deepest map
==========  =======================================================  =============
vgg16       64 at 224, 128 at 112, 256 at 56, 512 at 28, 512 at 14   512 at 7
resnet101   0 at 224, 64 at 112, 256 at 56, 512 at 28, 1024 at 14    2048 at 7
inception   0 at 224, 64 at 109, 192 at 52, 288 at 25, 768 at 12     2048 at 5
==========  =======================================================  =============

torchvision is imported when a network is built: that takes seconds in every process, and ``compact`` does not use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """Base of the encoders.

    Attributes
    ----------
    taps : tuple[int, ...]
        Channels of the five taps, finest first.
    deepest : int
        Channels of the deepest map.
    """

    taps: tuple[int, ...]
    deepest: int

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Deepest map and taps of (N, 4, H, W)."""
        raise NotImplementedError


class VGG16Encoder(Encoder):
    """``vgg16_bn.features``: the last ReLU of each stage."""

    taps = (64, 128, 256, 512, 512)
    deepest = 512

    def __init__(self) -> None:
        from torchvision.models import vgg16_bn

        super().__init__()
        layers = vgg16_bn(weights=None).features
        layers[0] = nn.Conv2d(4, 64, 3, padding=1)
        self.layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Deepest map and taps of (N, 4, H, W)."""
        taps: list[Tensor] = []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                taps.append(x)
            x = layer(x)
        return x, tuple(taps)


class _Traced(Encoder):
    """Maps of a classifier at some nodes, none of them at full resolution; the last node is the deepest."""

    def __init__(self, classifier: nn.Module, nodes: tuple[str, ...]) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self.layers = create_feature_extractor(classifier, list(nodes))
        self.nodes = nodes

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Deepest map and taps of (N, 4, H, W)."""
        maps: dict[str, Tensor] = self.layers(x)
        *taps, deepest = (maps[node] for node in self.nodes)
        return deepest, (x[:, :0], *taps)


class ResNet101Encoder(_Traced):
    """``resnet101``: its stem and four stages."""

    taps = (0, 64, 256, 512, 1024)
    deepest = 2048

    def __init__(self) -> None:
        from torchvision.models import resnet101

        net = resnet101(weights=None)
        net.conv1 = nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
        super().__init__(net, ("relu", "layer1", "layer2", "layer3", "layer4"))


class InceptionEncoder(_Traced):
    """``inception_v3``, without padding: no side is exactly half of the one before."""

    taps = (0, 64, 192, 288, 768)
    deepest = 2048

    def __init__(self) -> None:
        from torchvision.models import inception_v3

        # initialised as the other encoders are, not by torchvision's (slow) truncated normal
        net: Any = inception_v3(weights=None, aux_logits=False, init_weights=False)
        net.Conv2d_1a_3x3.conv = nn.Conv2d(4, 32, 3, stride=2, bias=False)
        super().__init__(net, ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"))


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "vgg16": VGG16Encoder,
    "resnet101": ResNet101Encoder,
    "inception": InceptionEncoder,
}

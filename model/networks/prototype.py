"""PANet's rule on the features of any encoder, without training.

The simplest rival of a trained network: the mean features of object and background in the support set, and the cosine
of every query pixel to both (`model.networks.panet`). What it scores is what the encoder brings along. Encoders:

==========  ===================================================  =========
encoder     features                                             weights
==========  ===================================================  =========
compact     stride 4 of ``compact``, 64 channels                 shipped
vgg16       ``vgg16.features`` to ``conv5_3``, stride 16         yours
resnet50    ``resnet50`` to ``layer3``, stride 16                yours
==========  ===================================================  =========
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.networks.compact import WIDTHS
from fewscope.model.networks.compact_encoder import CompactEncoder
from fewscope.model.networks.panet import CosineNet

COMPACT_STRIDE = 4
"""Mean image IoU of 33 classes that ``compact`` was trained on, one episode of 5 supports each: 0.396, 0.413, 0.410 and
0.415 at strides 2, 4, 8 and 16. Of the three that are alike, the one with the finest outlines."""


class PrototypeNet(CosineNet):
    """Prototypes of frozen features.

    Parameters
    ----------
    encoder : str
        A key of `ENCODERS`.
    native_size : int | None
        As `EpisodicNet` takes it.

    Raises
    ------
    ConfigError
        There is no such encoder.
    """

    def __init__(self, encoder: str = "vgg16", native_size: int | None = None) -> None:
        if encoder not in ENCODERS:
            raise ConfigError(f"encoder {encoder!r} is not one of {', '.join(ENCODERS)}")
        super().__init__(native_size)
        self.encoder = ENCODERS[encoder]()
        if encoder == "compact":  # takes RGB in [0, 1] as it is
            self.mean.zero_()
            self.std.fill_(1)
        self.freeze("encoder")

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map."""
        maps: Tensor = self.encoder(images)
        return (maps,)

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the encoder from torchvision's ``vgg16`` or ``resnet50``, in place."""
        own = self.encoder.state_dict()
        by_place = dict(zip(own, state, strict=False))  # both are in the order of the network
        self.encoder.load_state_dict({key: state[theirs] for key, theirs in by_place.items()})

    def accepted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of the weights of ``compact``, the encoder."""
        own = self.state_dict()
        return {key: tensor for key, tensor in state.items() if key in own} or state


class _Compact(nn.Module):
    """The encoder of `CompactNet`, size S, at one stride."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = CompactEncoder(WIDTHS["S"]).blocks

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 64, H / 4, W / 4)."""
        x = images - 0.5
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            if 2**level == COMPACT_STRIDE:
                break
        return x


def _vgg16() -> nn.Module:
    from torchvision.models import vgg16

    return nn.Sequential(*list(vgg16(weights=None).features)[:29])  # conv5_3, before its ReLU


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50

    net = resnet50(weights=None)
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "compact": _Compact,
    "vgg16": _vgg16,
    "resnet50": _resnet50,
}
"""Encoders by name: a new one is a function of images (N, 3, H, W) and a line here."""

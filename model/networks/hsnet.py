"""HSNet: convolutions over the 4-D correlation of every query position with every support position.

Min et al., *Hypercorrelation Squeeze for Few-Shot Segmentation*, ICCV 2021. A frozen backbone gives the maps of all
blocks of its last three stages; the cosine of query and masked support maps, negative ones set to 0, is stacked by
stage into three 4-D tensors. Centre-pivot 4-D convolutions squeeze the support side, the stages are merged from the
deepest up, and a small decoder makes the two scores of each pixel.

K shots are K predictions that vote: a pixel is object if it has half of the votes of the pixel that has most. The
probability of a K-shot pixel is this share, and takes no more than K + 1 values. Episodes of several shots train on the
mean of the logits; the authors train with one shot.

The names of the trained weights are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.networks.episodic import EpisodicNet, SupportPack

EPS = 1e-5
"""Added to the norm of a feature."""

WIDTHS = (16, 64, 128)
GROUPS = 4

STAGES: dict[str, tuple[int, ...]] = {"vgg16": (1, 3, 3), "resnet50": (3, 6, 4), "resnet101": (3, 23, 4)}
"""Backbone -> number of maps of its last three stages, deepest first; of VGG-16 the last is its fifth pooling."""

VGG_TAPS = (17, 19, 21, 24, 26, 28, 30)
"""Layers of ``vgg16.features``: the last six convolutions before their ReLU, and the fifth pooling."""


class HSNet(EpisodicNet):
    """HSNet for one class.

    Parameters
    ----------
    backbone : str
        A key of `STAGES`.
    native_size : int | None
        400 in the authors' code.
    widths : tuple[int, int, int]
        Channels of the 4-D convolutions; fewer for tests.

    Raises
    ------
    ConfigError
        There is no such backbone.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        native_size: int | None = None,
        widths: tuple[int, int, int] = WIDTHS,
    ) -> None:
        if backbone not in STAGES:
            raise ConfigError(f"backbone {backbone!r} is not one of {', '.join(STAGES)}")
        super().__init__(native_size)
        self.stages = STAGES[backbone]
        self.backbone = _backbone(backbone)
        self.hpn_learner = Learner(self.stages, widths)
        self.freeze("backbone")

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of all blocks of the last three stages, in the order of the network, before their ReLU."""
        with self.backbone_gradients():
            return tuple(self._maps(images))

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        x = images
        if "features" in self.backbone:
            layers = self.backbone["features"]
            assert isinstance(layers, nn.Sequential)
            for i, layer in enumerate(layers):
                x = layer(x)
                if i in VGG_TAPS:
                    maps.append(x)
            return maps
        net = self.backbone
        x = F.max_pool2d(F.relu(net["bn1"](net["conv1"](x))), 3, stride=2, padding=1)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = net[name]
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                before = _before_relu(block, x)
                x = F.relu(before)
                if name != "layer1":
                    maps.append(before)
        return maps

    def compile_features(
        self, features: tuple[Tensor, ...], foreground: Tensor, background: Tensor
    ) -> SupportPack:
        """Masked maps (K, C, h, w), normalised, of all blocks."""
        masked = []
        for maps in features:
            mask = F.interpolate(foreground, size=maps.shape[-2:], mode="bilinear", align_corners=True)
            masked.append(_unit(maps * mask))
        return SupportPack(tuple(masked))

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """Logits of a single shot; of several the votes, or in training the mean of the logits."""
        unit = [_unit(maps) for maps in features]
        shots = [
            self._match_one(unit, [t[k] for t in pack.tensors], size) for k in range(len(pack.tensors[0]))
        ]
        if len(shots) == 1:
            return shots[0]
        stacked = torch.stack(shots)
        if self.training:
            return stacked.mean(0)
        votes = (stacked > 0).float().sum(0)
        share = votes / votes.amax((1, 2, 3), keepdim=True).clamp_min(1)
        return torch.logit(share, eps=1e-3)

    def _match_one(self, queries: list[Tensor], support: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (N, 1, *size) with one support, whose maps are (C, h, w).

        In the dtype of the weights, as the authors train: autocast to bfloat16, gradients became infinite on a CPU.
        """
        dtype = next(self.hpn_learner.parameters()).dtype
        with torch.autocast(queries[0].device.type, enabled=False):
            correlations = [
                torch.einsum("nchw,cij->nhwij", query.to(dtype), one.to(dtype)).clamp_min(0)
                for query, one in zip(queries, support, strict=True)
            ]
            stacked, end = [], len(correlations)
            for n_maps in self.stages:  # deepest first
                stacked.append(torch.stack(correlations[end - n_maps : end], dim=1))
                end -= n_maps
            scores = self.hpn_learner(stacked)
        logits = scores[:, 1:] - scores[:, :1]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the backbone from torchvision's network of that name, in place."""
        own = self.backbone.state_dict()
        self.backbone.load_state_dict({key: state[key] for key in own})

    def backbone_state(self) -> dict[str, Tensor]:
        """The backbone as torchvision's network of that name has it."""
        return {key: value.clone() for key, value in self.backbone.state_dict().items()}


class CentrePivotConv4d(nn.Module):
    """A 4-D convolution whose weights are zero away from the two planes through its centre (section 4.2).

    Two 2-D convolutions: one over the positions of the query at every `stride`-th of the support, one over the
    positions of the support at every one of the query.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W, h, w) -> (N, n_out, H, W, h / stride, w / stride)."""
        n, _, height, width = x.shape[:4]
        pruned = x[..., :: self.stride, :: self.stride]
        h, w = pruned.shape[-2:]
        one = self.conv1(pruned.permute(0, 4, 5, 1, 2, 3).flatten(0, 2))
        one = one.unflatten(0, (n, h, w)).permute(0, 3, 4, 5, 1, 2)
        two = self.conv2(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        return one + two.unflatten(0, (n, height, width)).permute(0, 3, 1, 2, 4, 5)


class Learner(nn.Module):
    """Squeezes three stacks of correlations, deepest first, into scores of background and object."""

    def __init__(self, stages: Sequence[int], widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        last = widths[-1]
        self.encoder_layer4 = _squeeze(stages[0], widths, (3, 3, 3), (2, 2, 2))
        self.encoder_layer3 = _squeeze(stages[1], widths, (5, 3, 3), (4, 2, 2))
        self.encoder_layer2 = _squeeze(stages[2], widths, (5, 5, 3), (4, 4, 2))
        self.encoder_layer4to3 = _squeeze(last, (last,) * 3, (3, 3, 3), (1, 1, 1))
        self.encoder_layer3to2 = _squeeze(last, (last,) * 3, (3, 3, 3), (1, 1, 1))
        self.decoder1 = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, last // 2, 3, padding=1),
            nn.ReLU(),
        )
        self.decoder2 = nn.Sequential(
            nn.Conv2d(last // 2, last // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(last // 2, 2, 3, padding=1)
        )

    def forward(self, correlations: Sequence[Tensor]) -> Tensor:
        """Scores (N, 2, 2 H, 2 W) of stacks (N, n, H, W, h, w), H and W of the finest."""
        fourth, third, second = (
            squeeze(stack)
            for squeeze, stack in zip(
                (self.encoder_layer4, self.encoder_layer3, self.encoder_layer2), correlations, strict=True
            )
        )
        mixed = self.encoder_layer4to3(_resize_query(fourth, third) + third)
        mixed = self.encoder_layer3to2(_resize_query(mixed, second) + second)
        x = self.decoder1(mixed.mean((4, 5)))
        size = [2 * side for side in x.shape[-2:]]
        scores: Tensor = self.decoder2(F.interpolate(x, size=size, mode="bilinear", align_corners=True))
        return scores


def _squeeze(
    n_in: int, widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, kernel, stride in zip(widths, kernels, strides, strict=True):
        layers += [CentrePivotConv4d(n_in, width, kernel, stride), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        n_in = width
    return nn.Sequential(*layers)


def _resize_query(x: Tensor, like: Tensor) -> Tensor:
    """(N, C, H, W, h, w) with H and W of `like`."""
    n, _, _, _, h, w = x.shape
    flat = x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2)
    flat = F.interpolate(flat, size=like.shape[2:4], mode="bilinear", align_corners=True)
    return flat.unflatten(0, (n, h, w)).permute(0, 3, 4, 5, 1, 2)


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.norm(dim=1, keepdim=True) + EPS)


def _before_relu(block: nn.Module, x: Tensor) -> Tensor:
    """Output of one of torchvision's bottlenecks before its last ReLU."""
    shortcut = x if block.downsample is None else block.downsample(x)  # type: ignore[operator]
    x = F.relu(block.bn1(block.conv1(x)))  # type: ignore[operator]
    x = F.relu(block.bn2(block.conv2(x)))  # type: ignore[operator]
    before: Tensor = block.bn3(block.conv3(x)) + shortcut  # type: ignore[operator]
    return before


def _backbone(name: str) -> nn.ModuleDict:
    """torchvision's network without its classifier, under its own names."""
    import torchvision

    net = getattr(torchvision.models, name)(weights=None)
    if name == "vgg16":
        for layer in net.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the maps before are kept
        return nn.ModuleDict({"features": net.features})
    parts = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    return nn.ModuleDict({part: getattr(net, part) for part in parts})

"""CANet: a dense comparison with the mean feature of the object, refined by its own prediction.

Zhang et al., *CANet: Class-Agnostic Segmentation Networks with Iterative Refinement and Attentive Few-Shot Learning*,
CVPR 2019. ResNet-50 to its third stage at stride 8, frozen; the mean feature of the object is set beside every feature
of the query; a residual module that also sees the last prediction, and atrous pyramid pooling, are run several times.

Where paper and published code differ, or are silent:

- K shots: the paper weighs the supports by attention, and that code was never released. Here, the mean of the K
  support vectors takes its place, so that a 5-shot result is not the paper's method.
- The released code iterates until the mean IoU over the test pairs no longer rises, five times at most. Here, the
  last of `ITERATIONS` counts, the paper's number, without its three scales.
- In training, the code starts from the prediction for that sample in the epoch before, or with a probability of 0.7
  from nothing. Episodes are not repeated here: a first pass without gradient makes that prediction.
- The code's frozen batch norms still move their statistics in training. Here they are constant.

The names of the weights are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks.episodic import EpisodicNet, SupportPack, masked_mean

ITERATIONS = 4
"""Passes of the residual module and the pyramid pooling (section 4.2 of the paper)."""

P_EMPTY_HISTORY = 0.7
"""Probability that training starts without a prediction (section 3.3)."""

EPS = 5e-4
"""Added to the area of a mask."""

BACKBONE = ("conv1", "bn1", "layer1", "layer2", "layer3")
BLOCKS = (3, 4, 6)
WIDTH = 256


class CANet(EpisodicNet):
    """CANet for one class.

    Parameters
    ----------
    native_size : int | None
        321 in the authors' code.
    width : int
        Channels of the trained part; fewer for tests, of the backbone a quarter.
    blocks : Sequence[int]
        Blocks of the three stages of the backbone; fewer for tests.
    """

    def __init__(
        self, native_size: int | None = None, width: int = WIDTH, blocks: Sequence[int] = BLOCKS
    ) -> None:
        super().__init__(native_size)
        base = width // 4
        self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.layer1 = _stage(base, base, blocks[0])
        self.layer2 = _stage(4 * base, 2 * base, blocks[1], stride=2)
        self.layer3 = _stage(8 * base, 4 * base, blocks[2], dilation=2)
        self.layer5 = _conv(24 * base, width, 3, dilation=2)
        self.layer55 = _conv(2 * width, width, 3, dilation=2)
        self.residule1 = _residual(width + 2, width)
        self.residule2 = _residual(width, width)
        self.residule3 = _residual(width, width)
        self.layer6_0 = _conv(width, width, 1)
        self.layer6_1 = _conv(width, width, 1)
        self.layer6_2 = _conv(width, width, 3, dilation=6)
        self.layer6_3 = _conv(width, width, 3, dilation=12)
        self.layer6_4 = _conv(width, width, 3, dilation=18)
        self.layer7 = _conv(5 * width, width, 1)
        self.layer9 = nn.Conv2d(width, 2, 1)
        self.iterations = ITERATIONS
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                if name.split(".")[0] in BACKBONE:  # the code loads ImageNet weights; this keeps variances
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, 0.0, 0.01)
        self.freeze(*BACKBONE)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map at stride 8, of the second and third stage."""
        return (self.layer5(self.backbone_maps(images)),)

    def backbone_maps(self, images: Tensor) -> Tensor:
        """Maps of the second and third stage, one behind the other."""
        with self.backbone_gradients():
            x = F.relu(self.bn1(self.conv1(images)))
            x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
            second = self.layer2(self.layer1(x))
            return torch.cat([second, self.layer3(second)], dim=1)

    def compile_features(
        self, features: tuple[Tensor, ...], foreground: Tensor, background: Tensor
    ) -> SupportPack:
        """Support vector (1, C, 1, 1): the mean over the shots of the mean feature of the object."""
        (maps,) = features
        mask = F.interpolate(foreground, size=maps.shape[-2:], mode="bilinear", align_corners=True)
        return SupportPack((masked_mean(maps, mask, EPS).mean(0)[None, :, None, None],))

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """Score of the object minus that of the background after the last iteration."""
        compared = self.compare(features[0], pack)
        history = compared.new_zeros(len(compared), 2, *compared.shape[-2:])
        if self.training:
            if torch.rand(()) >= P_EMPTY_HISTORY:
                with torch.no_grad():
                    history = self.refine(compared, history).softmax(1)
            scores = self.refine(compared, history)
        else:
            for _ in range(self.iterations):
                scores = self.refine(compared, history)
                history = scores.softmax(1)
        logits = scores[:, 1:] - scores[:, :1]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    def compare(self, queries: Tensor, pack: SupportPack) -> Tensor:
        """The dense comparison: maps (N, C, h, w) of queries beside the support vector."""
        (vector,) = pack.tensors
        compared: Tensor = self.layer55(torch.cat([queries, vector.expand_as(queries)], dim=1))
        return compared

    def refine(self, compared: Tensor, history: Tensor) -> Tensor:
        """One iteration: scores (N, 2, h, w) of background and object, given the last probabilities of both."""
        x = compared + self.residule1(torch.cat([compared, history], dim=1))
        x = x + self.residule2(x)
        x = x + self.residule3(x)
        whole = self.layer6_0(x.mean((2, 3), keepdim=True)).expand_as(x)
        pyramid = [whole, self.layer6_1(x), self.layer6_2(x), self.layer6_3(x), self.layer6_4(x)]
        scores: Tensor = self.layer9(self.layer7(torch.cat(pyramid, dim=1)))
        return scores

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the backbone from torchvision's ``resnet50``, in place."""
        own = self.state_dict()
        self.load_state_dict(own | {k: state[k] for k in own if k.split(".")[0] in BACKBONE})

    def backbone_state(self) -> dict[str, Tensor]:
        """The backbone as torchvision's ``resnet50`` has it, without its fourth stage."""
        return {k: v.clone() for k, v in self.state_dict().items() if k.split(".")[0] in BACKBONE}


class Bottleneck(nn.Module):
    """ResNet's bottleneck with the stride in its first convolution, as in Caffe: (N, C, H, W) -> (N, 4 width, h, w)."""

    def __init__(self, n_in: int, width: int, stride: int, dilation: int, *, first: bool) -> None:
        super().__init__()
        n_out = 4 * width
        self.conv1 = nn.Conv2d(n_in, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))
            if first
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps of maps."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


def _stage(n_in: int, width: int, n_blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    blocks = [Bottleneck(n_in, width, stride, dilation, first=True)]
    blocks += [Bottleneck(4 * width, width, 1, dilation, first=False) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)


def _conv(n_in: int, n_out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=padding, dilation=dilation), nn.ReLU(), nn.Dropout2d(0.5)
    )


def _residual(n_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
    )

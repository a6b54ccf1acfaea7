"""``compact``: a small query-only network whose support set is compiled once into a pack.

A plain U-Net sees the query; at every level it is told what the support set says about each pixel (see
``matching.py``). The mask is never an input channel: it is the target or the value of the matching, so nothing of the
support has to be encoded again for a query, and cost per tile does not depend on the number of shots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import matching

WIDTHS = {"S": (16, 32, 64, 128, 192), "L": (32, 64, 128, 256, 384)}
"""Channels at strides 1, 2, 4, 8, 16."""

ATTENTION = {4: (32, 512), 8: (64, 1024), 16: (64, 512)}
"""Stride -> (key dimension, most support pixels kept). Twice as many changed nothing we could measure in speed of
learning, and the softmax is the part of a tile that grows with them."""

N_MASK_FEATURES = 8
N_VALUES = N_MASK_FEATURES + 2  # the embedding, and the plain foreground and background fractions
N_STATISTICS = 22
N_FOURIER = 64
N_PROBE_PIXELS = 6000  # enough for about 120 coefficients


@dataclass(frozen=True, slots=True, eq=False)
class CompactPack:
    """What `CompactNet` keeps of a support set: about 100,000 numbers for any number of shots."""

    keys: dict[int, Tensor]  # stride -> (M, D) L2-normalised
    values: dict[int, Tensor]  # stride -> (M, N_VALUES)
    ridge: dict[int, Tensor]  # stride -> (D + 1,)
    prototypes: dict[int, Tensor]  # stride -> (2, D)
    probe: Tensor  # (N_STATISTICS + N_FOURIER + width + 1,) ridge on colour and texture at stride 2
    probe_mean: Tensor  # (N_STATISTICS,) standardisation of the statistics
    probe_std: Tensor

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CompactPack:
        """The same pack on another device, or in another dtype; the probe stays in float32, as its features do."""

        def move(value: dict[int, Tensor]) -> dict[int, Tensor]:
            return {k: v.to(device=device, dtype=dtype) for k, v in value.items()}

        return CompactPack(
            move(self.keys),
            move(self.values),
            move(self.ridge),
            move(self.prototypes),
            self.probe.to(device=device),
            self.probe_mean.to(device=device),
            self.probe_std.to(device=device),
        )


class ConvBlock(nn.Sequential):
    """Twice 3x3 convolution, batch norm, ReLU: (N, C, H, W) -> (N, width, H, W)."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


class CompactEncoder(nn.Module):
    """Five `ConvBlock`s with 2x2 max pooling between: RGB in [0, 1] -> feature maps at strides 1, 2, 4, 8, 16."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(n_in, width) for n_in, width in zip((3, *widths[:-1]), widths, strict=True)
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        x = images - 0.5
        maps: dict[int, Tensor] = {}
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
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


def pixel_statistics(images: Tensor) -> Tensor:
    """Hand-made colour and texture statistics at stride 2: (N, 3, H, W) in [0, 1] -> (N, N_STATISTICS, H/2, W/2).

    Colour and its second-order terms, and over windows of 6, 12 and 24 pixels the mean colour and the standard
    deviation of brightness, and the size of its gradient: what a pixel classifier is usually given. In float32: the
    variances are differences of nearly equal numbers.
    """
    x = F.avg_pool2d(images.float(), 2)
    r, g, b = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    grey = x.mean(1, keepdim=True)
    parts = [x, r * r, g * g, b * b, r * g, g * b, b * r]
    coarse = torch.cat([x, grey * grey], dim=1)
    for level in range(3):
        if level:
            coarse = F.avg_pool2d(coarse, 2)
        mean = F.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
        spread = (mean[:, 3:4] - mean[:, :3].mean(1, keepdim=True).square()).clamp_min(1e-6).sqrt()
        local = torch.cat([mean[:, :3], spread], dim=1)
        if level:
            local = F.interpolate(local, size=x.shape[-2:], mode="bilinear", align_corners=False)
        parts.append(local)
    dy = F.pad(grey[:, :, 1:] - grey[:, :, :-1], (0, 0, 0, 1))
    dx = F.pad(grey[:, :, :, 1:] - grey[:, :, :, :-1], (0, 1, 0, 0))
    parts.append((dx * dx + dy * dy + 1e-8).sqrt())
    return torch.cat(parts, dim=1)


class CompactNet(nn.Module):
    """The network: `compile_support` once, `forward` for every batch of queries.

    Parameters
    ----------
    size : "S" (about 1.5 M parameters) or "L" (about 6 M)
    depth : whether there is a second output, how deep inside its object a pixel lies (see `decode`)
    """

    fourier: Tensor
    phase: Tensor

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
        self.log_ridge = nn.ParameterDict({str(s): nn.Parameter(torch.tensor(-3.0)) for s in (4, 8, 16)})
        self.log_probe = nn.Parameter(torch.tensor(-5.0))
        self.ridge_gain = nn.Parameter(torch.ones(4))
        generator = torch.Generator().manual_seed(1000)
        fourier = torch.randn(N_STATISTICS, N_FOURIER, generator=generator) * 0.35
        phase = torch.rand(N_FOURIER, generator=generator) * 2 * torch.pi
        # rounded to bfloat16, so that a network in bfloat16 has exactly the same features as the pack was solved for
        self.register_buffer("fourier", fourier.bfloat16().float())
        self.register_buffer("phase", phase.bfloat16().float())

        d16, d8, d4, d2, d1 = width[16] * 2 // 3, width[8] * 3 // 4, width[4] * 3 // 4, width[2], width[1]
        told = N_VALUES + 1 + 2  # attention, ridge, two cosines
        self.decode16 = ConvBlock(width[16] + told, d16)
        self.decode8 = ConvBlock(d16 + width[8] + told, d8)
        self.decode4 = ConvBlock(d8 + width[4] + told, d4)
        self.decode2 = ConvBlock(d4 + width[2] + 3, d2)  # probe, two cosines
        self.reduce = nn.Conv2d(
            d2, d1, 1
        )  # at full resolution the skip is added: a concatenation costs more than it says
        self.decode1 = ConvBlock(d1, d1)
        self.head = nn.Conv2d(d1, 1, 1)
        if depth:
            self.depth_head = nn.Sequential(
                nn.Conv2d(d1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1)
            )

    # -- the support set, once ---------------------------------------------------------------------------------------

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> CompactPack:
        """Compile K labelled patches into a pack.

        Parameters
        ----------
        images : (K, 3, H, W) float in [0, 1]
        foreground, background : (K, 1, H, W) float
            1 where the pixel is labelled object (not object); both 0 where it is not labelled.
        """
        return self.compile_maps(images, self.encoder(images), foreground, background)

    def compile_maps(
        self, images: Tensor, maps: dict[int, Tensor], foreground: Tensor, background: Tensor
    ) -> CompactPack:
        """`compile_support` for images that are encoded already (training encodes a whole batch at once)."""
        sides = torch.cat([foreground, background], dim=1).to(images.dtype)
        embedded = self.mask_encoder(sides)
        fg = {s: F.avg_pool2d(foreground.float(), s).flatten() for s in (2, 4, 8, 16)}
        bg = {s: F.avg_pool2d(background.float(), s).flatten() for s in (2, 4, 8, 16)}
        keys, values, ridge, means = {}, {}, {}, {}
        for s, (_, n_max) in ATTENTION.items():
            kept = matching.select_keys(fg[s], bg[s], n_max)
            keys[s] = _rows(self._keys(maps[s], s))[kept]
            values[s] = _rows(embedded[s])[kept]
            ridge[s] = self._ridge(_rows(maps[s]), fg[s], bg[s], self.log_ridge[str(s)])
        for s in (2, 4, 8, 16):
            means[s] = matching.prototypes(_rows(maps[s]), fg[s], bg[s])

        statistics = _rows(pixel_statistics(images))
        labelled = (fg[2] + bg[2])[:, None]
        n = labelled.sum().clamp_min(1e-6)
        mean = (statistics * labelled).sum(0) / n
        std = ((statistics - mean).square() * labelled).sum(0).div(n).add(1e-5).sqrt()
        kept = matching.select_keys(fg[2], bg[2], N_PROBE_PIXELS)
        x = torch.cat([self._lift((statistics[kept] - mean) / std), _rows(maps[2])[kept].float()], dim=1)
        probe = self._ridge(x, fg[2][kept], bg[2][kept], self.log_probe)
        return CompactPack(keys, values, ridge, means, probe, mean, std)

    def _keys(self, features: Tensor, stride: int) -> Tensor:
        return F.normalize(self.project[str(stride)](features), dim=1, eps=1e-4)

    def _ridge(self, x: Tensor, fg: Tensor, bg: Tensor, log_strength: Tensor) -> Tensor:
        target = (fg - bg) / (fg + bg).clamp_min(1e-6)
        with torch.autocast(x.device.type, enabled=False):
            weights = matching.class_balanced_weights(fg, bg)
            return matching.solve_ridge(x, target, weights, log_strength.exp())

    def _lift(self, standardised: Tensor) -> Tensor:
        """Random Fourier features beside the statistics: (N, S) -> (N, S + N_FOURIER). A cheap curved boundary."""
        with torch.autocast(standardised.device.type, enabled=False):
            x = standardised.clamp(-6, 6)
            return torch.cat([x, torch.cos(x @ self.fourier.float() + self.phase.float())], dim=1)

    # -- a batch of queries ------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, pack: CompactPack) -> Tensor:
        """Logits of queries (N, 3, H, W) in [0, 1], as `decode` has them; H and W multiples of 16."""
        return self.answer(self.encode_queries(images), pack)

    def encode_queries(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """What of the queries does not depend on the support: once per batch, for any number of packs."""
        return images, self.encoder(images)

    def answer(
        self, queries: tuple[Tensor, dict[int, Tensor]], pack: CompactPack, *, depth: bool = True
    ) -> Tensor:
        """Logits of encoded queries, as `decode` has them."""
        images, maps = queries
        return self.decode(maps, self.consult(images, maps, pack), depth=depth)

    def consult(self, images: Tensor, maps: dict[int, Tensor], pack: CompactPack) -> dict[int, Tensor]:
        """What the pack says about every pixel: {stride: (N, channels, H/stride, W/stride)} for the decoder."""
        told: dict[int, Tensor] = {}
        for i, s in enumerate((4, 8, 16)):
            q = self._keys(maps[s], s)
            read = matching.attend(q, pack.keys[s], pack.values[s], self.log_scale[str(s)].exp())
            score = matching.apply_ridge(maps[s], pack.ridge[s]) * self.ridge_gain[i]
            cosines = matching.cosine_to(maps[s], pack.prototypes[s])
            told[s] = _join([read, score.clamp(-4, 4), cosines])
        probe = (self.probe(images, maps[2], pack) * self.ridge_gain[3]).clamp(-4, 4).to(maps[2].dtype)
        told[2] = _join([probe, matching.cosine_to(maps[2], pack.prototypes[2])])
        return told

    def probe(self, images: Tensor, features: Tensor, pack: CompactPack) -> Tensor:
        """The pixel classifier's score (N, 1, H/2, W/2), about -1 (background) to 1 (object)."""
        statistics = pixel_statistics(images) - pack.probe_mean[:, None, None]
        statistics = (statistics / pack.probe_std[:, None, None]).clamp(-6, 6).to(features.dtype)
        # the products of `_lift`'s columns with their coefficients, without ever laying the columns side by side
        linear, curved, encoded = (
            pack.probe[:-1].to(features.dtype).split([N_STATISTICS, N_FOURIER, features.shape[1]])
        )
        waves = F.conv2d(statistics, _kernel(self.fourier.T), self.phase).cos_()
        score = F.conv2d(waves, _kernel(curved[None]), pack.probe[-1:].to(features.dtype))
        return (
            score + F.conv2d(statistics, _kernel(linear[None])) + F.conv2d(features, _kernel(encoded[None]))
        )

    def decode(self, maps: dict[int, Tensor], told: dict[int, Tensor], *, depth: bool = True) -> Tensor:
        """Logits from query features and what the support says of them.

        Returns
        -------
        (N, 1 or 2, H, W): of the object, and with `has_depth`, where it is asked for, of the depth: how far from the
        rim of its own object a pixel lies, 0 at the rim and outside, 1 in the middle, whatever the object's size.
        """
        x = self.decode16(_join([maps[16], told[16]]))
        for stride, block in ((8, self.decode8), (4, self.decode4), (2, self.decode2)):
            x = block(_join([_up(x), maps[stride], told[stride]]))
        x = self.decode1(_up(self.reduce(x)) + maps[1])
        return (
            torch.cat([self.head(x), self.depth_head(x)], dim=1) if self.has_depth and depth else self.head(x)
        )


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _kernel(matrix: Tensor) -> Tensor:
    """A matrix (out, in) as the weight of a 1x1 convolution."""
    return matrix[:, :, None, None]


def _join(maps: list[Tensor]) -> Tensor:
    """Concatenate maps (N, C_i, H, W) over channels, in channels-last memory whatever theirs is.

    ``torch.cat`` falls back to the other layout when one of them has a single channel, and every convolution after it
    pays for a copy: a fifth of a tile's time.
    """
    return torch.cat([m.permute(0, 2, 3, 1) for m in maps], dim=3).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*H*W, C)"""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])

"""``compact``: a small U-Net for queries, conditioned on a support set that is compiled once into a pack.

The U-Net encodes the query alone; its decoder receives, at every level, the read-outs of the support set for each pixel
(`model.networks.readouts`). The mask is never an input channel but the target or value of the read-outs. So the support
set is not encoded again for a query, and the cost of a tile does not depend on the number of shots.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.networks import readouts
from fewscope.model.networks.compact_encoder import CompactEncoder, ConvBlock
from fewscope.model.networks.pixel_classifier import LIMIT, TexturePack, fit_texture, texture_logits
from fewscope.model.networks.texture_statistics import STRIDE, flatness, texture_statistics
from fewscope.model.networks.upsampling import SplitConv

WIDTHS = {"S": (16, 32, 64, 128, 192), "L": (32, 64, 128, 256, 384)}
"""Channels at strides 1, 2, 4, 8, 16."""

ATTENTION = {4: (32, 512), 8: (64, 1024), 16: (64, 512)}
"""Stride -> (key dimension, most support pixels kept). Twice as many pixels made no measurable difference to learning,
and the cost of the softmax grows with them."""

STRIDES = (2, 4, 8, 16)
"""Strides at which the support set is read out."""

N_MASK_FEATURES = 8
N_VALUES = N_MASK_FEATURES + 2  # the embedding, and the plain foreground and background fractions
N_SUPPORT_CHANNELS = N_VALUES + 4
"""Channels of the read-outs at strides 4, 8, 16: attention, ridge, two cosines, the pixel classifier."""

OPINION_SHARE = 0.5
"""Weight of another classifier's logits, as of `frozen_encoder.Readout`, beside those of the pixel classifier."""

TEXTURE_SCALE = 3.0
"""Divides the pixel classifier's logits, to bring them to the size of the other read-outs."""


@dataclass(frozen=True, slots=True, eq=False)
class CompactPack:
    """A compiled support set for `CompactNet`: about 140,000 numbers for any number of shots."""

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


class MaskEncoder(nn.Module):
    """Embeds the local shape of a mask: (N, 2, H, W) fractions -> {stride: (N, N_VALUES, H/stride, W/stride)}."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(2 if i == 0 else N_MASK_FEATURES, N_MASK_FEATURES, 3, stride=2, padding=1)
            for i in range(4)
        )

    def forward(self, sides: Tensor) -> dict[int, Tensor]:
        """Values by stride: {2, 4, 8, 16: (N, N_VALUES, H / stride, W / stride)} of (N, 2, H, W), object and
        background."""
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
    size : str
        "S" (1.7 M parameters) or "L" (about 7 M)
    depth : bool
        Add a second output, the depth of a pixel inside its object (see `decode`)

    Raises
    ------
    ConfigError
        There is no such size.
    """

    def __init__(self, size: str = "S", *, depth: bool = True) -> None:
        super().__init__()
        if size not in WIDTHS:
            raise ConfigError(f"size {size!r} is not one of {', '.join(WIDTHS)}")
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
        # at full resolution the skip is added: concatenating it costs more than it gains
        self.reduce = nn.Conv2d(d2, d1, 1)
        self.decode1 = nn.Sequential(
            nn.Conv2d(d1, d1, 3, padding=1, bias=False), nn.BatchNorm2d(d1), nn.ReLU(inplace=True)
        )
        self.head = nn.Conv2d(d1, 1, 1)
        if depth:
            self.depth_head = nn.Sequential(
                nn.Conv2d(d1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1)
            )

    def split_convolutions(self) -> None:
        """Replace the convolutions over enlarged maps by such with fewer products (`SplitConv`): in float32 on a CPU, a
        tile takes a twentieth less time. Batch norms must be folded in."""
        blocks = self.decode16, self.decode8, self.decode4, self.decode2
        for below, block in itertools.pairwise(blocks):
            last, first = below[2], block[0]
            assert isinstance(last, nn.Conv2d)
            assert isinstance(first, nn.Conv2d)
            block[0] = SplitConv(first, last.out_channels)

    # -- the support set, once ---------------------------------------------------------------------------------------

    def adapt_statistics(self, images: Tensor) -> CompactNet:
        """A copy in eval mode with the statistics of support images (K, 3, H, W), float in [0, 1]; see `TaskNorm`."""
        adapted = copy.deepcopy(self).eval()
        adapted.encoder.adapt_statistics(images)
        return adapted

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
        images : Tensor
            (K, 3, H, W) float in [0, 1]; or (K, 3 + C, H, W), as `model.projection` returns them.
        foreground, background : (K, 1, H, W) float
            1 where the pixel is labelled as object (background); both 0 where it is not labelled.
        texture : TexturePack | None
            The pixel classifier, if already fitted: it does not depend on the network.
        """
        if texture is None:
            texture = fit_texture(images, foreground, background)
        return self.compile_maps(self.encoder(images[:, :3]), foreground, background, texture)

    def compile_maps(
        self, maps: dict[int, Tensor], foreground: Tensor, background: Tensor, texture: TexturePack
    ) -> CompactPack:
        """`compile_support` from the encoder's maps of the patches, by stride of `STRIDES`."""
        sides = torch.cat([foreground, background], dim=1).to(self.head.weight.dtype)
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
        return CompactPack(keys, values, ridge, means, texture)

    def keys(self, features: Tensor, stride: int) -> Tensor:
        """Keys of the attention: unit vectors (N, D, H, W) from maps of a stride of `ATTENTION`."""
        return F.normalize(self.project[str(stride)](features), dim=1, eps=1e-4)

    # -- a batch of queries ------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, pack: CompactPack) -> Tensor:
        """Logits of queries (N, 3, H, W) in [0, 1], as `decode` returns them; H and W multiples of 16."""
        return self.predict_encoded(self.encode_queries(images), pack)

    def encode_queries(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Encode queries (N, 3 or 3 + C, H, W) independently of the support set: once per batch, for any pack.

        Returns
        -------
        Statistics of the pixel classifier (`texture_statistics`), and the encoder's maps by stride.
        """
        maps = self.encoder(
            images[:, :3].to(self.head.weight.dtype).contiguous(memory_format=torch.channels_last)
        )
        return texture_statistics(images), maps

    def predict_encoded(
        self,
        queries: tuple[Tensor, dict[int, Tensor]],
        pack: CompactPack,
        *,
        depth: bool = True,
        texture_share: float | None = None,
        opinion: Tensor | None = None,
        opinion_share: float = 0.0,
    ) -> Tensor:
        """Logits of encoded queries, as `decode` returns them.

        Parameters
        ----------
        queries : tuple[Tensor, dict[int, Tensor]]
            What `encode_queries` returns.
        pack : CompactPack
            The compiled support set.
        depth : bool
            Return the depth, too, if the network has it.
        texture_share : float | None
            Weight of the pixel classifier's own logit in the object's logit, 0 to 1; None leaves the
            decoder's logit as it is. Where a query is flat (`flatness`), the smaller of the two logits
            counts: the decoder was never trained on empty images, and the classifier cannot judge colours
            that no patch has. Where `flatness` is 1/2, beside flat places, it is the mean of the smaller
            and the blended logit.
        opinion : Tensor | None
            (N, 1, h, w), logits of another classifier, whose mean with the pixel classifier's takes its place.
        opinion_share : float
            Weight of these logits in the decoder's, too, 0 to 1; not used where `texture_share` is None.
        """
        statistics, maps = queries
        texture = texture_logits(statistics, pack.texture)
        if opinion is not None:
            texture = torch.lerp(texture, _resized(opinion, texture), OPINION_SHARE)
        logits = self.decode(maps, self.match_support(texture, maps, pack), depth=depth).float()
        if texture_share is not None:
            both = torch.cat([texture, flatness(statistics)], 1)
            own, flat = F.interpolate(both, scale_factor=STRIDE, mode="bilinear").split(1, 1)
            decoded = logits[:, :1].clamp(-LIMIT, LIMIT)
            if opinion is not None and opinion_share:
                decoded = torch.lerp(decoded, _resized(opinion, decoded), opinion_share)
            mixed = torch.lerp(decoded, own, texture_share)
            logits[:, :1] = torch.lerp(mixed, torch.minimum(decoded, own), flat)
        return logits

    def match_support(self, texture: Tensor, maps: dict[int, Tensor], pack: CompactPack) -> dict[int, Tensor]:
        """Read the support set out for every pixel of the queries.

        Parameters
        ----------
        texture : Tensor
            (N, 1, H / 2, W / 2), logits of the pixel classifier.
        maps : dict[int, Tensor]
            The queries' maps by stride.
        pack : CompactPack
            The compiled support set.

        Returns
        -------
        {stride: (N, channels, H / stride, W / stride)} for `decode`, for the strides of `STRIDES`
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
        """Logits from the queries' maps and the read-outs of the support set (`match_support`).

        Returns
        -------
        (N, 1 or 2, H, W): the object's logit, and, if the network has depth and `depth` asks for it, the depth's: the
        distance of a pixel from the rim of its own object, 0 at the rim and outside, 1 in the middle, at any size.
        """
        x = self.decode16(join([maps[16], matched[16]]))
        for stride, block in ((8, self.decode8), (4, self.decode4), (2, self.decode2)):
            beside = maps[stride], matched[stride]
            if isinstance(block[0], SplitConv):
                x = block[1:](block[0](x, join(beside)))
            else:
                x = block(join((_up(x), *beside)))
        x = self.decode1(_up(self.reduce(x)) + maps[1])
        return (
            torch.cat([self.head(x), self.depth_head(x)], dim=1) if self.has_depth and depth else self.head(x)
        )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", antialias=True)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def join(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps (N, C_i, H, W) over channels, in channels-last memory whatever theirs is.

    ``torch.cat`` falls back to the other layout if one of them has a single channel, and every convolution after it
    then makes a copy: a fifth of the time of a tile.
    """
    return torch.cat([m.permute(0, 2, 3, 1) for m in maps], dim=3).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])

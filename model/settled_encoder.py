"""A frozen encoder in a loop of corrections: a window is encoded once, its read-out is fitted again and applied.

A run gives the encoder tiles of `PATCH_SIZE`, and its read-outs are fitted to patches of this size. So is a larger
window cut into such tiles: an encoder that sees it whole answers otherwise, and many programs and vision transformers
take no other size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.kept import Kept
from fewscope.model.networks.frozen_encoder import (
    STRIDE,
    FrozenEncoder,
    Readout,
    evenly,
    fit_rows,
    labelled_rows,
    most_rows,
)

RIM = 32
"""Widest rim of a window that no tile covers, px: it takes the answer of the nearest place. A preview computes as much
around a square, and does not show it. Five more tiles, which cover it too, make no difference to the agreement with a
run, and take twice the time."""

PATCH_BYTES, ROW_BYTES = 256 * 2**20, 256 * 2**20
"""For maps of patches, 0.7 MB each of EfficientNet-Lite0, and for features of their labelled places, per class and
patch."""

READOUTS_KEPT = 64
"""Read-outs that are kept, for an undone correction."""

QUICK_VALUES = 4_000_000
"""Of the features that a read-out is fitted to."""


@dataclass(frozen=True, slots=True, eq=False)
class EncoderMaps:
    """What a frozen encoder makes of windows.

    Attributes
    ----------
    size : tuple[int, int]
        (H, W) of the windows, px.
    maps : tuple[Tensor, ...]
        The largest first, each (N * rows * columns, D, h, w): of the tiles of each window in raster order.
    """

    size: tuple[int, int]
    maps: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory that they take, bytes."""
        return sum(one.element_size() * one.numel() for one in self.maps)

    def logits(self, readout: Readout) -> Tensor:
        """Logits of the object, (N, 1, h, w) float32: of a window of one tile as `Readout.logits` returns them, of
        others at `STRIDE`."""
        found = readout.logits([one.float() for one in self.maps])
        if self.size == (PATCH_SIZE, PATCH_SIZE):
            return found
        side = PATCH_SIZE // STRIDE
        down, right = (joining(length).to(found.device) for length in self.size)
        found = F.interpolate(found, size=(side, side), mode="bilinear")
        tiles = found.unflatten(0, (-1, down.shape[1], right.shape[1]))[
            :, :, :, 0
        ]  # (N, rows, columns, side, side)
        return torch.einsum("yrh,nrchw,xcw->nyx", down, tiles, right)[:, None]


class SettledEncoder:
    """Encodes windows, and fits read-outs to patches. Several threads may call its methods.

    Parameters
    ----------
    encoder : FrozenEncoder
        On the device.
    dtype : torch.dtype
        In which the network predicts: windows are encoded, and kept, in the same.
    batch_size : int
        Tiles per forward pass.
    share : float
        Weight of the read-out in the output, as `Segmenter.encode` takes it.
    """

    def __init__(self, encoder: FrozenEncoder, dtype: torch.dtype, batch_size: int, share: float) -> None:
        self.share = share
        self._encoder, self._dtype, self._batch_size = encoder, dtype, batch_size
        self._patches: Kept[bytes, list[Tensor]] = Kept(PATCH_BYTES, _n_bytes)
        self._rows: Kept[bytes, tuple[Tensor, Tensor]] = Kept(ROW_BYTES, _n_bytes)
        self._readouts: Kept[bytes, Readout] = Kept(READOUTS_KEPT, lambda _: 1)

    def maps(self, windows: Tensor) -> EncoderMaps:
        """Encode windows (N, 3, H, W), float in [0, 1]; H and W multiples of 32."""
        height, width = windows.shape[-2:]
        missing = [max(0, PATCH_SIZE - length) for length in (height, width)]
        if any(missing):
            windows = F.pad(windows, (0, missing[1], 0, missing[0]), mode="replicate")
        tiles = torch.stack(
            [
                windows[..., top : top + PATCH_SIZE, left : left + PATCH_SIZE]
                for top in starts(height)
                for left in starts(width)
            ],
            dim=1,
        )
        batches = [
            self._encoder.maps_in(self._dtype, batch) for batch in tiles.flatten(0, 1).split(self._batch_size)
        ]
        maps = tuple(torch.cat(level).to(self._dtype) for level in zip(*batches, strict=True))
        return EncoderMaps((height, width), maps)

    def readout(
        self,
        image: Callable[[int], Tensor],
        foreground: Tensor,
        background: Tensor,
        keys: Sequence[tuple[bytes, bytes]],
    ) -> Readout:
        """Fit a read-out to the patches of a class, or give the one that was fitted to the same before.

        Parameters
        ----------
        image : Callable[[int], Tensor]
            Gives the k-th patch, (1, 3, 224, 224) float in [0, 1]; called for those that are new.
        foreground, background : Tensor
            (K, 1, 224, 224) float, as `fit_readout` takes them.
        keys : Sequence[tuple[bytes, bytes]]
            What stands for each image, and for its labels.
        """

        def rows(k: int) -> tuple[Tensor, Tensor]:
            one = slice(k, k + 1)
            maps = self._patches.made(keys[k][0], lambda: self._encoder(image(k)))
            return labelled_rows(maps, foreground[one], background[one], most_rows(maps, QUICK_VALUES))

        def fit() -> Readout:
            found = [self._rows.made(b"".join(key), functools.partial(rows, k)) for k, key in enumerate(keys)]
            x, share = (torch.cat(part) for part in zip(*found, strict=True))
            most = max(1000, QUICK_VALUES // x.shape[1])
            return fit_rows(evenly(x, most), evenly(share, most))

        return self._readouts.made(b"".join(part for key in keys for part in key), fit)


def starts(length: int) -> list[int]:
    """Where tiles begin along a window, px, multiples of `STRIDE`: as few as leave no more than a rim of `RIM`.

    >>> starts(224), starts(512), starts(416)
    ([0], [32, 256], [0, 192])
    """
    n = max(1, -(-(length - 2 * RIM) // PATCH_SIZE))
    if n * PATCH_SIZE <= length:
        first = (length - n * PATCH_SIZE) // 2
        return [first + i * PATCH_SIZE for i in range(n)]
    return [max(0, length - PATCH_SIZE) * i // max(1, n - 1) // STRIDE * STRIDE for i in range(n)]


@functools.cache
def joining(length: int) -> Tensor:
    """How the places along n tiles make up those along a window: (length / STRIDE, n, 224 / STRIDE), rows of weights.

    A place where tiles overlap is the mean of them, each weighted by the distance to its own edge.
    """
    side, begin = PATCH_SIZE // STRIDE, torch.tensor(starts(length)) // STRIDE
    at = torch.arange(length // STRIDE)[:, None] - begin  # (length / STRIDE, n), places in a tile
    near = at.clamp(0, side - 1)
    weight = torch.minimum(at + 0.5, side - 0.5 - at).clamp_min(0)
    nearest = F.one_hot((at - near).abs().argmin(1), len(begin)).float()  # where there is no tile
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, nearest)
    weight = weight / weight.sum(1, keepdim=True)
    return weight[..., None] * F.one_hot(near, side)


def _n_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(one.element_size() * one.numel() for one in tensors)

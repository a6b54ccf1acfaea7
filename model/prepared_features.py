"""`PreparedFeatures`: an encoded support set on a device, with which batches of tiles are predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks.boundary_trees import BoundaryTrees, refine
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.frozen_encoder import FrozenEncoder
from fewscope.model.support_encoder import seen_by
from fewscope.model.views import SupportFeatures, View, as_tensor, scale_images

NOTHING = 0.1
"""A tile in which no pixel of a class has this probability in the first look, at the smallest side, is not looked at a
second time for it."""

NOTHING_LOGIT = math.log(NOTHING / (1 - NOTHING))


@dataclass(frozen=True, slots=True, eq=False)
class PreparedFeatures:
    """An encoded support set with all that predicts tiles, on one device.

    Attributes
    ----------
    features : SupportFeatures
        The encoded support set.
    members : tuple[tuple[nn.Module, View], ...]
        A network and packs in the dtype of prediction, for each view from the smallest side to the largest.
    boundaries : tuple[BoundaryTrees | None, ...]
        The trees of each class.
    encoder : FrozenEncoder | None
        The encoder that the views have read-outs of.
    device : torch.device
        Where all of them are.
    batch_size : int
        Tiles per forward pass. Shorter batches are padded.
    """

    features: SupportFeatures
    members: tuple[tuple[nn.Module, View], ...]
    boundaries: tuple[BoundaryTrees | None, ...]
    encoder: FrozenEncoder | None
    device: torch.device
    batch_size: int

    def logits(self, tiles: np.ndarray, depth: bool) -> Tensor:
        """Logits of each class, (N, 1 or 2, C, H, W) float32, of tiles (N, H, W, channels) uint8.

        The mean of all looks, or those of the first where it finds nothing of a class in a whole tile.
        """
        opinions = self._opinions(tiles)
        first, *others = self.members
        shape = len(tiles), 2 if depth else 1, self.features.n_classes, *tiles.shape[1:3]
        logits = torch.empty(shape, device=self.device)
        for place, seen in self._looks(tiles, opinions, [first], depth):
            logits[place] = seen
        if others:
            found = logits[:, 0].amax((2, 3)) >= NOTHING_LOGIT
            again = torch.nonzero(found.any(1)).flatten()
            asked = None if opinions is None else opinions[again]
            for place, seen in self._looks(tiles[again.cpu().numpy()], asked, others, depth):
                at = again[place]
                mean = (logits[at] + seen) / len(self.members)
                logits[at] = torch.where(found[at][:, None, :, None, None], mean, logits[at])
        for c, trees in enumerate(self.boundaries):
            if trees is not None:
                for place, x in self._batches(tiles):
                    one = logits[place, :1, c]
                    one.copy_(refine(x[: len(one)].float() / 255, one, trees))
        return logits

    def _looks(
        self,
        tiles: np.ndarray,
        opinions: Tensor | None,
        members: Sequence[tuple[nn.Module, View]],
        depth: bool,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Sums of the logits of some members, (n, 1 or 2, C, H, W) float32, and their places, by batches."""
        network = members[0][0]
        options: dict[str, Any] = {"depth": depth} if getattr(network, "has_depth", False) else {}
        if isinstance(network, CompactNet):
            options["texture_share"] = self.features.texture_share
        if opinions is not None:
            options["opinion_share"] = self.features.encoder_share
        for place, x in self._batches(tiles):
            image, total = self._seen(x), None
            for network, view in members:
                query, classes = network.encode_queries(scale_images(image, view.side)), []  # type: ignore[operator]
                for c, pack in enumerate(view.packs):
                    if opinions is not None:
                        options["opinion"] = self._filled(opinions[place, c])
                    logits = network.predict_encoded(query, pack, **options).float()  # type: ignore[operator]
                    # of the same size: a copy
                    classes.append(F.interpolate(logits.contiguous(), size=x.shape[-2:], mode="bilinear"))
                one = torch.stack(classes, dim=2)
                total = one if total is None else total + one
            assert total is not None
            yield place, total[: len(tiles[place])]

    def _batches(self, tiles: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Tiles (N, H, W, channels) uint8 in batches (`batch_size`, channels, H, W), the last filled; with places."""
        for start in range(0, len(tiles), self.batch_size):
            place = slice(start, start + self.batch_size)
            yield place, self._filled(as_tensor(tiles[place], self.device))

    def _filled(self, some: Tensor) -> Tensor:
        """Some of a batch, (N, C, H, W), with zeros for the others, so that all batches have one size."""
        missing = self.batch_size - len(some)
        return F.pad(some, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else some

    def _seen(self, x: Tensor) -> Tensor:
        """What the network sees of tiles (N, channels, H, W) uint8: (N, 3 or more, H, W) in [0, 1]."""
        seen = x.contiguous().float() / 255  # resizing is faster in planar memory
        projection = self.features.projection
        return seen if projection is None else seen_by(self.members[0][0], projection.to(self.device)(seen))

    def _opinions(self, tiles: np.ndarray) -> Tensor | None:
        """Logits of the frozen encoder for each class, (N, C, 1, h, w); None without one."""
        if self.encoder is None:
            return None
        network, view = self.members[0]
        dtype = next(network.parameters()).dtype
        found = []
        for _, x in self._batches(tiles):
            maps = self.encoder.maps_in(dtype, self._seen(x)[:, :3])
            found.append(torch.stack([readout.logits(maps) for readout in view.readouts], dim=1))
        return torch.cat(found)[: len(tiles)]

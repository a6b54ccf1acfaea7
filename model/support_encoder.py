"""`SupportEncoder`: compiles a support set, once, into the packs with which tiles are predicted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.depth import instance_depth
from fewscope.model.finetune import AdaptConfig, adapt
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.frozen_encoder import FrozenEncoder, Readout, fit_readout
from fewscope.model.networks.pixel_classifier import TexturePack
from fewscope.model.projection import fit_projection
from fewscope.model.views import (
    SupportFeatures,
    View,
    as_tensor,
    fit_textures_of_views,
    labels_by_class,
    norms_between,
    scale_images,
    scale_labels,
)


@dataclass(frozen=True, slots=True, eq=False)
class SupportEncoder:
    """Compiles support sets in float32: closed-form solutions need the precision, and it happens once.

    Attributes
    ----------
    network : nn.Module
        In eval mode, on the device.
    name : str
        Name of the network, for messages.
    device : torch.device
        Where it is.
    bf16 : bool
        Whether fine-tuning computes in bfloat16.
    batch_size : int
        Patches per forward pass of `encoder`.
    encoder : FrozenEncoder or None
        A frozen encoder, on the device.
    """

    network: nn.Module
    name: str
    device: torch.device
    bf16: bool
    batch_size: int
    encoder: FrozenEncoder | None = None

    def views(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        instances: np.ndarray | None,
        adaptation: AdaptConfig | None,
        sides: Sequence[int],
        known: Mapping[int, View],
    ) -> tuple[View, ...]:
        """Views of a support set at these sides; parameters and errors as in `Segmenter.encode`."""
        _check(images, labels, sides)
        before = next(iter(known.values()), View(0, ()))  # what all views of a support set have in common
        x = as_tensor(images, self.device).float() / 255
        y = torch.from_numpy(np.ascontiguousarray(labels_by_class(labels))).to(self.device)
        projection = before.projection
        if images.shape[-1] > 3:
            projection = projection or fit_projection(x, y)
            x = projection.to(self.device)(x)
        learned: tuple[Tensor, ...] | None = None
        if adaptation is not None and not all(side in known for side in sides):
            learned = tuple(self._adapt(x[:, :3], y, instances, adaptation).parameters())
        can_fit = isinstance(self.network, CompactNet)
        textures = before.textures or (fit_textures_of_views(x, y) if can_fit else ())
        readouts = before.readouts or self._readouts(x[:, :3], y)
        return tuple(
            replace(
                self._view(x, y, side, known.get(side), learned, textures),
                readouts=readouts,
                projection=projection,
            )
            for side in sides
        )

    def views_between(self, features: SupportFeatures, tiles: np.ndarray) -> dict[int, View]:
        """See `Segmenter.views_between`."""
        if not isinstance(self.network, CompactNet):
            return {}
        x = as_tensor(tiles, self.device).float() / 255
        if features.projection is not None:
            x = features.projection.to(self.device)(x)[:, :3]
        return {view.side: norms_between(self.network, view, x) for view in features.views}

    def _readouts(self, images: Tensor, labels: Tensor) -> tuple[Readout, ...]:
        """Read-outs of the frozen encoder from images (K, 3, H, W) and labels (C, K, H, W); none without."""
        if self.encoder is None:
            return ()
        batches = [self.encoder(batch) for batch in images.split(self.batch_size)]
        maps = [torch.cat(level) for level in zip(*batches, strict=True)]
        fitted = (fit_readout(maps, (y == 1).float(), (y == 0).float()) for y in labels[:, :, None])
        return tuple(readout.to("cpu") for readout in fitted)

    def _view(
        self,
        images: Tensor,
        labels: Tensor,
        side: int,
        known: View | None,
        learned: Sequence[Tensor] | None,
        textures: Sequence[TexturePack],
    ) -> View:
        """Compile images (K, 3 or 3 + N, H, W) and labels (C, K, H, W) with a known view's weights, or `learned`
        parameters."""
        images, labels = scale_images(seen_by(self.network, images), side), scale_labels(labels, side)
        network, weights = self.network, known.weights if known else None
        if weights is not None:
            network = with_weights(network, weights)
        elif isinstance(network, CompactNet):
            network = network.adapt_statistics(images[:, :3])
            for mine, other in zip(network.parameters(), learned or (), strict=learned is not None):
                mine.data.copy_(other)
            weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        options = [{"texture": pack.to(self.device)} for pack in textures] or [{} for _ in labels]
        with torch.inference_mode():
            packs = [
                network.compile_support(images, (of_class == 1).float(), (of_class == 0).float(), **option)  # type: ignore[operator]
                for of_class, option in zip(labels[:, :, None], options, strict=True)
            ]
        packs = [pack.to(device="cpu") for pack in packs]
        norms = known.norms if known else {}
        return View(side, tuple(packs), weights, tuple(pack.to("cpu") for pack in textures), norms)

    def _adapt(
        self, images: Tensor, labels: Tensor, instances: np.ndarray | None, adaptation: AdaptConfig
    ) -> CompactNet:
        """Fine-tune the network on images (K, 3, H, W) and labels (C, K, H, W), once for all sides: it sees all
        scales."""
        if not isinstance(self.network, CompactNet):
            raise ConfigError(
                f"model {self.name!r} cannot be fine-tuned; leave the adaptation out, or use compact"
            )
        images, labels = scale_images(images, adaptation.side), scale_labels(labels, adaptation.side)
        depths = None
        if instances is not None:
            depths = torch.from_numpy(np.stack([instance_depth(i) for i in instances])).to(self.device) / 255
            depths = F.interpolate(depths[None], size=labels.shape[-2:], mode="bilinear")[0]
        return adapt(
            self.network.adapt_statistics(images), images, labels, depths, adaptation, bf16=self.bf16
        )


def seen_by(network: nn.Module, images: Tensor) -> Tensor:
    """Images (N, 3 or 3 + C, H, W) as a network takes them: the first three alone if it has no pixel classifier."""
    return images if isinstance(network, CompactNet) else images[:, :3]


def with_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with other weights."""
    network = copy.deepcopy(network)
    network.load_state_dict(dict(weights))
    return network


def _check(images: np.ndarray, labels: np.ndarray, sides: Sequence[int]) -> None:
    if images.ndim != 4 or images.shape[-1] < 3 or images.dtype != np.uint8:
        raise ConfigError(
            f"support images are {images.dtype} {images.shape}; expected uint8 (K, 224, 224, 3 or more)"
        )
    if labels.shape[-3:] != images.shape[:3] or labels.ndim not in (3, 4):
        raise ConfigError(f"support labels are {labels.shape}; expected {images.shape[:3]}, one per image")
    for side in sides:
        if side % 32:
            raise ConfigError(f"side {side} is not a multiple of 32; use 128, 192 or 320")

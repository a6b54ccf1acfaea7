"""A segmenter cut in the middle, for a loop of corrections: what does not depend on the labels is computed once.

`Segmenter.encode` settles the norms on the support set, so that every new patch changes the encoder and all that was
computed with it. `SettledSegmenter` settles them once, on unlabelled tiles of the same source: the encoder's maps of a
tile stay valid, and after a correction only the support set is compiled and the tile decoded again.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.errors import ConfigError
from fewscope.model.conventions import IGNORE_LABEL
from fewscope.model.networks.compact import STRIDES, CompactNet, CompactPack
from fewscope.model.networks.frozen_encoder import Readout
from fewscope.model.networks.pixel_classifier import (
    QUICK_BATCH,
    QUICK_STEPS,
    TexturePack,
    fit_pixels,
    patch_pixels,
)
from fewscope.model.projection import Projection
from fewscope.model.settled_encoder import EncoderMaps, SettledEncoder
from fewscope.model.views import as_tensor, labels_by_class, scale_images, scale_labels

PATCHES_KEPT = 64
"""Patches whose maps are kept for the next pack: 1 MB each at side 128. Most corrections change one patch of many."""

TEXTURES_KEPT = 64
"""Pixel classifiers that are kept for the next pack, or for an undone correction: 17 kB each."""

PIXELS_KEPT = 96
"""Patches whose labelled pixels are kept for the next fit, per class and patch: at most 2 MB each."""

MOST_PIXELS = 1500
"""Of each zoom of a patch, plain and jittered, that are kept to fit the pixel classifier."""

MOST_FITTED = 45_000
"""Pixels of all patches that it is fitted to, evenly from what is kept: the fit takes as long for many patches as for
few."""

UNLIKE_STRIDES = (8, 16)
"""Strides of the maps whose features are compared by `SettledSegmenter.unlike`."""

MOST_EXAMPLES = 2048
"""Labelled places that `SettledSegmenter.unlike` compares with."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class TileMaps:
    """What a settled network makes of tiles, whatever is labelled: to be kept and answered from again and again.

    Attributes
    ----------
    size : tuple[int, int]
        (H, W) of the tiles, px.
    statistics : Tensor
        Of the pixel classifier, (N, N_STATISTICS, h / 2, w / 2), where h and w are H and W resized.
    maps : dict[int, Tensor]
        The encoder's by stride, (N, C, h / stride, w / stride).
    frozen : EncoderMaps | None
        Of the frozen encoder; None without one, or where nothing is to be answered.
    """

    size: tuple[int, int]
    statistics: Tensor
    maps: dict[int, Tensor]
    frozen: EncoderMaps | None = None

    @property
    def nbytes(self) -> int:
        """Memory that they take, bytes."""
        own = sum(t.element_size() * t.numel() for t in (self.statistics, *self.maps.values()))
        return own + (0 if self.frozen is None else self.frozen.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class SettledPack:
    """A compiled support set, for `SettledSegmenter.answer`.

    Attributes
    ----------
    packs : tuple[CompactPack, ...]
        One per class, on the device and in the dtype of prediction.
    readouts : tuple[Readout, ...]
        Of the frozen encoder, one per class; empty without one.
    """

    packs: tuple[CompactPack, ...]
    readouts: tuple[Readout, ...] = ()

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.packs)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Labelled ground in features of the encoder, for `SettledSegmenter.unlike`.

    Attributes
    ----------
    features : Tensor
        (M, D) float32 of length 1, one for each labelled place.
    near : float
        Cosine distance within which half of the labelled places have another one: the scale of what is alike.
    """

    features: Tensor
    near: float


class SettledSegmenter:
    """Made by `Segmenter.settled`. Several threads may call its methods; each should have torch use one thread.

    The arithmetic is that of `Segmenter.encode` and `predict` with one view of these weights, pixel classifiers fitted
    in half the steps, and no fine-tuning. Results depend on the arguments and the settled norms alone.

    Parameters
    ----------
    network : CompactNet
        In float32, with settled norms: compiles the support set.
    fast : CompactNet
        The same, as it predicts.
    side : int
        Side, px, to which 224 px are resized.
    device : torch.device
        Where both are.
    dtype : torch.dtype
        In which `fast` computes.
    projection : Projection | None
        What the network sees of images of more than three channels, on the device.
    encoder : SettledEncoder | None
        A frozen encoder, read out beside the pixel classifier.
    """

    def __init__(
        self,
        network: CompactNet,
        fast: Any,
        side: int,
        device: torch.device,
        dtype: torch.dtype,
        projection: Projection | None = None,
        encoder: SettledEncoder | None = None,
    ) -> None:
        self.side = side
        self.device = device
        self._projection, self._encoder = projection, encoder
        self._network, self._fast, self._dtype = network, fast, dtype
        self._lock = threading.Lock()
        self._patches: OrderedDict[bytes, dict[int, Tensor]] = OrderedDict()
        self._pixels: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()
        self._textures: OrderedDict[bytes, TexturePack] = OrderedDict()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's weights with the settled norms, as `View.weights` holds them."""
        return {name: tensor.cpu() for name, tensor in self._network.state_dict().items()}

    @torch.inference_mode()
    def maps(self, tiles: np.ndarray, *, to_answer: bool = True) -> TileMaps:
        """Encode tiles.

        Parameters
        ----------
        tiles : np.ndarray
            uint8 (N, H, W, 3), RGB, or of the channels that it was made with; H and W multiples of 32.
        to_answer : bool
            False leaves out what `answer` alone needs: the maps of the frozen encoder.

        Raises
        ------
        ConfigError
            The tiles have another size.
        """
        _, h, w, _ = tiles.shape
        if h % 32 or w % 32:
            raise ConfigError(f"tile size {h}x{w} is not a multiple of 32; use 192 or 224")
        images = self._images(tiles)
        statistics, maps = self._fast.encode_queries(scale_images(images, self.side))
        frozen = self._encoder.maps(images[:, :3]) if self._encoder is not None and to_answer else None
        return TileMaps((h, w), statistics, maps, frozen)

    @torch.inference_mode()
    def pack(self, images: np.ndarray, labels: np.ndarray) -> SettledPack:
        """Compile a support set, of any size, whole: nothing of an earlier one remains.

        Maps of patches and pixel classifiers of earlier calls are used again where images and labels are the same.

        Parameters
        ----------
        images : np.ndarray
            uint8 (K, 224, 224, 3 or more), of the same channels as tiles.
        labels : np.ndarray
            uint8 (K, 224, 224) or (C, K, 224, 224), as `Segmenter.encode` takes them; most of a patch may be 255, not
            labelled.

        Raises
        ------
        ConfigError
            Images and labels do not fit together.
        """
        if images.ndim != 4 or labels.shape[-3:] != images.shape[:3] or labels.ndim not in (3, 4):
            raise ConfigError(f"support images {images.shape} and labels {labels.shape} do not fit together")
        labels = labels_by_class(labels)
        # patches without a label say nothing, and would take the time of their maps
        used = (labels != IGNORE_LABEL).any(axis=(0, 2, 3))
        images, labels = (images[used], labels[:, used]) if used.any() else (images[:1], labels[:, :1])
        maps = self._patch_maps(images)
        unscaled = torch.from_numpy(np.ascontiguousarray(labels)).to(self.device)
        y = scale_labels(unscaled, self.side)
        keys = [_key(image) for image in images]
        packs, readouts = [], []

        def seen(k: int) -> Tensor:
            return self._images(images[k : k + 1])[:, :3]

        for c, (of_class, raw) in enumerate(zip(y[:, :, None], labels, strict=True)):
            sides = (of_class == 1).float(), (of_class == 0).float()
            both = [(key, _key(one)) for key, one in zip(keys, raw, strict=True)]
            texture = self._texture(images, sides, [b"".join(key) for key in both])
            pack = self._network.compile_maps(maps, *sides, texture)
            packs.append(pack.to(device=self.device, dtype=self._dtype))
            if self._encoder is not None:
                known = (unscaled[c, :, None] == 1).float(), (unscaled[c, :, None] == 0).float()
                readouts.append(self._encoder.readout(seen, *known, both))
        return SettledPack(tuple(packs), tuple(readouts))

    @torch.inference_mode()
    def answer(self, maps: TileMaps, pack: SettledPack) -> np.ndarray:
        """Probability of each class separately, as `Segmenter.predict` returns it: (N, C, H, W) float32 in [0, 1].

        Raises
        ------
        ConfigError
            The maps were not made to be answered from.
        """
        options: dict[str, Any] = {"depth": False} if self._fast.has_depth else {}
        if self._encoder is not None:
            if maps.frozen is None:
                raise ConfigError("maps without those of the frozen encoder; make them with to_answer")
            options["opinion_share"] = self._encoder.share
        found = []
        for c, of_class in enumerate(pack.packs):
            if maps.frozen is not None:
                options["opinion"] = maps.frozen.logits(pack.readouts[c])
            logits = self._fast.predict_encoded(
                (maps.statistics, maps.maps), of_class, texture_share=0.0, **options
            )
            logits = F.interpolate(logits.float().contiguous(), size=maps.size, mode="bilinear")
            found.append(torch.sigmoid(logits[:, 0]))
        answer: np.ndarray = torch.stack(found, dim=1).cpu().numpy()
        return answer

    # -- how unlike the labelled ground a place is ---------------------------------------------------------------------

    @torch.inference_mode()
    def examples(self, images: np.ndarray, labels: np.ndarray) -> Examples | None:
        """The labelled ground of a support set, as `pack` takes it; None if nothing is labelled."""
        known = (labels_by_class(labels) != IGNORE_LABEL).any(axis=0)
        used = known.any(axis=(1, 2))
        if not used.any():
            return None
        features = _unit_features(self._patch_maps(images[used]))  # (K, D, h, w)
        share = F.interpolate(
            torch.from_numpy(known[used]).to(self.device)[:, None].float(),
            size=features.shape[-2:],
            mode="area",
        )[:, 0]
        threshold = min(0.5, float(share.max()))  # strokes are thinner than a place is wide
        patch, row, col = torch.nonzero(share >= threshold, as_tuple=True)
        if len(patch) > MOST_EXAMPLES:
            kept = torch.linspace(0, len(patch) - 1, MOST_EXAMPLES, device=self.device).round().long()
            patch, row, col = patch[kept], row[kept], col[kept]
        of_places = features[patch, :, row, col]
        apart = 1 - of_places @ of_places.T
        same = (
            (patch[:, None] == patch) & ((row[:, None] - row).abs() <= 2) & ((col[:, None] - col).abs() <= 2)
        )
        nearest = apart.masked_fill(same, 2.0).amin(1)
        nearest = nearest[nearest < 2]
        return Examples(of_places, max(float(nearest.median()), 1e-3) if len(nearest) else 0.05)

    @torch.inference_mode()
    def unlike(self, maps: TileMaps, examples: Examples) -> np.ndarray:
        """How unlike all labelled ground places of tiles are: (N, h, w) float32 at stride 8 of the resized tiles.

        0 where a place has as near a likeness as labelled places have in one another, towards 1 with the distance: 1/2
        at three times that distance.
        """
        features = _unit_features(maps.maps)
        apart = 1 - (examples.features @ features.flatten(2)).amax(1)
        excess = (apart / examples.near - 1).clamp_min(0)
        unlike: np.ndarray = (excess / (excess + 2)).unflatten(1, features.shape[-2:]).cpu().numpy()
        return unlike

    @torch.inference_mode()
    def features(self, maps: TileMaps) -> np.ndarray:
        """Features of every place of tiles, of length 1: (N, D, h, w) float32 at stride 8 of the resized tiles."""
        features: np.ndarray = _unit_features(maps.maps).cpu().numpy()
        return features

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _images(self, images: np.ndarray) -> Tensor:
        """(N, H, W, C) uint8 -> (N, 3 or 3 + C, H, W) float32 in [0, 1] on the device, in planar memory."""
        tensor = as_tensor(images, self.device).contiguous().float() / 255
        return tensor if self._projection is None else self._projection(tensor)

    def _patch_maps(self, images: np.ndarray) -> dict[int, Tensor]:
        """Exact maps by stride of patches, each encoded by itself."""

        def encode(image: np.ndarray) -> dict[int, Tensor]:
            maps = self._network.encoder(scale_images(self._images(image[None]), self.side)[:, :3])
            return {stride: maps[stride] for stride in STRIDES}

        found = []
        for image in images:
            found.append(
                self._kept(self._patches, PATCHES_KEPT, _key(image), functools.partial(encode, image))
            )
        return {stride: torch.cat([maps[stride] for maps in found]) for stride in found[0]}

    def _texture(
        self, images: np.ndarray, sides: tuple[Tensor, Tensor], keys: Sequence[bytes]
    ) -> TexturePack:
        """The pixel classifier of a class; `keys` stand for each patch with its labels."""

        def pixels(k: int) -> tuple[Tensor, Tensor]:
            image = scale_images(self._images(images[k : k + 1]), self.side)
            return patch_pixels(image, *(of_side[k : k + 1] for of_side in sides), most=MOST_PIXELS)

        def fit() -> TexturePack:
            found = [
                self._kept(self._pixels, PIXELS_KEPT, key, functools.partial(pixels, k))
                for k, key in enumerate(keys)
            ]
            most = MOST_FITTED // len(found)
            found = [(_evenly(x, most), _evenly(share, most)) for x, share in found]
            return fit_pixels(found, steps=QUICK_STEPS, batch=QUICK_BATCH)

        return self._kept(self._textures, TEXTURES_KEPT, b"".join(keys), fit)

    def _kept(self, kept: OrderedDict[bytes, T], most: int, key: bytes, make: Callable[[], T]) -> T:
        """What `make` returned for this key before, or returns now. Two threads may make the same at once."""
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
                return kept[key]
        made = make()
        with self._lock:
            kept[key] = made
            while len(kept) > most:
                kept.popitem(last=False)
        return made


def _key(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _evenly(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).round().long()]


def _unit_features(maps: dict[int, Tensor]) -> Tensor:
    """Features of length 1 of every place at the first of `UNLIKE_STRIDES`, (N, D, h, w) float32: each stride's are
    centred over channels and count the same."""
    size = maps[UNLIKE_STRIDES[0]].shape[-2:]
    parts = []
    for stride in UNLIKE_STRIDES:
        part = maps[stride].float()
        part = F.normalize(part - part.mean(1, keepdim=True), dim=1, eps=1e-4)
        if stride > UNLIKE_STRIDES[0]:
            part = F.interpolate(part, size=size, mode="bilinear")
        parts.append(part)
    return F.normalize(torch.cat(parts, dim=1).contiguous(), dim=1, eps=1e-4)

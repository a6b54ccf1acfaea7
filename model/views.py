"""Encoded support sets: `View` is one at one scale of patches and tiles, `SupportFeatures` has one or several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.model.networks.boundary_trees import BoundaryTrees
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.frozen_encoder import Readout
from fewscope.model.networks.pixel_classifier import TexturePack, fit_texture
from fewscope.model.projection import Projection

SIDES = (160,)
"""Side, px, to which `compact` resizes 224 px."""

TWO_LOOKS = (128, 192)
"""Sides of two looks, whose logits are averaged, in twice the time. On ten unseen classes they gain 0.002 IoU over one
look with weights that were taught to predict the same from it (`benchmarks/teach_one_look.py`), and nothing on 18 sets
whose queries differ from the patches; over one look without such weights 0.006 on either."""

SIDES_OF = {1: SIDES, 2: TWO_LOOKS}
"""By the number of looks."""

TEXTURE_ZOOMS = tuple(side / PATCH_SIZE for side in (96, 128, 192, 256))
"""Scales of 224 px at which the pixel classifier is fitted, once for all views: those of `TWO_LOOKS`, and about 0.7
and 1.4 times that. On ten unseen classes, one classifier for each view gained 0.001 IoU, and took twice the time."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A support set encoded at one scale.

    Attributes
    ----------
    side : int
        px to which a tile of 224 px is resized; above 224, objects are enlarged.
    packs : tuple[Any, ...]
        The compiled support set in float32, one pack per class.
    weights : Mapping[str, Tensor] | None
        The network's weights with the statistics of the support set (`CompactNet.adapt_statistics`), or
        fine-tuned, too; None for the segmenter's own.
    textures : tuple[TexturePack, ...]
        The pixel classifier of each class; empty for a network without.
    norms : Mapping[str, Tensor]
        Statistics of norms that replace those of `weights` for tiles, but not for patches; usually none.
    readouts : tuple[Readout, ...]
        The read-out of the frozen encoder for each class; empty without such an encoder.
    projection : Projection | None
        What the network sees of images of more than three channels; None for RGB.
    """

    side: int
    packs: tuple[Any, ...]
    weights: Mapping[str, Tensor] | None = None
    textures: tuple[TexturePack, ...] = ()
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    readouts: tuple[Readout, ...] = ()
    projection: Projection | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned from the support set by name: what `of` restores a view from, given the support set."""
        kept = {f"weight.{name}": tensor.numpy() for name, tensor in (self.weights or {}).items()}
        kept |= {f"norm.{name}": tensor.numpy() for name, tensor in self.norms.items()}
        for kind, c, fitted in self._fitted():
            kept |= {f"{kind}.{c}.{name}": tensor.numpy() for name, tensor in fitted.tensors().items()}
        if self.projection is not None:
            kept |= {
                f"projection.{name}": tensor.numpy() for name, tensor in self.projection.tensors().items()
            }
        return kept

    def _fitted(self) -> Iterator[tuple[str, int, TexturePack | Readout]]:
        """What was fitted to each class, with its kind and the class's place."""
        yield from (("texture", c, one) for c, one in enumerate(self.textures))
        yield from (("readout", c, one) for c, one in enumerate(self.readouts))

    @classmethod
    def of(cls, side: int, arrays: Mapping[str, np.ndarray]) -> View:
        """The inverse of `arrays`, without packs: a `known` view for `Segmenter.encode`."""
        weights: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        fitted: dict[str, dict[int, dict[str, np.ndarray]]] = {"texture": {}, "readout": {}}
        projection: dict[str, np.ndarray] = {}
        for path, array in arrays.items():
            kind, _, name = path.partition(".")
            if kind == "weight":
                weights[name] = torch.from_numpy(array)
            elif kind == "norm":
                norms[name] = torch.from_numpy(array)
            elif kind == "projection":
                projection[name] = array
            else:
                c, _, name = name.partition(".")
                fitted[kind].setdefault(int(c), {})[name] = array
        textures, readouts = ([one[c] for c in sorted(one)] for one in fitted.values())
        return cls(
            side,
            (),
            weights or None,
            tuple(TexturePack.of(one) for one in textures),
            norms,
            tuple(Readout.of(one) for one in readouts),
            Projection.of(projection) if projection else None,
        )

    def digest(self) -> str:
        """Hash of everything that determines the packs, except for the support set."""
        digest = hashlib.sha256(str(self.side).encode())
        fitted = [tensor for _, _, one in self._fitted() for tensor in one.tensors().values()]
        of_projection = self.projection.tensors().values() if self.projection is not None else ()
        for tensor in (*(self.weights or {}).values(), *fitted, *self.norms.values(), *of_projection):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class SupportFeatures:
    """An encoded support set: immutable, picklable, on the CPU, shared with all workers.

    Attributes
    ----------
    views : tuple of View
        The support set at one scale or several; the logits of the views are averaged.
    shots : int
        K, the number of patches.
    digest : str
        Hash of the support set, the weights, and their adaptation.
    texture_share : float
        Weight of the pixel classifier in a pixel's logit, 0 to 1.
    encoder_share : float
        Weight of the frozen encoder's read-out in the network's part of a pixel's logit, 0 to 1; the network itself
        gets it at any weight.
    precision : str
        Precision in which tiles are predicted with these features, "float32" or "bfloat16": one for all workers of a
        run.
    colours : np.ndarray | None
        What each value of each channel of a tile is replaced by, (channels, 256) uint8, so that a source's colours are
        those of the patches; None: tiles are predicted as they are.
    """

    views: tuple[View, ...]
    shots: int
    digest: str
    texture_share: float = 0.0
    encoder_share: float = 0.0
    precision: str = "float32"
    colours: np.ndarray | None = None
    boundaries: tuple[BoundaryTrees | None, ...] = ()

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.views[0].packs)

    @property
    def projection(self) -> Projection | None:
        """What the network sees of images of more than three channels; None for RGB."""
        return self.views[0].projection

    def with_colours(self, colours: np.ndarray) -> SupportFeatures:
        """The same support set, for tiles whose values are first replaced by a table (channels, 256) uint8."""
        digest = hashlib.sha256(colours.tobytes()).hexdigest()
        return replace(self, colours=colours, digest=f"{self.digest}, colours {digest}")

    def with_boundaries(self, boundaries: Sequence[BoundaryTrees | None]) -> SupportFeatures:
        """The same support set, with something to correct the outline of each class, or None, or nothing at all."""
        digest = hashlib.sha256()
        for c, trees in enumerate(boundaries):
            digest.update(str(c).encode())
            for tensor in trees.tensors().values() if trees else ():
                digest.update(tensor.contiguous().numpy().tobytes())
        named = f"{self.digest}, boundaries {digest.hexdigest()}"
        return replace(self, boundaries=tuple(boundaries), digest=named)

    def recoloured(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles (N, H, W, channels) uint8 in the colours of the patches."""
        if self.colours is None:
            return tiles
        return np.stack([table[tiles[..., i]] for i, table in enumerate(self.colours)], axis=-1)

    def second_opinion(self) -> SupportFeatures | None:
        """The same support set, predicted by the pixel classifier alone, or by the network alone if that already is.

        None for a network without a pixel classifier.
        """
        if not all(view.textures for view in self.views):
            return None
        if self.texture_share == 1:
            return replace(self, texture_share=0.0, boundaries=(), digest=f"{self.digest}, network")
        return replace(self, texture_share=1.0, boundaries=(), digest=f"{self.digest}, pixel classifier")


def as_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) uint8 on a device, in channels-last memory: no copy on a CPU."""
    if min(images.strides) < 0:  # one image of a reversed array is contiguous, but nothing for torch
        images = images.copy()
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)


def scale_images(images: Tensor, side: int) -> Tensor:
    """Resize images (N, 3, H, W) so that 224 px become `side`, rounded to a multiple of 32; bilinear, antialiased."""
    if side == PATCH_SIZE:
        return images
    return F.interpolate(images, size=_scaled_size(images.shape, side), mode="bilinear", antialias=True)


def _scaled_size(shape: Sequence[int], side: int) -> list[int]:
    return [max(1, round(n * side / PATCH_SIZE / 32)) * 32 for n in shape[-2:]]


def scale_labels(labels: Tensor, side: int) -> Tensor:
    """Resize labels (C, K, H, W) to the sizes of `scale_images`; nearest pixel."""
    if side == PATCH_SIZE:
        return labels
    return F.interpolate(labels, size=_scaled_size(labels.shape, side), mode="nearest-exact")


def fit_textures_of_views(images: Tensor, labels: Tensor) -> tuple[TexturePack, ...]:
    """Fit the pixel classifier of each class, for all views, to patches.

    Parameters
    ----------
    images : Tensor
        (K, 3 or 3 + C, 224, 224) float in [0, 1].
    labels : Tensor
        (C, K, 224, 224) uint8: per class 0 for background, 1 for object, 255 for not known.
    """
    with torch.inference_mode():
        return tuple(
            fit_texture(images, (of_class == 1).float(), (of_class == 0).float(), zooms=TEXTURE_ZOOMS)
            for of_class in labels[:, :, None]
        )


def norms_between(network: CompactNet, view: View, tiles: Tensor) -> View:
    """A view whose norms, for tiles, take the mean of the patches' statistics and those of these tiles.

    The patches keep their own. For shallow and deep layers alike, this is half of what AdaBN [1]_ does; all of it lost
    more on tiles with another share of object.

    Parameters
    ----------
    network : CompactNet
        That of the view, before it was adapted to the patches.
    view : View
        Not fine-tuned.
    tiles : Tensor
        (N, 3, H, W) float in [0, 1], unlabelled; H and W multiples of 32.

    References
    ----------
    .. [1] Li et al., Revisiting batch normalization for practical domain adaptation, ICLR workshop 2017.
    """
    assert view.weights is not None
    settled = network.adapt_statistics(scale_images(tiles, view.side))
    norms = {
        name: (tensor.cpu() + view.weights[name]) / 2
        for name, tensor in settled.encoder.state_dict(prefix="encoder.").items()
        if name.endswith((".running_mean", ".running_var"))
    }
    return replace(view, norms=norms)


def labels_by_class(labels: np.ndarray) -> np.ndarray:
    """Labels of each class.

    Parameters
    ----------
    labels : np.ndarray
        (K, H, W) or (C, K, H, W) uint8, as `Segmenter.encode` takes them.

    Returns
    -------
    (C, K, H, W) uint8: 0 for background, 1 for object of the class, 255 for not known

    >>> labels_by_class(np.array([[[0, 1, 2, 255]]], np.uint8)).tolist()
    [[[[0, 1, 0, 255]]], [[[0, 0, 1, 255]]]]
    """
    if labels.ndim == 4:
        return labels
    n_classes = max(1, int(labels[labels != IGNORE_LABEL].max(initial=0)))
    classes = np.arange(1, n_classes + 1, dtype=np.uint8)[:, None, None, None]
    return np.where(labels == IGNORE_LABEL, np.uint8(IGNORE_LABEL), (labels == classes).astype(np.uint8))

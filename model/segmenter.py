"""`Segmenter`: encode a support set once, predict many tiles with it. NumPy arrays in, NumPy arrays out.

The pipeline sees networks through this class alone.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewscope.errors import ConfigError, WeightsError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.devices import default_device, native_precisions, processor_name
from fewscope.model.finetune import AdaptConfig
from fewscope.model.networks.boundary_trees import BoundaryTrees, fit_boundary, refine
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.folding import fold_batch_norm
from fewscope.model.networks.frozen_encoder import FrozenEncoder, load_encoder
from fewscope.model.networks.names import MODELS
from fewscope.model.networks.registry import NETWORKS, build_network, loadable
from fewscope.model.prepared_features import PreparedFeatures
from fewscope.model.projection import fit_projection
from fewscope.model.settled import SettledSegmenter
from fewscope.model.settled_encoder import SettledEncoder
from fewscope.model.support_encoder import SupportEncoder, with_weights
from fewscope.model.views import SIDES_OF, SupportFeatures, View, as_tensor, scale_images
from fewscope.model.weights import SHIPPED, Unfilled, checksum, load_weights, metadata

TWO_LOOKS = "compact-two-looks"
"""Weights of `compact` for two looks at a tile."""

TAUGHT = "taught by"
"""In the header of weights that were taught to predict from one look what others predict from two."""


class Segmenter:
    """A network ready to predict.

    Parameters
    ----------
    network : CompactNet or RelationNet
        The network, with its weights.
    name : str
        Name of the network, shown in the report.
    weights_digest : str
        Identity of the weights.
    device : str or None
        "cpu", "cuda", or None for CUDA when there is one.
    precision : str
        Precision in which tiles are predicted, one of `PRECISIONS`. "auto" is decided here, for all that use the
        features that this segmenter encodes.
    dtype : torch.dtype or None
        Computes in this dtype whatever the features state, for measurements; None: as the features state.
    batch_size : int or None
        Tiles per forward pass; None for 4 on a CPU, which fit its caches, and 64 on a GPU. Shorter batches are padded,
        so that a tile's result does not depend on the tiles that are predicted with it.
    encoder : FrozenEncoder or None
        A frozen encoder, whose features are read out beside the pixel classifier.
    looks : int or None
        Looks at a tile: one, or two at different scales (`SIDES_OF`); None: two if the network can.

    Raises
    ------
    ConfigError
        An encoder is given, and the network has no pixel classifier; or two looks, which only `compact` has.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        weights_digest: str = "",
        *,
        device: str | None = None,
        precision: str = "auto",
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        encoder: FrozenEncoder | None = None,
        looks: int | None = None,
    ) -> None:
        self.device = torch.device(device) if device else default_device()
        self.precisions = native_precisions(self.device)
        self.precision = self.precisions[-1] if precision == "auto" else precision
        self._forced = dtype
        self.batch_size = batch_size or (4 if self.device.type == "cpu" else 64)
        self.name = name
        self.weights_digest = weights_digest
        self.looks = looks or (2 if isinstance(network, CompactNet) else 1)
        if self.looks not in SIDES_OF:
            raise ConfigError(f"--looks {looks}: must be one of {', '.join(map(str, SIDES_OF))}")
        if self.looks != 1 and not isinstance(network, CompactNet):
            raise ConfigError(f"model {name!r} looks at a tile once; leave --looks out")
        if encoder is not None:
            if not isinstance(network, CompactNet):
                raise ConfigError(f"model {name!r} has no pixel classifier for --encoder; use compact")
            self.weights_digest = f"{weights_digest}+{encoder.digest}"
        self._encoder = encoder and encoder.to(self.device)
        self._exact = network.eval().to(self.device)
        self._fast: dict[torch.dtype, nn.Module] = {}
        self._ready: PreparedFeatures | None = None
        self._support = SupportEncoder(
            self._exact, name, self.device, self.dtype == torch.bfloat16, self.batch_size, self._encoder
        )

    @property
    def processor(self) -> str:
        """The kind of processor that this segmenter computes on."""
        return processor_name(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """In which tiles are predicted with the features that this segmenter encodes."""
        return self._dtype_of(self.precision)

    def _dtype_of(self, precision: str) -> torch.dtype:
        """float32 also for bfloat16 where that would be emulated: workers refuse such a run, and its driver, which may
        lack the workers' GPUs, merely chooses by these predictions."""
        if self._forced is not None:
            return self._forced
        is_native = precision == "bfloat16" and precision in self.precisions
        return torch.bfloat16 if is_native else torch.float32

    @property
    def has_depth(self) -> bool:
        """Whether `predict` can return depth: the network was trained with it."""
        return bool(getattr(self._exact, "has_depth", False))

    @property
    def has_encoder(self) -> bool:
        """Whether a frozen encoder is read out beside the network."""
        return self._encoder is not None

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides, px, to which 224 px are resized by default."""
        if not self.adapts:
            return (PATCH_SIZE,)
        return SIDES_OF[self.looks]

    @property
    def adapts(self) -> bool:
        """Whether `encode` can fine-tune this network."""
        return isinstance(self._exact, CompactNet)

    def encode(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        instances: np.ndarray | None = None,
        adaptation: AdaptConfig | None = None,
        *,
        sides: Sequence[int] = (),
        texture_share: float = 0.0,
        encoder_share: float = 0.0,
        known: Mapping[int, View] | None = None,
    ) -> SupportFeatures:
        """Encode a support set.

        Parameters
        ----------
        images : np.ndarray
            numpy.ndarray uint8 (K, 224, 224, 3), RGB; or (K, 224, 224, N) of more than three channels, of which the
            network sees three projections (`model.projection`).
        labels : np.ndarray
            numpy.ndarray uint8 (K, 224, 224): 0 background, 1..C the object's class, 255 not labelled. Or,
            if patches are not labelled for all classes, (C, K, 224, 224): per class 0 for background, 1 for
            object, 255 for not known.
        instances : numpy.ndarray or None
            int (K, 224, 224), 0 background, 1..n one object each, for fine-tuning the depth.
        adaptation : AdaptConfig or None
            Fine-tunes the network on the support set first; None for the network as it is.
        sides : sequence of int
            Sides, px, multiples of 32, to which 224 px of patches and tiles are resized; the logits are averaged. Empty
            for `Segmenter.sides`.
        texture_share : float
            Weight of the pixel classifier in a pixel's logit; at 1 it decides alone.
        encoder_share : float
            Weight of the frozen encoder's read-out in the network's part of that logit; not used without an encoder.
        known : mapping of int to View, or None
            Views of an earlier call with the same patches and adaptation, by their side: their weights and pixel
            classifiers are reused, and nothing is fine-tuned or fitted.

        Raises
        ------
        ConfigError
            The arrays do not fit together, a side is not a multiple of 32, or the network cannot be fine-tuned.
        """
        views = self._support.views(
            images,
            labels,
            instances,
            adaptation,
            tuple(sides) or self.sides,
            known or {},
        )
        digest = hashlib.sha256(f"{self.weights_digest} {texture_share} {encoder_share}".encode())
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        for view in views:
            digest.update(view.digest().encode())
        return SupportFeatures(
            views, len(images), digest.hexdigest(), texture_share, encoder_share, self.precision
        )

    def views_between(self, features: SupportFeatures, tiles: np.ndarray) -> dict[int, View]:
        """Views of an encoded support set that meet unlabelled tiles (N, H, W, 3) uint8 halfway (`norms_between`).

        They are `known` for `encode`; empty for a network without such norms.
        """
        return self._support.views_between(features, tiles)

    def settled(self, images: np.ndarray, side: int = 128, encoder_share: float = 0.0) -> SettledSegmenter:
        """This network cut in the middle, for a loop of corrections: its norms are settled once, on unlabelled tiles.

        Parameters
        ----------
        images : np.ndarray
            uint8 (N, H, W, 3 or more): about eight tiles of what will be predicted, of one size, multiples of 32. With
            their statistics alone a support set scores as with its own. Of more than three channels, the network sees
            their three principal components.
        side : int
            Side, px, to which 224 px are resized; a multiple of 32.
        encoder_share : float
            As `encode` takes it.

        Raises
        ------
        ConfigError
            The network has no norms to settle, or the images or the side do not fit.
        """
        if not isinstance(self._exact, CompactNet):
            raise ConfigError(f"model {self.name!r} cannot be settled on unlabelled tiles; use compact")
        if images.ndim != 4 or images.shape[-1] < 3 or images.dtype != np.uint8 or not len(images):
            raise ConfigError(
                f"tiles are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3 or more), N >= 1"
            )
        if side % 32:
            raise ConfigError(f"side {side} is not a multiple of 32; use 128, 192 or 320")
        x, projection = as_tensor(images, self.device).float() / 255, None
        if images.shape[-1] > 3:
            projection = fit_projection(x).to(self.device)
            x = projection(x)[:, :3]
        exact = self._exact.adapt_statistics(scale_images(x, side))
        fast, encoder = self._faster(exact, self.dtype), None
        if self._encoder is not None:
            encoder = SettledEncoder(self._encoder, self.dtype, self.batch_size, encoder_share)
        return SettledSegmenter(exact, fast, side, self.device, self.dtype, projection, encoder)

    def _faster(self, network: nn.Module, dtype: torch.dtype) -> nn.Module:
        """A copy for prediction: batch norms folded, in the dtype and memory layout that suit the device."""
        fast = fold_batch_norm(copy.deepcopy(network)).eval()
        if isinstance(fast, CompactNet) and self.device.type == "cpu" and dtype == torch.float32:
            fast.split_convolutions()
        return fast.to(device=self.device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(self, tiles: np.ndarray, features: SupportFeatures, depth: bool = False) -> np.ndarray:
        """Predict the probability of each class separately: they need not add up to 1.

        A tile is encoded once for all classes.

        Parameters
        ----------
        tiles : np.ndarray
            numpy.ndarray uint8 (N, H, W, 3), RGB, or of the channels of the support set; H and W multiples of 32.
        features : SupportFeatures
            The encoded support set.
        depth : bool
            Return depth, too: 0 at the rim of a pixel's own object, 1 in its middle, given that it is of the class

        Returns
        -------
        (N, C, H, W) float32 in [0, 1]; with `depth` (N, 2 C, H, W), depths after probabilities

        Raises
        ------
        ConfigError
            The tiles have another size, or the network has no depth (`has_depth`).
        """
        if depth and not self.has_depth:
            raise ConfigError(
                f"the weights of model {self.name!r} have no depth; use others, or --instances split"
            )
        _, h, w, n_channels = tiles.shape
        if h % 32 or w % 32:
            raise ConfigError(f"tile size {h}x{w} is not a multiple of 32; use 192 or 224")
        expected = 3 if features.projection is None else features.projection.n_channels
        if n_channels != expected:
            raise ConfigError(f"tiles have {n_channels} channels, the support set {expected}; give the same")
        logits = self._prepared(features).logits(features.recoloured(tiles), depth)
        # place c is the class's probability, place c + C its depth
        return np.asarray(torch.sigmoid_(logits).flatten(1, 2).cpu().numpy())

    def fit_boundary(
        self, images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
    ) -> BoundaryTrees | None:
        """Learn from held-out patches where the outline of a class is (`model.networks.boundary_trees`).

        Parameters
        ----------
        images : np.ndarray
            (K, H, W, channels) uint8.
        probabilities : np.ndarray
            (K, H, W) float32, each patch predicted without itself.
        labels : np.ndarray
            (K, H, W) uint8 of the class: 0 not of it, 1 of it, 255 not labelled.

        Returns
        -------
        For `SupportFeatures.with_boundaries` and `correct_boundary`; None where no outline is labelled on both sides.
        """
        known = torch.from_numpy(labels).to(self.device)
        return fit_boundary(self._unit_images(images), self._logits_of(probabilities), known)

    @torch.inference_mode()
    def correct_boundary(
        self, images: np.ndarray, probabilities: np.ndarray, trees: BoundaryTrees
    ) -> np.ndarray:
        """Probabilities (N, H, W) float32 of a class, as `predict` corrects them with these trees.

        Parameters
        ----------
        images, probabilities : np.ndarray
            (N, H, W, channels) uint8 and (N, H, W) float32.
        """
        logits = refine(self._unit_images(images), self._logits_of(probabilities), trees.to(self.device))
        return np.asarray(torch.sigmoid(logits[:, 0]).cpu().numpy())

    def _unit_images(self, images: np.ndarray) -> Tensor:
        return as_tensor(images, self.device).float() / 255

    def _logits_of(self, probabilities: np.ndarray) -> Tensor:
        return torch.logit(torch.from_numpy(probabilities)[:, None].to(self.device).float(), eps=1e-6)

    def _prepared(self, features: SupportFeatures) -> PreparedFeatures:
        """Networks and packs for features, kept for the next call. Safe with several threads."""
        ready = self._ready
        asked = features.digest, features.precision
        if ready is None or (ready.features.digest, ready.features.precision) != asked:
            dtype = self._dtype_of(features.precision)
            views = sorted(features.views, key=lambda view: view.side)
            members = tuple(self._member(view, dtype) for view in views)
            on_device = tuple(trees and trees.to(self.device) for trees in features.boundaries)
            boundaries = on_device or (None,) * features.n_classes
            self._ready = ready = PreparedFeatures(
                features, members, boundaries, self._encoder, self.device, self.batch_size
            )
        return ready

    def _member(self, view: View, dtype: torch.dtype) -> tuple[nn.Module, View]:
        if view.weights is not None:
            network = self._faster(with_weights(self._exact, {**view.weights, **view.norms}), dtype)
        else:
            if dtype not in self._fast:
                self._fast[dtype] = self._faster(self._exact, dtype)
            network = self._fast[dtype]
        packs = tuple(pack.to(device=self.device, dtype=dtype) for pack in view.packs)
        readouts = tuple(readout.to(self.device) for readout in view.readouts)
        return network, replace(view, packs=packs, readouts=readouts)


def load_segmenter(
    model: str = "compact",
    weights: str | None = None,
    encoder: str | None = None,
    looks: int | None = None,
    **options: Any,
) -> Segmenter:
    """Load a segmenter by name.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    weights : str | None
        Path of a ``.safetensors`` file; None for the shipped one, which for two looks is another.
    encoder : str | None
        A frozen encoder, as `frozen_encoder.load_encoder` takes it.
    looks : int | None
        Looks at a tile; None: one if the weights were taught to, as the shipped ones, else as `Segmenter`.
    options : device, precision, dtype, batch_size of `Segmenter`

    Raises
    ------
    WeightsError
        There is no such model, or its weights are missing, damaged, or those of another network; or the encoder's.
    MissingPackageError
        The encoder needs a package that is not installed.
    """
    if model not in MODELS:
        raise WeightsError(f"model {model!r} is not one of {', '.join(MODELS)}")
    shipped = NETWORKS[model].shipped if model in NETWORKS else ""
    if model == "compact" and looks == 2:
        shipped = TWO_LOOKS
    path = Path(weights) if weights is not None else SHIPPED / f"{shipped or model}.safetensors"
    if weights is None and not path.exists():
        raise WeightsError(
            f"no weights ship for model {model!r}; give --weights FILE, or use --model compact"
        )
    state = load_weights(path)
    wide = state.get("encoder.blocks.0.0.weight")
    size = "L" if wide is not None and len(wide) == 32 else "S"
    with Unfilled():
        if model == "compact":
            network = build_network(f"compact-{size}", depth="depth_head.0.weight" in state)
        else:
            network = build_network(model)
    try:
        network.load_state_dict(loadable(network, state))
    except RuntimeError as e:
        raise WeightsError(
            f"{path}: weights of another network than {model!r}: {str(e).splitlines()[0]}"
        ) from e
    frozen = load_encoder(encoder) if encoder else None
    if looks is None and TAUGHT in metadata(path):
        looks = 1
    return Segmenter(network, model, checksum(path), encoder=frozen, looks=looks, **options)

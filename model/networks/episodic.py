"""Base of the published few-shot networks: what they share behind the interface that all networks have.

A network compiles a support set into a `SupportPack` once, encodes queries once per batch, and compares the two. Images
come as RGB in [0, 1]; `prepare` brings them to the range that the network's backbone was trained on, and to the size of
its paper if `native_size` is given. Nothing of that is folded into a convolution, so that the padding is what the
reference pads and the names and shapes of the weights are those of the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]: torchvision's documentation of its weights."""

CAFFE_MEAN = (104.00699 / 255, 116.66877 / 255, 122.67892 / 255)
"""Of BGR: the mean of ImageNet's pixels (104.00699, 116.66877, 122.67892 of 255), as Caffe's models subtract it."""


@dataclass(frozen=True, slots=True, eq=False)
class SupportPack:
    """A compiled support set: some tensors, whose meaning each network states."""

    tensors: tuple[Tensor, ...]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SupportPack:
        """The same pack on another device, or in another dtype."""
        return SupportPack(tuple(t.to(device=device, dtype=dtype) for t in self.tensors))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedQueries:
    """Features of some queries.

    Attributes
    ----------
    features : tuple[Tensor, ...]
        (N, C, h, w) each.
    prepared, size : tuple[int, int]
        Height and width of the images in the network, and as they came, px.
    """

    features: tuple[Tensor, ...]
    prepared: tuple[int, int]
    size: tuple[int, int]


class EpisodicNet(nn.Module):
    """Base class. A subclass implements `features`, `compile_features` and `match`.

    Parameters
    ----------
    native_size : int | None
        Side to which images are resized inside the network, px; None for the size at which they come.
    caffe : bool
        The backbone takes BGR, 0 to 255, minus Caffe's mean; else RGB, standardised as torchvision does.

    Attributes
    ----------
    frozen : tuple[str, ...]
        Names of the parts that are not trained; their batch norms keep their statistics.
    """

    frozen: tuple[str, ...] = ()
    mean: Tensor
    std: Tensor

    def __init__(self, native_size: int | None = None, *, caffe: bool = False) -> None:
        super().__init__()
        self.native_size = native_size
        self.caffe = caffe
        mean, std = (CAFFE_MEAN, (1 / 255,) * 3) if caffe else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of prepared images (N, 3, H, W), queries and supports alike."""
        raise NotImplementedError

    def compile_features(
        self, features: tuple[Tensor, ...], foreground: Tensor, background: Tensor
    ) -> SupportPack:
        """A pack from the features of K supports and their masks (K, 1, H, W) at the prepared size."""
        raise NotImplementedError

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """Logits (N, 1, *size) of queries."""
        raise NotImplementedError

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> SupportPack:
        """Encode K support pairs, once.

        Parameters
        ----------
        images : Tensor
            (K, 3, H, W) float in [0, 1].
        foreground, background : Tensor
            (K, 1, H, W) in {0, 1}; both are 0 where nothing is labelled.
        """
        prepared = self.prepare(images)
        sides = (self.resized_mask(side, prepared) for side in (foreground, background))
        return self.compile_features(self.features(prepared), *sides)

    def encode_queries(self, images: Tensor) -> EncodedQueries:
        """Features of queries (N, 3, H, W) in [0, 1]: once per batch, for any number of packs."""
        prepared = self.prepare(images)
        return EncodedQueries(self.features(prepared), _size(prepared), _size(images))

    def predict_encoded(self, queries: EncodedQueries, pack: SupportPack) -> Tensor:
        """Logits (N, 1, H, W) of encoded queries, as `forward` returns them."""
        logits = self.match(queries.features, pack, queries.prepared)
        if queries.prepared == queries.size:
            return logits
        return F.interpolate(logits, size=queries.size, mode="bilinear")

    def forward(self, images: Tensor, pack: SupportPack) -> Tensor:
        """Logits (N, 1, H, W) of queries (N, 3, H, W) in [0, 1]."""
        return self.predict_encoded(self.encode_queries(images), pack)

    def episode(self, images: Tensor, foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor | None]:
        """A training episode.

        Parameters
        ----------
        images : Tensor
            (K + Q, 3, H, W) in [0, 1], the supports first.
        foreground, background : Tensor
            (K, 1, H, W), of the supports.

        Returns
        -------
        Logits (Q, 1, H, W), and a loss of its own that the network adds, a scalar; None without one
        """
        shots = len(foreground)
        prepared = self.prepare(images)
        features = self.features(prepared)  # of all at once: batch norm sees the mixture that it will know
        sides = (self.resized_mask(side, prepared) for side in (foreground, background))
        pack = self.compile_features(tuple(maps[:shots] for maps in features), *sides)
        queries = EncodedQueries(tuple(maps[shots:] for maps in features), _size(prepared), _size(images))
        return self.predict_encoded(queries, pack), None

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], at the size and in the range and dtype of the network."""
        if self.native_size is not None and _size(images) != (self.native_size,) * 2:
            images = F.interpolate(images, size=(self.native_size,) * 2, mode="bilinear", antialias=True)
        return self.standardise(images)

    def standardise(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], in the range and dtype of the backbone."""
        images = images.to(self.mean.dtype)
        return ((images.flip(1) if self.caffe else images) - self.mean) / self.std

    def resized_mask(self, mask: Tensor, prepared: Tensor) -> Tensor:
        """A mask (K, 1, H, W) at the size and in the dtype of prepared images; nearest pixel."""
        if _size(mask) != _size(prepared):
            mask = F.interpolate(mask, size=_size(prepared), mode="nearest-exact")
        return mask.to(prepared.dtype)

    def freeze(self, *names: str) -> None:
        """Exclude parts of the network from training, until `unfreeze`."""
        self.frozen = names
        for name in names:
            self.get_submodule(name).requires_grad_(False)

    def unfreeze(self) -> None:
        """Train all parts. Papers freeze a backbone that knows ImageNet; one with random weights has to learn."""
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(True)
        self.frozen = ()

    def backbone_gradients(self) -> torch.autograd.grad_mode.set_grad_enabled:
        """Context in which the backbone is computed: without gradients if it is frozen."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen)

    def train(self, mode: bool = True) -> EpisodicNet:
        """As torch's; frozen parts stay in eval mode, so that their batch norms keep their statistics."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the backbone from the ``state_dict`` of torchvision's network of that name, in place."""
        raise NotImplementedError

    def backbone_state(self) -> dict[str, Tensor]:
        """The backbone by the names, and for the input, of torchvision's network: what `load_backbone` takes."""
        raise NotImplementedError

    def accepted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of a weights file is loaded: all of it."""
        return state

    def rates(self) -> Iterable[tuple[str, float]]:
        """Parts whose learning rate differs: (prefix of the parameters' names, factor)."""
        return ()


def _size(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return int(height), int(width)


def masked_mean(features: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Mean of feature maps (N, C, H, W) over a mask (N, 1, H, W), sum(mask) + `eps` being the area: (N, C)."""
    return (features * mask).sum((2, 3)) / (mask.sum((2, 3)) + eps)


def bilinear_kernel(stride: int) -> Tensor:
    """The weights (2 stride, 2 stride) by which an FCN upsamples `stride` times (Long et al., CVPR 2015)."""
    side = 2 * stride
    ramp = 1 - (torch.arange(side) - (side - 1) / 2).abs() / stride
    return ramp[:, None] * ramp[None]


def enlarged(scores: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Scores (N, 1, h, w), `stride` times as large, by a `bilinear_kernel` (1, 1, 2 stride, 2 stride).

    In float32 at least: of one channel in bfloat16, PyTorch's transposed convolution takes a second on a processor
    where it takes a millisecond in float32.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    with torch.autocast(scores.device.type, enabled=False):
        return F.conv_transpose2d(scores.to(dtype), kernel.to(dtype), stride=stride)


def vgg_layers(
    widths: tuple[int, ...] = (64, 128, 256, 512, 512), first_padding: int = 1
) -> list[tuple[str, nn.Module]]:
    """The convolutions of VGG-16 with the names of its paper, as an FCN has them: pooling rounds up.

    Parameters
    ----------
    widths : tuple[int, ...]
        Channels of the five stages; fewer for tests.
    first_padding : int
        Padding of the first convolution, px: large where later layers have none.
    """
    layers: list[tuple[str, nn.Module]] = []
    n_in = 3
    for stage, (width, n_convolutions) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True), start=1):
        for i in range(1, n_convolutions + 1):
            padding = first_padding if (stage, i) == (1, 1) else 1
            layers.append((f"conv{stage}_{i}", nn.Conv2d(n_in, width, 3, padding=padding)))
            layers.append((f"relu{stage}_{i}", nn.ReLU(inplace=True)))
            n_in = width
        layers.append((f"pool{stage}", nn.MaxPool2d(2, 2, ceil_mode=True)))
    return layers


CAFFE_DEVIATION = 58.0
"""Standard deviation of ImageNet's pixels, 0 to 255."""


def initialise_vgg(part: nn.Module, *, caffe: bool = False) -> None:
    """Random weights for the convolutions and linear layers of a VGG-16, in place: He's, and biases of 0.

    The authors start from ImageNet weights. With `caffe`, the first convolution allows for inputs of 0 to 255.
    """
    first = True
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            if caffe and first:
                with torch.no_grad():
                    layer.weight /= CAFFE_DEVIATION
            first = False


VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Places of the convolutions in torchvision's ``vgg16.features``."""


def vgg_state(part: nn.Module, *, caffe: bool = False) -> dict[str, Tensor]:
    """The first thirteen convolutions of `part`, by the names of torchvision's ``vgg16``: the inverse of `load_vgg`."""
    convolutions = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    state: dict[str, Tensor] = {}
    for place, layer in zip(VGG_PLACES, convolutions, strict=False):
        assert layer.bias is not None
        state[f"features.{place}.weight"] = layer.weight.detach().clone()
        state[f"features.{place}.bias"] = layer.bias.detach().clone()
    if caffe:
        first = state["features.0.weight"].flip(1) * 255
        state["features.0.weight"] = first * torch.tensor(IMAGENET_STD)[:, None, None]
    return state


def load_vgg(layers: Sequence[nn.Module], state: Mapping[str, Tensor], *, caffe: bool = False) -> None:
    """Copy the weights of torchvision's ``vgg16`` into the convolutions and linear layers of a VGG-16, in place.

    Parameters
    ----------
    layers : Sequence[nn.Module]
        In the order of the network; fewer than there are take the first ones.
    state : Mapping[str, Tensor]
        torchvision's ``state_dict``. Its linear layers fit convolutions of as many weights.
    caffe : bool
        The network takes BGR, 0 to 255: the first convolution is converted from RGB, standardised.
    """
    keys = [key for key in state if key.endswith(".weight")]
    with torch.no_grad():
        for i, (layer, key) in enumerate(zip(layers, keys, strict=False)):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            assert layer.bias is not None
            weight, bias = state[key], state[key.replace(".weight", ".bias")]
            if caffe and i == 0:
                # the means of both differ by less than one level of 255
                weight = (weight / torch.tensor(IMAGENET_STD)[:, None, None]).flip(1) / 255
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            layer.bias.copy_(bias)

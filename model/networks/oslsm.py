"""OSLSM: one network reads the support and writes the classifier that the other applies to every pixel of the query.

Shaban et al., *One-Shot Learning for Semantic Segmentation*, BMVC 2017. The conditioning branch is all of VGG-16; its
1,000 outputs become 4,096 weights and a bias by weight hashing (each is one of the outputs or its negative, chosen
once at random). The segmentation branch is a VGG-16 of its own as an FCN at stride 32, whose 4,096 features are
classified by them. K shots give K maps of logits, and the largest decides: a logical OR of K predictions.

The published index and sign of the hash are inside the authors' Caffe model. Here they are drawn from `HASH_SEED` and
kept with the weights. Not the paper's 100 but the 121 px of padding of the authors' network are used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks.episodic import (
    EpisodicNet,
    SupportPack,
    bilinear_kernel,
    enlarged,
    initialise_vgg,
    load_vgg,
    vgg_layers,
    vgg_state,
)

STRIDE = 32
FIRST_PADDING = 121
CROP = 40
"""Where the query begins in the enlarged logits, px."""

CONDITION_SIDE = 224
"""Side of the supports in the conditioning branch, px: its fully connected layers have no other."""

CONDITIONING_RATE = 0.1
"""Factor of the learning rate of the conditioning branch."""

HASH_SEED = 0
WIDTHS = (64, 128, 256, 512, 512)
WIDTH = 4096
N_OUTPUTS = 1000


class OSLSM(EpisodicNet):
    """OSLSM for one class.

    Parameters
    ----------
    native_size : int | None
        None in the authors' training; their tests use 500.
    widths : tuple[int, ...]
        Channels of the five stages of both branches; fewer for tests.
    width, n_outputs : int
        Channels of the fully connected layers, and outputs of the conditioning branch.
    condition_side : int
        Side of the supports in the conditioning branch, px, a multiple of 32.
    """

    index: Tensor
    sign: Tensor
    kernel: Tensor

    def __init__(
        self,
        native_size: int | None = None,
        widths: tuple[int, ...] = WIDTHS,
        width: int = WIDTH,
        n_outputs: int = N_OUTPUTS,
        condition_side: int = CONDITION_SIDE,
    ) -> None:
        super().__init__(native_size, caffe=True)
        self.condition_side = condition_side
        self.conditioning = nn.Sequential(
            OrderedDict(
                [
                    *vgg_layers(widths),
                    ("flat", nn.Flatten()),
                    ("fc6", nn.Linear(widths[-1] * (condition_side // STRIDE) ** 2, width)),
                    ("relu6", nn.ReLU(inplace=True)),
                    ("drop6", nn.Dropout(0.5)),
                    ("fc7", nn.Linear(width, width)),
                    ("relu7", nn.ReLU(inplace=True)),
                    ("drop7", nn.Dropout(0.5)),
                    ("fc8", nn.Linear(width, n_outputs)),
                ]
            )
        )
        self.segmentation = nn.Sequential(
            OrderedDict(
                [
                    *vgg_layers(widths, FIRST_PADDING),
                    ("fc6", nn.Conv2d(widths[-1], width, 7)),
                    ("relu6", nn.ReLU(inplace=True)),
                    ("drop6", nn.Dropout(0.5)),
                    ("fc7", nn.Conv2d(width, width, 1)),
                    ("relu7", nn.ReLU(inplace=True)),
                    ("drop7", nn.Dropout(0.5)),
                ]
            )
        )
        for branch in (self.conditioning, self.segmentation):
            initialise_vgg(branch, caffe=True)
        with torch.no_grad():  # a logit is the sum of `width` products
            self.conditioning.get_submodule("fc8").weight /= width**0.5
        generator = torch.Generator().manual_seed(HASH_SEED)
        self.register_buffer("index", torch.randint(n_outputs, (width + 1,), generator=generator))
        self.register_buffer("sign", torch.randint(2, (width + 1,), generator=generator) * 2.0 - 1)
        self.register_buffer("kernel", bilinear_kernel(STRIDE)[None, None], persistent=False)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map at stride 32 of the segmentation branch."""
        maps: Tensor = self.segmentation(images)
        return (maps,)

    def compile_support(self, images: Tensor, foreground: Tensor, background: Tensor) -> SupportPack:
        """Weights (K, C) and biases (K, 1) of the pixel classifiers.

        Parameters
        ----------
        images : Tensor
            (K, 3, H, W) float in [0, 1].
        foreground : Tensor
            (K, 1, H, W) in {0, 1}. What it does not cover, the network does not see.
        background : Tensor
            Not used, part of the common signature.
        """
        return self.classifiers(self.conditioning(self.masked(images, foreground)))

    def masked(self, images: Tensor, foreground: Tensor) -> Tensor:
        """Supports as the conditioning branch takes them: prepared, 0 away from the object, of its size."""
        sides = (self.condition_side,) * 2
        if images.shape[-2:] != sides:
            images = F.interpolate(images, size=sides, mode="bilinear", antialias=True)
            foreground = F.interpolate(foreground, size=sides, mode="nearest-exact")
        prepared = self.standardise(images)
        return prepared * foreground.to(prepared.dtype)

    def classifiers(self, outputs: Tensor) -> SupportPack:
        """Weights (K, C) and biases (K, 1) from the outputs (K, n_outputs) of the conditioning branch."""
        written = outputs[:, self.index] * self.sign
        return SupportPack((written[:, :-1], written[:, -1:]))

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """The largest of the K logits of every pixel."""
        weights, biases = (t.to(features[0].dtype) for t in pack.tensors)
        logits = F.conv2d(features[0], weights[:, :, None, None], biases[:, 0])
        n, k = logits.shape[:2]
        large = enlarged(logits.flatten(0, 1)[:, None], self.kernel, STRIDE)
        large = large.unflatten(0, (n, k))[:, :, 0, CROP : CROP + size[0], CROP : CROP + size[1]]
        return large.amax(1, keepdim=True)

    def episode(self, images: Tensor, foreground: Tensor, background: Tensor) -> tuple[Tensor, None]:
        """Logits of the queries; the branches see supports and queries apart."""
        shots = len(foreground)
        pack = self.compile_support(images[:shots], foreground, background)
        return self(images[shots:], pack), None

    def rates(self) -> Iterable[tuple[str, float]]:
        """The conditioning branch learns ten times more slowly."""
        return (("conditioning.", CONDITIONING_RATE),)

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take both branches from torchvision's ``vgg16``, in place."""
        for branch in (self.conditioning, self.segmentation):
            layers = [layer for layer in branch if isinstance(layer, nn.Conv2d | nn.Linear)]
            load_vgg(layers, state, caffe=True)

    def backbone_state(self) -> dict[str, Tensor]:
        """The convolutions of the segmentation branch as torchvision's ``vgg16`` has them."""
        return vgg_state(self.segmentation, caffe=True)

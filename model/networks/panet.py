"""PANet: cosine to the mean features of object and background.

Wang et al., *PANet: Few-Shot Image Semantic Segmentation with Prototype Alignment*, ICCV 2019. VGG-16 without its last
ReLU, at stride 8: the fourth pooling has stride 1 and the fifth stage dilation 2. Support features are enlarged to the
mask, averaged over object and background, and averaged over the shots; a query's pixel gets 20 times its cosine to
each. In training, the prediction also serves as the mask of the query, with which each support is segmented in turn.

The names of the weights are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.model.networks.episodic import (
    EpisodicNet,
    SupportPack,
    initialise_vgg,
    load_vgg,
    masked_mean,
    vgg_state,
)

SCALE = 20.0
"""Factor of the cosine (section 3.3)."""

EPS = 1e-5
"""Added to the area of a mask."""

WIDTHS = (64, 128, 256, 512, 512)


class CosineNet(EpisodicNet):
    """PANet's rule on one map of features, whichever network gives it."""

    def compile_features(
        self, features: tuple[Tensor, ...], foreground: Tensor, background: Tensor
    ) -> SupportPack:
        """Prototypes (2, C): background, object."""
        return SupportPack((prototypes(features[0], foreground, background),))

    def match(self, features: tuple[Tensor, ...], pack: SupportPack, size: tuple[int, int]) -> Tensor:
        """Score of the object minus that of the background: the logit of the softmax of both."""
        scores = cosine_scores(features[0], pack.tensors[0])
        return F.interpolate(scores[:, 1:] - scores[:, :1], size=size, mode="bilinear")


class PANet(CosineNet):
    """PANet for one class.

    Parameters
    ----------
    native_size : int | None
        417 in the authors' code.
    widths : tuple[int, ...]
        Channels of the five stages of VGG-16; fewer for tests.
    """

    def __init__(self, native_size: int | None = None, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__(native_size)
        self.encoder = nn.Sequential()
        self.encoder.add_module("backbone", Backbone(widths))

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map at stride 8."""
        encoded: Tensor = self.encoder(images)
        return (encoded,)

    def episode(self, images: Tensor, foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the queries, and the loss of prototype alignment."""
        shots = len(foreground)
        prepared = self.prepare(images)
        size = (prepared.shape[-2], prepared.shape[-1])
        (maps,) = self.features(prepared)
        sides = [self.resized_mask(side, prepared) for side in (foreground, background)]
        pack = self.compile_features((maps[:shots],), *sides)
        logits = self.match((maps[shots:],), pack, size)
        alignment = self.alignment_loss(maps[:shots], maps[shots:], pack, *sides)
        if size != images.shape[-2:]:
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear")
        return logits, alignment

    def alignment_loss(
        self, supports: Tensor, queries: Tensor, pack: SupportPack, foreground: Tensor, background: Tensor
    ) -> Tensor:
        """Mean cross-entropy of the supports, segmented by the queries and their predictions (section 3.4).

        Parameters
        ----------
        supports, queries : Tensor
            Maps (K, C, h, w) and (Q, C, h, w).
        pack : SupportPack
            Prototypes of the supports.
        foreground, background : Tensor
            (K, 1, H, W) in {0, 1}; pixels that are neither are not counted.

        Returns
        -------
        A scalar; 0 where nothing is predicted to be object
        """
        predicted = cosine_scores(queries, pack.tensors[0]).argmax(1, keepdim=True)
        if not predicted.any():
            return queries.new_zeros(()) * queries.sum()
        area = predicted.sum((0, 2, 3)) + EPS
        n_background = (1 - predicted).sum((0, 2, 3)) + EPS
        learned = torch.stack(
            [
                (queries * (1 - predicted)).sum((0, 2, 3)) / n_background,
                (queries * predicted).sum((0, 2, 3)) / area,
            ]
        )
        scores = F.interpolate(cosine_scores(supports, learned), size=foreground.shape[-2:], mode="bilinear")
        known = foreground + background > 0.5
        target = torch.where(known, (foreground > 0.5).long(), 255)[:, 0]
        each = [
            F.cross_entropy(s[None].float(), t[None], ignore_index=255)
            for s, t in zip(scores, target, strict=True)
        ]
        return torch.stack(each).mean()

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Take the convolutions from torchvision's ``vgg16``, in place."""
        load_vgg([layer for layer in self.encoder.modules() if isinstance(layer, nn.Conv2d)], state)

    def backbone_state(self) -> dict[str, Tensor]:
        """The convolutions as torchvision's ``vgg16`` has them."""
        return vgg_state(self.encoder)


class Backbone(nn.Module):
    """VGG-16 without its last pooling and ReLU, at stride 8: (N, 3, H, W) -> (N, C, H / 8, W / 8)."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        n_in = 3
        for i, (width, n_convolutions) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True)):
            last = i == 4
            if i:
                stages.append(nn.MaxPool2d(3, stride=1 if last else 2, padding=1))
            stages.append(_stage(n_in, width, n_convolutions, dilation=2 if last else 1, last_relu=not last))
            n_in = width
        self.features = nn.Sequential(*stages)
        initialise_vgg(self)

    def forward(self, images: Tensor) -> Tensor:
        """Maps of standardised images."""
        maps: Tensor = self.features(images)
        return maps


def _stage(n_in: int, width: int, n_convolutions: int, *, dilation: int, last_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(n_convolutions):
        layers.append(nn.Conv2d(n_in if i == 0 else width, width, 3, padding=dilation, dilation=dilation))
        if last_relu or i < n_convolutions - 1:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def prototypes(features: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Mean features of background and object.

    Parameters
    ----------
    features : Tensor
        Maps (K, C, h, w) of the supports.
    foreground, background : Tensor
        (K, 1, H, W) in {0, 1}.

    Returns
    -------
    (2, C): background, object; each the mean over the shots of the mean over the mask
    """
    large = F.interpolate(features, size=foreground.shape[-2:], mode="bilinear")
    return torch.stack([masked_mean(large, side, EPS).mean(0) for side in (background, foreground)])


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """`SCALE` times the cosine (N, P, h, w) of maps (N, C, h, w) to prototypes (P, C), in float32."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=1)
        means = F.normalize(prototypes.float(), dim=1)
        return SCALE * F.conv2d(unit, means[:, :, None, None])

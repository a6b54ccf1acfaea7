"""ImageNet weights for the encoders of relation networks, downloaded by torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import (
    Inception_V3_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    VGG16_BN_Weights,
    VGG16_Weights,
    WeightsEnum,
)

from fewscope.errors import WeightsError
from fewscope.model.networks.encoders import Encoder
from fewscope.model.networks.episodic import IMAGENET_MEAN as MEAN
from fewscope.model.networks.episodic import IMAGENET_STD as STD
from fewscope.model.networks.episodic import EpisodicNet

SOURCES: dict[str, WeightsEnum] = {
    "vgg16": VGG16_BN_Weights.IMAGENET1K_V1,
    "resnet101": ResNet101_Weights.IMAGENET1K_V1,
    "inception": Inception_V3_Weights.IMAGENET1K_V1,
    "vgg16-plain": VGG16_Weights.IMAGENET1K_V1,  # without batch norm
    "resnet50": ResNet50_Weights.IMAGENET1K_V1,
}

FIRST = {  # first convolution, and the batch norm after it
    "vgg16": ("0", "1"),
    "resnet101": ("conv1", "bn1"),
    "inception": ("Conv2d_1a_3x3.conv", "Conv2d_1a_3x3.bn"),
}

# Inception maps its input to -1..1
INCEPTION_MEAN, INCEPTION_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def _imagenet_state(name: str) -> Mapping[str, Tensor]:
    source = SOURCES[name]
    try:
        state: Mapping[str, Tensor] = source.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"the ImageNet weights of {name} cannot be downloaded ({error}); train without --imagenet, or put "
            f"{source.url.rpartition('/')[2]} into {cache}"
        ) from error
    return state


def load_imagenet_backbone(net: EpisodicNet, name: str) -> None:
    """Load the weights of an ImageNet classifier into the backbone of a published network, in place.

    Parameters
    ----------
    net : EpisodicNet
        The network.
    name : str
        A key of `SOURCES`.

    Raises
    ------
    WeightsError
        The weights are not in torch's cache and cannot be downloaded.
    """
    net.load_backbone(_imagenet_state(name))


def load_imagenet(encoder: Encoder, name: str) -> None:
    """Load the weights of an ImageNet classifier into an encoder, in place.

    The encoder takes RGB in [0, 1]: the standardisation that the weights expect is folded into the first convolution
    and the batch norm after it. The weights of the mask, the fourth channel, start at zero.

    Parameters
    ----------
    encoder : Encoder
        With torchvision's layers.
    name : str
        Its key in `model.networks.encoders.ENCODERS`.

    Raises
    ------
    WeightsError
        The weights are not in torch's cache and cannot be downloaded.
    """
    state = _imagenet_state(name)
    own = encoder.get_submodule("layers").state_dict()
    prefix = "features." if name == "vgg16" else ""
    loaded: dict[str, Tensor] = {key: state[prefix + key] for key in own}
    mean, std = (INCEPTION_MEAN, INCEPTION_STD) if name == "inception" else (MEAN, STD)
    convolution, norm = FIRST[name]
    weight = loaded[f"{convolution}.weight"] / torch.tensor(std)[:, None, None]
    shift = (weight * torch.tensor(mean)[:, None, None]).sum((1, 2, 3))
    loaded[f"{convolution}.weight"] = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)
    loaded[f"{norm}.running_mean"] = loaded[f"{norm}.running_mean"] + shift
    encoder.get_submodule("layers").load_state_dict(loaded)

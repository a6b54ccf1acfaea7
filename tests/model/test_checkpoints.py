"""Checkpoints of other code: the authors' two files predict what their code predicts; nothing in a pickle runs."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from fewscope.errors import ConfigError, WeightsError
from fewscope.jobs import convert
from fewscope.model.checkpoints import (
    convert_backbone,
    convert_hkustcv,
    convert_torchvision,
    read_checkpoint,
)
from fewscope.model.networks.registry import build_network
from fewscope.model.segmenter import load_segmenter
from fewscope.model.weights import Unfilled, load_weights, save_weights

CONVOLUTIONS = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
"""Places of the convolutions in ``vgg16_bn.features``; after each come a batch norm and a ReLU."""

POOLS = {6, 13, 23, 33, 43}
WIDTHS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]


def authors_files(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two random checkpoints with the names that the authors' code saves."""
    g = torch.Generator().manual_seed(0)

    def layer(name: str, n_in: int, n_out: int, kernel: int) -> dict[str, Tensor]:
        deviation = (2 / (n_in * kernel**2)) ** 0.5
        weight = deviation * torch.randn(n_out, n_in, kernel, kernel, generator=g)
        return {f"{name}.weight": weight, f"{name}.bias": 0.1 * torch.randn(n_out, generator=g)}

    def norm(name: str, n: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": 1 + 0.2 * torch.randn(n, generator=g),
            f"{name}.bias": 0.2 * torch.randn(n, generator=g),
            f"{name}.running_mean": torch.randn(n, generator=g),
            f"{name}.running_var": torch.rand(n, generator=g),
        }

    encoder, n_in = {}, 4
    for place, width in zip(CONVOLUTIONS, WIDTHS, strict=True):
        encoder |= layer("layer1.0" if place == 0 else f"features.{place - 1}", n_in, width, 3)
        encoder |= norm(f"features.{place}", width)
        n_in = width
    relation = {}
    for name, n_in, width in (("layer1", 1024, 512), ("layer2", 512, 512)):
        relation |= layer(f"{name}.0", n_in, width, 3) | norm(f"{name}.1", width)
    for block, (n_in, width) in enumerate(
        [(1024, 512), (1024, 256), (512, 128), (256, 64), (128, 64)], start=1
    ):
        relation |= layer(f"double_conv{block}.0", n_in, width, 3) | norm(f"double_conv{block}.1", width)
        if block < 5:
            relation |= layer(f"double_conv{block}.3", width, width, 3) | norm(f"double_conv{block}.4", width)
        else:
            relation |= layer("double_conv5.3", width, 1, 1)
    torch.save(encoder, folder / "feature_encoder.pkl")
    torch.save(relation, folder / "relation_network.pkl")
    return encoder, relation


def authors_prediction(
    encoder: dict[str, Tensor], relation: dict[str, Tensor], images: Tensor, masks: Tensor, query: Tensor
) -> Tensor:
    """Probabilities as the authors' code computes them for one query, in plain functions on their files."""

    def block(state: dict[str, Tensor], convolution: str, norm: str, x: Tensor) -> Tensor:
        weight = state[f"{convolution}.weight"]
        x = F.conv2d(x.to(weight.dtype), weight, state[f"{convolution}.bias"], padding=weight.shape[-1] // 2)
        return F.relu(
            F.batch_norm(x, None, None, state[f"{norm}.weight"], state[f"{norm}.bias"], training=True)
        )

    def encode(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for place in range(44):
            if place in CONVOLUTIONS:
                x = block(
                    encoder, "layer1.0" if place == 0 else f"features.{place - 1}", f"features.{place}", x
                )
            elif place in POOLS:
                kept.append(x)
                x = F.max_pool2d(x, 2)
        return x, kept

    supports, _ = encode(torch.cat([images, masks], 1))
    deepest, skips = encode(torch.cat([query, torch.zeros_like(query[:, :1])], 1))
    x = torch.cat([supports.sum(0, keepdim=True), deepest], 1)
    for name in ("layer1", "layer2"):
        x = block(relation, f"{name}.0", f"{name}.1", x)
    for i, skip in enumerate(reversed(skips), start=1):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = block(relation, f"double_conv{i}.0", f"double_conv{i}.1", torch.cat([x, skip], 1))
        if i < 5:
            x = block(relation, f"double_conv{i}.3", f"double_conv{i}.4", x)
    return torch.sigmoid(F.conv2d(x, relation["double_conv5.3.weight"], relation["double_conv5.3.bias"]))


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """The folder of the authors' files and of ours, converted from them, and what theirs hold."""
    folder = tmp_path_factory.mktemp("authors")
    encoder, relation = authors_files(folder)
    command = ["hkustcv", str(folder / "feature_encoder.pkl"), str(folder / "relation_network.pkl")]
    assert convert.main([*command, "--out", str(folder / "hkustcv.safetensors")]) == 0
    return folder, encoder, relation


@pytest.mark.slow
@pytest.mark.parametrize("shots", [5, 2])
def test_the_authors_checkpoint_predicts_what_their_code_predicts(
    authors: tuple[Path, dict[str, Tensor], dict[str, Tensor]], shots: int
) -> None:
    folder, *files = authors
    out = folder / "hkustcv.safetensors"
    g = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (shots + 2, 64, 64, 3), generator=g).byte()
    labels = (torch.rand(shots, 64, 64, generator=g) > 0.5).byte()
    images = pictures.permute(0, 3, 1, 2).float() / 255
    exact = [{name: tensor.double() for name, tensor in file.items()} for file in files]
    queries = images[shots:].double()
    masks = labels[:, None].double()
    expected = torch.cat(
        [authors_prediction(*exact, images[:shots].double(), masks, queries[i : i + 1]) for i in (0, 1)]
    )
    net = convert_hkustcv(folder / "feature_encoder.pkl", folder / "relation_network.pkl").double()
    with torch.inference_mode():
        pack = net.compile_support(images[:shots].double(), masks, 1 - masks)
        torch.testing.assert_close(torch.sigmoid(net(queries, pack)), expected, rtol=0, atol=1e-9)
    segmenter = load_segmenter("vgg16-hkustcv", str(out), device="cpu", dtype=torch.float32, batch_size=2)
    features = segmenter.encode(pictures[:shots].numpy(), labels.numpy())
    found = torch.from_numpy(segmenter.predict(pictures[shots:].numpy(), features))
    # statistics of four values, the deepest map of 64 px, enlarge float32's rounding
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)
    assert expected.std() > 0.01


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EVIL"],)


def test_nothing_in_a_pickle_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "made"))
    torch.save({"layer1.0.weight": Evil()}, tmp_path / "evil.pkl")
    with pytest.raises(WeightsError, match=r"evil.pkl: is not a checkpoint of tensors alone"):
        read_checkpoint(tmp_path / "evil.pkl")
    assert not (tmp_path / "made").exists()


def test_other_files_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    torch.save({"weight": torch.full((3,), torch.nan)}, tmp_path / "nan.pth")
    (tmp_path / "text.pth").write_text("nothing")
    other, out = str(tmp_path / "other.pth"), str(tmp_path / "out.safetensors")
    for command, message in (
        (["hkustcv", other, other], "weight is no part of the feature encoder"),
        (["hkustcv", other], "hkustcv needs two files"),
        (["torchvision", other, "--model", "prototype-resnet50"], "is not torchvision's resnet50"),
        (["torchvision", other, "--model", "compact"], "takes no weights of torchvision's"),
        (["torchvision", other], "torchvision and backbone need --model"),
        (["backbone", other, "--model", "hsnet-vgg16"], "not a safetensors file"),
        (["torchvision", str(tmp_path / "text.pth"), "--model", "prototype-vgg16"], "not a checkpoint"),
        (
            ["torchvision", str(tmp_path / "list.pth"), "--model", "prototype-vgg16"],
            "holds no tensors by name",
        ),
        (["torchvision", str(tmp_path / "nan.pth"), "--model", "prototype-vgg16"], "not finite"),
        (["torchvision", "nowhere.pth", "--model", "prototype-vgg16"], "no such file"),
    ):
        try:
            code = convert.main([*command, "--out", out])
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2, command
        assert message in capfd.readouterr().err, command


@pytest.mark.slow
def test_torchvisions_backbone_under_a_wrapped_name(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet50(weights=None)
    torch.save({f"module.{k}": v for k, v in theirs.state_dict().items()}, tmp_path / "r50.pth")
    net = convert_torchvision(tmp_path / "r50.pth", "hsnet-resnet50")
    torch.testing.assert_close(net.backbone["layer4"][2].conv3.weight, theirs.layer4[2].conv3.weight)
    with pytest.raises(ConfigError, match="takes no weights"):
        convert_torchvision(tmp_path / "r50.pth", "vgg16-paper")


@pytest.mark.slow
def test_a_trained_backbone_goes_into_another_network(tmp_path: Path) -> None:
    """PANet's convolutions see in HSNet and in Guided Network, which takes BGR of 0 to 255, what they saw."""
    torch.manual_seed(2)
    panet = build_network("panet").eval()
    with torch.no_grad():
        for parameter in panet.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_weights(panet, tmp_path / "panet.safetensors", {"network": "panet"})
    out = tmp_path / "hsnet.safetensors"
    command = ["backbone", str(tmp_path / "panet.safetensors"), "--model", "hsnet-vgg16", "--out", str(out)]
    assert convert.main(command) == 0
    with Unfilled():
        hsnet = build_network("hsnet-vgg16").eval()
    hsnet.load_state_dict(load_weights(out))
    guided = convert_backbone(tmp_path / "panet.safetensors", "guided").eval()
    image = torch.rand(1, 3, 64, 64)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    with torch.inference_mode():
        expected = panet.encoder.backbone.features[0](panet.prepare(image))
        torch.testing.assert_close(hsnet.backbone["features"][:4](hsnet.prepare(image)), expected)
        padding = 81 - 1
        as_far_from_the_mean = image + guided.mean.flip(0) - panet.mean
        found = guided.encoder[:4](guided.prepare(as_far_from_the_mean))
        found = found[..., padding:-padding, padding:-padding]
        torch.testing.assert_close(found[inner], expected[inner], rtol=1e-4, atol=1e-4)
    state = panet.backbone_state()
    assert len(state) == 2 * 13
    for name, tensor in guided.backbone_state().items():  # and out of it again
        torch.testing.assert_close(tensor, state[name])


@pytest.mark.slow
def test_a_backbone_of_another_kind_is_refused(tmp_path: Path) -> None:
    canet = tmp_path / "canet.safetensors"
    save_weights(build_network("canet"), canet, {"network": "canet"})
    with pytest.raises(WeightsError, match="canet has no vgg16 for hsnet-vgg16"):
        convert_backbone(canet, "hsnet-vgg16")
    with pytest.raises(WeightsError, match="canet has no resnet50 for hsnet-resnet50"):  # its fourth stage
        convert_backbone(canet, "hsnet-resnet50")
    net = convert_backbone(canet, "prototype-resnet50")
    torch.testing.assert_close(net.encoder[0].weight, load_weights(canet)["conv1.weight"])
    other = tmp_path / "other.safetensors"
    save_weights(torch.nn.Linear(2, 2), other, {})
    with pytest.raises(WeightsError, match="an unnamed network, which has no backbone to give"):
        convert_backbone(other, "hsnet-vgg16")


@pytest.mark.slow
def test_the_encoder_of_a_relation_network_without_its_batch_norm(tmp_path: Path) -> None:
    torch.manual_seed(3)
    relation = build_network("vgg16-paper").eval()
    for layer in relation.encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    save_weights(relation, tmp_path / "relation.safetensors", {"network": "vgg16-paper"})
    hsnet = convert_backbone(tmp_path / "relation.safetensors", "hsnet-vgg16").eval()
    plain, image = hsnet.backbone["features"], torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        shown = torch.cat([image, torch.zeros(1, 1, 64, 64)], dim=1)  # the mask of a query
        expected = relation.encoder.layers[:3](shown)
        found = plain[:2](hsnet.prepare(image))
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # one pads black, the other the mean
        torch.testing.assert_close(found[inner], expected[inner])
        torch.testing.assert_close(plain[2:](expected), relation.encoder.layers[3:](expected))

"""Networks of other papers: their sizes and names, what they have in common, and that each learns an episode.

Most tests run networks of a few channels; the numbers of parameters are those of the whole ones.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fewscope.errors import ConfigError
from fewscope.model.episodes.sampler import Episode
from fewscope.model.metrics import image_iou
from fewscope.model.networks import episodic
from fewscope.model.networks.canet import CANet
from fewscope.model.networks.episodic import EpisodicNet, bilinear_kernel
from fewscope.model.networks.guided import GuidedNet
from fewscope.model.networks.hsnet import HSNet, Learner
from fewscope.model.networks.oslsm import OSLSM
from fewscope.model.networks.panet import PANet
from fewscope.model.networks.registry import NETWORKS, build_network
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.objectives import EpisodicObjective
from fewscope.model.training.recipes import recipe
from tests.helpers.published import SLIM, discs

KEYS = Path(__file__).with_name("keys")


@pytest.fixture(scope="module", params=SLIM)
def net(request: pytest.FixtureRequest) -> EpisodicNet:
    torch.manual_seed(0)
    made = SLIM[request.param]()
    if isinstance(made, GuidedNet):  # its last layer starts at zero, which hides everything
        nn.init.normal_(made.head[-1].weight)
        nn.init.normal_(made.encoder[-3].weight)
    return made.eval()


@pytest.mark.parametrize(
    ("name", "n_all", "n_trained"),
    [
        ("oslsm", 138_357_544 + 134_260_544, 272_618_088),
        ("guided", 21_729_602, 21_729_602),
        ("panet", 14_714_688, 14_714_688),
        ("canet", 19_037_762, 10_494_466),
        ("hsnet-vgg16", 14_714_688 + 2_570_018, 2_570_018),
        ("hsnet-resnet50", 23_508_032 + 2_573_794, 2_573_794),
        ("hsnet-resnet101", 42_500_160 + 2_587_394, 2_587_394),
        ("prototype-vgg16", 14_714_688, 0),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, n_all: int, n_trained: int) -> None:
    with torch.device("meta"):
        made = build_network(name)
    sizes = [(p.numel(), p.requires_grad) for p in made.parameters()]
    assert sum(n for n, _ in sizes) == n_all
    assert sum(n for n, trained in sizes if trained) == n_trained


@pytest.mark.parametrize("name", [path.stem for path in sorted(KEYS.glob("*.json"))])
def test_weights_have_the_names_and_shapes_of_the_authors_code(name: str) -> None:
    """So that their checkpoints load. OSLSM's are the layers of a Caffe model; HSNet's are those that it trains."""
    with torch.device("meta"):
        own = {key: list(tensor.shape) for key, tensor in build_network(name).state_dict().items()}
    theirs = json.loads((KEYS / f"{name}.json").read_text())
    if name.startswith("hsnet"):
        own = {key: shape for key, shape in own.items() if not key.startswith("backbone.")}
    assert own == theirs


def test_oslsms_branches_have_the_parameters_of_vgg16_and_of_its_fcn() -> None:
    with torch.device("meta"):
        made = build_network("oslsm")
    assert sum(p.numel() for p in made.conditioning.parameters()) == 138_357_544
    assert sum(p.numel() for p in made.segmentation.parameters()) == 134_260_544


def test_supports_may_come_in_any_order(net: EpisodicNet) -> None:
    images, masks = discs(4)
    with torch.inference_mode():
        one = net(images[3:], net.compile_support(images[:3], masks[:3], 1 - masks[:3]))
        order = [2, 0, 1]
        other = net(images[3:], net.compile_support(images[order], masks[order], 1 - masks[order]))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    assert one.std() > 0


def test_copies_of_a_support_say_what_one_says(net: EpisodicNet) -> None:
    images, masks = discs(2)
    copies, of_copies = images[:1].expand(3, -1, -1, -1), masks[:1].expand(3, -1, -1, -1)
    with torch.inference_mode():
        one = net(images[1:], net.compile_support(images[:1], masks[:1], 1 - masks[:1]))
        many = net(images[1:], net.compile_support(copies, of_copies, 1 - of_copies))
    if isinstance(net, HSNet):  # votes have no strength
        assert torch.equal(one > 0, many > 0)
    else:
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_a_query_does_not_depend_on_its_batch(net: EpisodicNet) -> None:
    images, masks = discs(4)
    with torch.inference_mode():
        pack = net.compile_support(images[:2], masks[:2], 1 - masks[:2])
        both = net(images[2:], pack)
        alone = torch.cat([net(images[2:3], pack), net(images[3:], pack)])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-4 * float(both.abs().max()))


@pytest.mark.parametrize("side", [64, 96, 160])
def test_logits_have_the_size_of_the_query_and_are_finite_even_without_an_object(
    net: EpisodicNet, side: int
) -> None:
    images, masks = discs(2, side)
    with torch.inference_mode():
        for mask in (masks[:1], torch.zeros_like(masks[:1]), torch.ones_like(masks[:1])):
            logits = net(images[1:], net.compile_support(images[:1], mask, 1 - mask))
            assert logits.shape == (1, 1, side, side)
            assert logits.isfinite().all()


def test_networks_of_a_size_of_their_own_give_back_the_size_of_the_query() -> None:
    torch.manual_seed(0)
    images, masks = discs(2)
    made, large = PANet(widths=(8,) * 5).eval(), PANet(native_size=97, widths=(8,) * 5).eval()
    large.load_state_dict(made.state_dict())
    with torch.inference_mode():
        encoded = large.encode_queries(images[1:])
        assert encoded.features[0].shape[-2:] == (13, 13)
        assert large(images[1:], large.compile_support(images[:1], masks[:1], 1 - masks[:1])).shape == (
            1,
            1,
            96,
            96,
        )
    with torch.device("meta"):
        assert [
            build_network(name).native_size
            for name in ("panet-417", "canet-128", "canet-321", "hsnet-vgg16-400")
        ] == [417, 128, 321, 400]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIM)
def test_networks_run_behind_the_segmenter_and_keep_classes_apart(name: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(SLIM[name](), name, device="cpu", dtype=torch.float32, batch_size=2)
    images, masks = discs(3, 64)
    pictures = (images * 255).byte().permute(0, 2, 3, 1).numpy()
    first = masks[:, 0].byte().numpy()
    swapped = np.where(first == 1, 2, np.where(pictures[..., 2] > 110, 1, 0)).astype(np.uint8)
    labels = np.where(swapped == 2, 1, np.where(swapped == 1, 2, 0)).astype(np.uint8)
    one = segmenter.predict(pictures[2:], segmenter.encode(pictures[:2], labels[:2]))
    other = segmenter.predict(pictures[2:], segmenter.encode(pictures[:2], swapped[:2]))
    assert one.shape == (1, 2, 64, 64)
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-5)
    bf16 = Segmenter(SLIM[name](), name, device="cpu", dtype=torch.bfloat16, batch_size=1)
    assert np.isfinite(bf16.predict(pictures[2:], bf16.encode(pictures[:2], labels[:2]))).all()


@pytest.mark.parametrize("name", ["canet", "hsnet"])
def test_a_backbone_that_is_not_frozen_learns(name: str) -> None:
    made = SLIM[name]()
    made.unfreeze()
    made.train()
    assert all(layer.training for layer in made.modules())
    images, masks = discs(3, 64)
    logits, _ = made.episode(images, masks[:2], 1 - masks[:2])
    logits.square().sum().backward()
    first = made.conv1 if name == "canet" else made.backbone["features"][0]
    assert first.weight.grad is not None
    assert first.weight.grad.abs().max() > 0


def test_networks_with_a_frozen_backbone_say_so() -> None:
    frozen = {name: bool(make().frozen) for name, make in SLIM.items()}
    for name, spec in NETWORKS.items():
        if spec.family == "episodic" and spec.trained:
            assert frozen[name.partition("-")[0]] == spec.frozen, name
    with pytest.raises(ConfigError, match="all of panet is trained anyway; leave --train-backbone out"):
        replace(recipe("modern", "panet"), train_backbone=True)


def test_prototypes_of_the_shipped_encoder_need_no_training() -> None:
    segmenter = load_segmenter("prototype-compact", device="cpu", dtype=torch.float32, batch_size=1)
    images, masks = discs(3, 224)
    pictures = (images * 255).byte().permute(0, 2, 3, 1).numpy()
    labels = masks[:, 0].byte().numpy()
    found = segmenter.predict(pictures[2:], segmenter.encode(pictures[:2], labels[:2]))
    assert image_iou(torch.from_numpy(found) >= 0.5, masks[2:] == 1).item() > 0.9
    with pytest.raises(ConfigError, match="not trained; evaluate it with --model"):
        recipe("modern", "prototype-compact")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guided", "panet", "prototype-vgg16"])
def test_imagenet_weights_see_what_they_were_trained_on(name: str) -> None:
    """Within the padding, the features are those of torchvision's VGG-16."""
    torch.manual_seed(0)
    original = torchvision.models.vgg16(weights=None).eval()
    made = build_network(name).eval()
    made.load_backbone(original.state_dict())
    image = torch.rand(1, 3, 64, 64)
    standardised = torchvision.transforms.functional.normalize(
        image, episodic.IMAGENET_MEAN, episodic.IMAGENET_STD
    )
    convolutions = [layer for layer in made.modules() if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        own, theirs = made.prepare(image), standardised
        for i in (0, 1):
            own = F.conv2d(own, convolutions[i].weight, convolutions[i].bias).relu()
        theirs = original.features[2:4](
            F.conv2d(theirs, *original.features[0].parameters()).relu().clamp_min(0)
        )
    # Caffe's mean differs by less than a level of 255
    torch.testing.assert_close(own, theirs[..., 1:-1, 1:-1], rtol=2e-2, atol=2e-2)


def test_the_upsampling_weights_of_an_fcn_keep_a_constant() -> None:
    kernel = bilinear_kernel(4)
    large = episodic.enlarged(torch.ones(1, 1, 5, 5), kernel[None, None], 4)
    torch.testing.assert_close(large[..., 4:-4, 4:-4], torch.ones(1, 1, 16, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_enlarged_in_float32_at_least(dtype: torch.dtype) -> None:
    kernel = bilinear_kernel(4)[None, None]
    scores = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        large = episodic.enlarged(scores, kernel, 4)
    assert large.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = F.conv_transpose2d(scores.double(), kernel.double(), stride=4)
    torch.testing.assert_close(large.double(), expected, rtol=1e-5, atol=1e-5)


def test_scores_are_at_twice_the_finest_stage() -> None:
    learner = Learner((1, 3, 3), (4, 8, 8))
    stacks = [torch.rand(1, n, s, s, s, s) for n, s in ((1, 2), (3, 4), (3, 8))]
    assert learner(stacks).shape == (1, 2, 16, 16)


TRAINED: Mapping[str, Callable[[], EpisodicNet]] = {
    "oslsm": lambda: OSLSM(widths=(8,) * 4 + (16,), width=32, n_outputs=32, condition_side=64),
    "guided": lambda: GuidedNet(widths=(8,) * 4 + (16,), width=16),
    "panet": lambda: PANet(widths=(8, 16, 16, 16, 16)),
    "canet": lambda: CANet(width=32, blocks=(1, 1, 1)),
    "hsnet": lambda: HSNet("vgg16", widths=(8, 16, 16)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_network_learns_one_episode(name: str) -> None:
    """IoU above 0.95 on the query of a single episode, in at most 200 steps at 96 px (HSNet: 64), without dropout.

    What a network sees at stride 32 can be no disc of 40 px: there, the object is a half of the image.
    """
    torch.manual_seed(0)
    made = TRAINED[name]()
    for layer in made.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    images, masks = discs(2, 64 if name == "hsnet" else 96, seed=3)
    if name in ("oslsm", "guided"):
        masks = (torch.arange(96) < 48).float().expand(2, 1, 96, 96)
        images = 0.3 + 0.4 * masks * torch.tensor([1.0, 0.2, 0.2])[:, None, None] + 0.05 * images
    episode = Episode(images, masks, torch.ones_like(masks[:1]), None, "")
    objective = EpisodicObjective(made, "bce")
    optimiser = torch.optim.Adam(
        [p for p in made.parameters() if p.requires_grad], lr=1e-2 if name == "hsnet" else 3e-3
    )
    best = 0.0
    for step in range(200):
        made.train()
        loss, _ = objective([EpisodeBatch.of([episode])])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 9:
            made.eval()
            with torch.inference_mode():
                found = made(images[1:], made.compile_support(images[:1], masks[:1], 1 - masks[:1])) >= 0
            best = max(best, image_iou(found, masks[1:] == 1).item())
            if best > 0.95:
                break
    assert best > 0.95, best


def test_every_published_network_has_a_recipe_of_its_paper() -> None:
    for name, spec in NETWORKS.items():
        if spec.family == "episodic" and spec.trained:
            config = recipe("paper", name)
            assert (config.shots, config.images_per_episode, config.augmented) == (1, 2, False)

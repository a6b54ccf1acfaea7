"""Networks of other papers: the rules that each has of its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.networks.canet import BACKBONE
from fewscope.model.networks.hsnet import CentrePivotConv4d, HSNet
from fewscope.model.networks.oslsm import OSLSM
from fewscope.model.networks.panet import PANet, cosine_scores
from fewscope.model.training.optimisation import optimiser_of
from fewscope.model.training.recipes import recipe
from tests.helpers.published import SLIM, discs


def test_panets_scores_ignore_the_length_of_features() -> None:
    g = torch.Generator().manual_seed(0)
    features, means = torch.randn(2, 8, 5, 5, generator=g), torch.randn(2, 8, generator=g)
    torch.testing.assert_close(cosine_scores(3 * features, means), cosine_scores(features, 7 * means))
    expected = 20 * F.cosine_similarity(features[:, None], means[None, :, :, None, None], dim=2)
    torch.testing.assert_close(cosine_scores(features, means), expected)


def test_panets_alignment_is_what_the_query_says_of_the_supports() -> None:
    """The support segmented with the query's prediction, in the two-channel form of the paper."""
    torch.manual_seed(0)
    made = PANet(widths=(8,) * 5)
    images, masks = discs(3, 64)
    masks[0, :, :10] = 0
    background = 1 - masks[:2]
    background[1, :, :20] = 0  # not labelled
    foreground = masks[:2] * (
        1 - (torch.arange(64) < 20).float()[:, None] * torch.tensor([0.0, 1.0])[:, None, None, None]
    )
    (maps,) = made.features(made.prepare(images))
    pack = made.compile_features((maps[:2],), foreground, background)
    predicted = cosine_scores(maps[2:], pack.tensors[0])[0].argmax(0)
    assert 0 < predicted.sum() < predicted.numel()
    means = torch.stack([maps[2][:, predicted == c].mean(1) for c in (0, 1)])
    each = []
    for k in range(2):
        scores = 20 * F.cosine_similarity(maps[k][None], means[:, :, None, None], dim=1)
        scores = F.interpolate(scores[None], size=(64, 64), mode="bilinear")[0]
        known = (foreground[k, 0] + background[k, 0]) == 1
        right = torch.where(foreground[k, 0] == 1, scores.softmax(0)[1], scores.softmax(0)[0])
        each.append(-right[known].log().mean())
    _, alignment = made.episode(images, foreground, background)
    torch.testing.assert_close(alignment, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_oslsm_does_not_see_what_the_mask_leaves_out_and_takes_the_largest_of_k_logits() -> None:
    torch.manual_seed(0)
    made = SLIM["oslsm"]().eval()
    images, masks = discs(3, 64)
    other = torch.where(masks[:2] == 1, images[:2], torch.rand(2, 3, 64, 64))
    with torch.inference_mode():
        pack = made.compile_support(images[:2], masks[:2], 1 - masks[:2])
        torch.testing.assert_close(
            pack.tensors, made.compile_support(other, masks[:2], 1 - masks[:2]).tensors
        )
        singles = [
            made(images[2:], made.compile_support(images[k : k + 1], masks[k : k + 1], masks[k : k + 1]))
            for k in (0, 1)
        ]
        torch.testing.assert_close(made(images[2:], pack), torch.maximum(*singles), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_oslsms_random_logits_are_of_the_size_of_one() -> None:
    """A sum of thousands of products would saturate the sigmoid, and hardly learn."""
    torch.manual_seed(0)
    made = OSLSM(widths=(32, 64, 128, 128, 128), width=2048).eval()
    images, masks = discs(4, 64)
    with torch.inference_mode():
        logits = made(images[2:], made.compile_support(images[:2], masks[:2], 1 - masks[:2]))
    assert 0.02 < logits.abs().mean() < 3, logits.abs().mean()


def test_oslsms_hash_is_fixed_and_its_conditioning_branch_learns_ten_times_more_slowly() -> None:
    made = SLIM["oslsm"]()
    assert torch.equal(made.index, SLIM["oslsm"]().index)
    assert set(made.sign.tolist()) == {-1.0, 1.0}
    assert "index" not in dict(made.named_parameters())
    images, masks = discs(2, 64)
    logits, _ = made.episode(images, masks[:1], 1 - masks[:1])
    logits.mean().backward()
    assert all(p.grad is not None for p in made.parameters())
    groups = optimiser_of(recipe("paper", "oslsm"), made).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    rate = recipe("paper", "oslsm").learning_rate
    for name, parameter in made.named_parameters():
        factor = (0.1 if name.startswith("conditioning.") else 1) * (2 if parameter.ndim == 1 else 1)
        assert rates[id(parameter)] == pytest.approx(rate * factor), name


def test_canets_backbone_learns_nothing_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    made = SLIM["canet"]().train()
    images, masks = discs(2, 64)
    before = made.bn1.running_mean.clone()
    logits, _ = made.episode(images, masks[:1], 1 - masks[:1])
    logits.mean().backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in BACKBONE), name
    assert torch.equal(made.bn1.running_mean, before)
    assert made.layer7.training


def test_canets_first_iteration_has_no_history() -> None:
    torch.manual_seed(0)
    made = SLIM["canet"]().eval()
    images, masks = discs(2, 64)
    with torch.inference_mode():
        pack = made.compile_support(images[:1], masks[:1], 1 - masks[:1])
        compared = made.compare(made.features(made.prepare(images[1:]))[0], pack)
        first = made.refine(compared, compared.new_zeros(1, 2, *compared.shape[-2:]))
        second = made.refine(compared, first.softmax(1))
        for iterations, scores in ((1, first), (2, second)):
            made.iterations = iterations
            expected = F.interpolate(scores, size=(64, 64), mode="bilinear", align_corners=True)
            torch.testing.assert_close(made(images[1:], pack), expected[:, 1:] - expected[:, :1])


def test_a_centre_pivot_is_a_4d_convolution_with_two_planes() -> None:
    """Against the sum over all offsets of a dense 4-D kernel that is zero away from both planes."""
    torch.manual_seed(0)
    layer = CentrePivotConv4d(2, 3, 3, 2).double()
    x = torch.randn(1, 2, 4, 5, 6, 4).double()
    dense = torch.zeros(3, 2, 3, 3, 3, 3).double()
    dense[:, :, :, :, 1, 1] += layer.conv1.weight
    dense[:, :, 1, 1] += layer.conv2.weight
    padded = F.pad(x, (1,) * 8)
    expected = torch.zeros(1, 3, 4, 5, 3, 2).double()
    for a, b, c, d in np.ndindex(3, 3, 3, 3):
        shifted = padded[:, :, a : a + 4, b : b + 5, c : c + 5 : 2, d : d + 3 : 2]
        expected += torch.einsum("nihwuv,oi->nohwuv", shifted, dense[:, :, a, b, c, d])
    expected += (layer.conv1.bias + layer.conv2.bias)[:, None, None, None, None]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.slow
def test_gradients_of_hsnet_in_bfloat16_are_those_of_float32() -> None:
    norms = []
    torch.manual_seed(0)
    net = HSNet("vgg16").train()
    e = EpisodeSampler([], size=32, images_per_episode=6, seed=3)[0]
    for enabled in (False, True):
        net.zero_grad()
        truth = e.masks[: e.shots]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            logits, _ = net.episode(e.images, truth * e.labelled, (1 - truth) * e.labelled)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), e.masks[e.shots :]).backward()
        squares = [p.grad.square().sum() for p in net.hpn_learner.parameters() if p.grad is not None]
        norms.append(torch.stack(squares).sum().sqrt().item())
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def test_hsnet_votes() -> None:
    """Half of the votes of the pixel that has most make a pixel an object."""
    torch.manual_seed(0)
    made = SLIM["hsnet"]().eval()
    images, masks = discs(4, 64)
    with torch.inference_mode():
        pack = made.compile_support(images[:3], masks[:3], 1 - masks[:3])
        found = made(images[3:], pack) >= 0
        singles = [
            made(images[3:], made.compile_support(images[k : k + 1], masks[k : k + 1], 1 - masks[k : k + 1]))
            > 0
            for k in range(3)
        ]
    votes = torch.stack(singles).sum(0)
    assert torch.equal(found, votes / max(1, int(votes.max())) >= 0.5)

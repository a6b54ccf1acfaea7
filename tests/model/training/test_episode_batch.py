"""Training computes many episodes at once: each gets the answer that a job would give it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.networks import readouts
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.compact_encoder import TaskNorm
from fewscope.model.networks.texture_statistics import texture_statistics
from fewscope.model.training.episode_batch import EpisodeBatch, fit_classifiers, keys_kept, predict_episodes


def drawn(n: int, seed: int = 0) -> EpisodeBatch:
    sampler = EpisodeSampler([], size=64, seed=seed, alike=n)
    (batch,) = EpisodeBatch.grouped([sampler[i] for i in range(n)])
    return batch


def sides_of(batch: EpisodeBatch) -> torch.Tensor:
    """(E, K, 2, S, S): foreground and background of the supports."""
    truth, labelled = batch.masks[:, : batch.shots].float(), batch.labelled.float()
    return torch.cat([truth * labelled, (1 - truth) * labelled], dim=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_an_episode_of_many_is_answered_as_a_job_answers(seed: int) -> None:
    torch.manual_seed(seed)
    net = CompactNet("S").eval()
    for module in net.modules():
        if isinstance(module, TaskNorm):  # its own support set alone: what others look like is another test
            torch.nn.init.constant_(module.share, 50.0)
    batch = drawn(3, seed)
    images, sides, k = batch.images.float() / 255, sides_of(batch), batch.shots
    statistics = texture_statistics(images.flatten(0, 1)).unflatten(0, (3, -1))
    texture = fit_classifiers(images[:, :k], statistics[:, :k], sides)
    with torch.inference_mode():
        answers = predict_episodes(net, batch, texture=texture)[0].unflatten(0, (3, -1))
        for e, answer in enumerate(answers):
            settled = net.adapt_statistics(images[e, :k])
            pack = settled.compile_support(
                images[e, :k], sides[e, :, :1], sides[e, :, 1:], texture.of_episode(e)
            )
            torch.testing.assert_close(answer, settled(images[e, k:], pack), atol=1e-4, rtol=1e-4)


def test_norms_mix_what_is_usual_with_what_the_support_set_looks_like() -> None:
    norm = TaskNorm(2)
    torch.nn.init.constant_(norm.share, -1.0)
    x = torch.randn(3 * 4, 2, 8, 8) * 3 + torch.arange(3).repeat_interleave(4)[:, None, None, None]
    together = norm.forward_episodes(x, n_episodes=3, shots=2).unflatten(0, (3, -1))
    supports = x.unflatten(0, (3, -1))[:, :2]
    usual = TaskNorm(2).eval()
    usual.load_state_dict(norm.state_dict())
    variance, mean = torch.var_mean(supports.transpose(1, 2).flatten(2), dim=2, correction=0)
    for e in range(3):
        usual.running_mean.copy_(mean.mean(0))
        usual.running_var.copy_(variance.mean(0) + mean.var(0, correction=0))
        usual.adapt_statistics(supports[e])
        torch.testing.assert_close(together[e], usual(x.unflatten(0, (3, -1))[e]), atol=1e-5, rtol=1e-5)


def test_the_same_support_pixels_are_kept() -> None:
    batch = drawn(4, 2)
    for stride in (4, 8, 16):
        shares = F.avg_pool2d(sides_of(batch).flatten(0, 1), stride).unflatten(0, (4, -1))
        foreground, background = (shares[:, :, side].flatten(1) for side in (0, 1))
        for n_max in (7, 50, 512):
            for kept, fg, bg in zip(
                keys_kept(foreground, background, n_max), foreground, background, strict=True
            ):
                expected = readouts.select_keys(fg, bg, n_max).sort().values
                assert torch.equal(torch.nonzero(kept).flatten(), expected)


@pytest.mark.slow
def test_episodes_of_a_step_have_the_same_number_of_shots() -> None:
    sampler = EpisodeSampler([], size=32, alike=3)
    shots = [sampler[i].shots for i in range(30)]
    assert all(len(set(shots[i : i + 3])) == 1 for i in range(0, 30, 3))
    assert len(set(shots)) > 2


def test_episodes_of_different_shape_are_not_mixed() -> None:
    episodes = [EpisodeSampler([], size=32, seed=seed)[0] for seed in range(6)]
    batches = EpisodeBatch.grouped(episodes)
    assert sum(map(len, batches)) == 6
    assert len(batches) == len({e.shots for e in episodes}) > 1
    for e in (e for batch in batches for e in batch.episodes()):
        original = min(
            episodes,
            key=lambda other: float((other.images - e.images).abs().max()) if other.shots == e.shots else 9.0,
        )
        torch.testing.assert_close(e.images, original.images, atol=0.5 / 255 + 1e-6, rtol=0)
        assert torch.equal(e.masks, original.masks)
        assert torch.equal(e.labelled, original.labelled)
        assert (e.depths is None) == (original.depths is None)

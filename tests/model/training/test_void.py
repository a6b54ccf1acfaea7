"""Void pixels, such as PASCAL's outlines, are neither object nor background to training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fewscope.model.episodes.category import Category
from fewscope.model.episodes.fss1000 import PaperEpisodes
from fewscope.model.episodes.sampler import EpisodeSampler, EpisodeSource
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.names import LOSSES
from fewscope.model.networks.panet import PANet
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.objectives import objective_of
from fewscope.model.training.validation import ValidationClasses
from tests.helpers import slim

pytestmark = pytest.mark.usefixtures("quick_texture")


def outlined(under_void: bool) -> Category:
    """Pictures of a square whose outline, 8 px wide, is void; the masks have `under_void` there."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 90, (8, 3, 224, 224), dtype=torch.uint8, generator=generator)
    void = torch.zeros(8, 224, 224, dtype=torch.bool)
    void[:, 60:160, 50:170] = True
    masks = torch.zeros_like(void)
    masks[:, 68:152, 58:162] = True
    void &= ~masks
    images += 120 * masks[:, None].to(torch.uint8)
    return Category("outlined", "", images, masks | (void & under_void), None, void)


def episodes_of(category: Category) -> EpisodeSource:
    return PaperEpisodes([category], size=64, shots=3, queries=2)


@pytest.mark.parametrize("family", ["compact", "relation", "panet"])
def test_what_a_mask_has_under_void_changes_no_loss(family: str) -> None:
    torch.manual_seed(0)
    net = {
        "compact": lambda: CompactNet("S"),
        "relation": lambda: slim.relation_network("paper"),
        "panet": lambda: PANet(widths=(4, 4, 8, 8, 8)),
    }[family]().eval()
    found = []
    for under_void in (False, True):
        source = episodes_of(outlined(under_void))
        batches = EpisodeBatch.grouped([source[0], source[1]])
        found.append([objective_of(net, loss)(batches) for loss in LOSSES])
    for (loss, iou), (other_loss, other_iou) in zip(*found, strict=True):
        assert torch.equal(loss, other_loss)
        assert torch.equal(iou, other_iou)
    everywhere = [
        replace(source[i], known=None, labelled=torch.ones_like(source[i].labelled)) for i in range(2)
    ]
    as_object, _ = objective_of(net, "bce")(EpisodeBatch.grouped(everywhere))
    assert not torch.equal(as_object, found[0][0][0])  # the outline would have counted


def test_views_of_an_augmented_episode_know_where_the_outline_is() -> None:
    """Object, outline and background stay apart, and the outline covers what it covers of the pictures."""
    sampler = EpisodeSampler([outlined(False)], size=96, seed=1, mix={"natural": 1.0})
    share = []
    for i in range(12):
        episode = sampler[i]
        assert episode.known is not None
        assert episode.known.shape == episode.masks[episode.shots :].shape
        share.append(float((episode.known == 0).float().mean()))
    assert 0 < sum(share) / len(share) < 0.3
    assert (
        EpisodeSampler([replace(outlined(False), void=None)], size=96, mix={"natural": 1.0})[0].known is None
    )


def test_episodes_with_and_without_void_make_one_batch() -> None:
    source = episodes_of(outlined(False))
    (batch,) = EpisodeBatch.grouped([source[0], replace(source[1], known=None)])
    first, second = batch.episodes()
    assert first.known is not None
    assert second.known is not None
    assert torch.equal(first.known, source[0].known)
    assert second.known.all()


def test_validation_does_not_count_void(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction that is right but for the outline scores 1."""

    def all_but_background(_net: object, episode: object, *_: object, **__: object) -> torch.Tensor:
        return torch.maximum(episode.masks[episode.shots :], 1 - episode.known)  # type: ignore[attr-defined]

    monkeypatch.setattr("fewscope.model.training.validation.predict_episode", all_but_background)
    classes = ValidationClasses([outlined(False)], 224)
    assert classes.score(torch.nn.Identity(), torch.device("cpu"), bf16=False) == 1.0  # type: ignore[arg-type]

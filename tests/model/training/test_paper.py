"""Training the paper's way: its episodes, its loss, its learning rate."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from fewscope.model.episodes.fss1000 import PaperEpisodes
from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.objectives import RelationObjective
from fewscope.model.training.optimisation import (
    episode_source,
    optimiser_of,
    schedule_of,
)
from fewscope.model.training.recipes import recipe
from tests.helpers import slim
from tests.helpers.episodes import one_class


def test_the_papers_episodes_are_ten_different_pictures_of_one_class_as_they_are() -> None:
    corpus = one_class()
    for i in range(3):
        episode = PaperEpisodes(corpus, seed=1)[i]
        again = PaperEpisodes(corpus, seed=1)[i]
        assert torch.equal(episode.images, again.images)
        assert (episode.shots, len(episode.images)) == (5, 10)
        shown = (episode.images * 255).round().to(torch.uint8)
        order = shown[:, 0, 0, 0].long()  # the grey is the number of the picture
        assert sorted(order.tolist()) == list(range(10))
        assert torch.equal(shown, corpus[0].images[order])
        assert torch.equal(episode.masks[:, 0] > 0, corpus[0].masks[order])
    assert not torch.equal(PaperEpisodes(corpus, seed=1)[0].images, PaperEpisodes(corpus, seed=1)[1].images)


def test_domains_are_balanced_however_few_their_classes() -> None:
    classes = [replace(one_class()[0], name=f"n{i}", domain="natural") for i in range(8)]
    classes += [
        replace(one_class()[0], name="m", domain="micro"),
        replace(one_class()[0], name="s", domain="sat"),
    ]
    config = replace(recipe("modern", "canet"), augmented=False, crop=32)

    def drawn(balance: bool) -> Counter[str]:
        source = episode_source(replace(config, balance_domains=balance), classes, 0)
        return Counter(source[i].name for i in range(300))

    even, fair = drawn(False), drawn(True)
    assert len(even) == len(fair) == 10
    assert all(15 <= n <= 50 for n in even.values())  # 30 of each class
    assert 75 <= fair["m"] <= 125
    assert 75 <= fair["s"] <= 125


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_loss_of_a_relation_network_is_that_of_its_answers(variant: str) -> None:
    """An episode at once, as training has it, gives what the network says with a compiled support set."""
    torch.manual_seed(0)
    net = slim.relation_network(variant).eval()
    batches = EpisodeBatch.grouped([EpisodeSampler([], size=64, seed=3)[i] for i in range(3)])
    loss, _ = RelationObjective(net, "bce")(batches)
    losses = []
    for e in (e for batch in batches for e in batch.episodes()):
        support = e.masks[: e.shots] * e.labelled
        pack = net.compile_support(e.images[: e.shots], support, 1 - support)
        probability = torch.sigmoid(net(e.images[e.shots :], pack))
        losses.append(torch.nn.functional.binary_cross_entropy(probability, e.masks[e.shots :]))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_the_papers_learning_rate_is_halved_every_50000_episodes() -> None:
    config = replace(recipe("paper", "vgg16-paper"), episodes_per_step=12_500)
    net = torch.nn.Linear(2, 2)
    optimiser = optimiser_of(config, net)
    schedule = schedule_of(config, optimiser)
    rates = []
    for _ in range(9):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates == [1e-3] * 4 + [5e-4] * 4 + [2.5e-4]

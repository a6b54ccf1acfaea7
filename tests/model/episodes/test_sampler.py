"""Episodes are reproducible, and of every kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.model.episodes.category import load_categories
from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.episodes.synthetic import Blobs, LabelField, Rivers
from fewscope.model.episodes.tessellations import Cells, Parcels, random_task


def make_corpus(root: Path, classes: int = 2, n: int = 3) -> None:
    rng = np.random.default_rng(0)
    for c in range(classes):
        folder = root / f"class's {c}"
        folder.mkdir(parents=True)
        for k in range(1, n + 1):
            mask = np.zeros((224, 224), np.uint8)
            mask[50 : 120 + 5 * k, 60:150] = 255
            image = rng.integers(0, 90, (224, 224, 3), dtype=np.uint8) + (mask // 2)[..., None]
            Image.fromarray(image).save(folder / f"{k}.jpg")
            Image.fromarray(mask).save(folder / f"{k}.png")


def test_episode_i_is_the_same_in_every_run(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    corpus = load_categories(ClassFolders(tmp_path))
    for i in range(6):
        a, b = EpisodeSampler(corpus, size=64, seed=5)[i], EpisodeSampler(corpus, size=64, seed=5)[i]
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.masks, b.masks)
        assert 1 <= a.shots <= 5
        assert a.images.shape == (8, 3, 64, 64)
        assert 0 <= a.images.min() <= a.images.max() <= 1
        assert set(a.masks.unique().tolist()) <= {0.0, 1.0}
    c = EpisodeSampler(corpus, size=64, seed=6)[0]
    assert not torch.equal(c.images, EpisodeSampler(corpus, size=64, seed=5)[0].images)


@pytest.mark.parametrize("kind", [Blobs, LabelField, Rivers, Cells, Parcels])
def test_synthetic_tasks_share_their_look_and_differ_in_shape(kind: type) -> None:
    generator = torch.Generator().manual_seed(2)
    task = kind(generator)
    one, other = task.draw(96, generator), task.draw(96, generator)
    assert one.image.shape == (3, 96, 96)
    assert one.mask.dtype == torch.bool
    assert not torch.equal(one.mask, other.mask)
    assert 0 < one.mask.float().mean() < 1


def test_all_generators_are_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {type(random_task(generator)) for _ in range(60)} == {Blobs, LabelField, Rivers, Cells, Parcels}

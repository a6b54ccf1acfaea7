"""Episodes and training: reproducible, resumable, licensed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.compact import CompactNet
from model.corpus import load_corpus
from model.episodes import EpisodeSampler
from model.synthetic import Blobs, LabelField, Rivers, random_task
from model.train import TrainConfig, train


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
    corpus = load_corpus(tmp_path)
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


@pytest.mark.parametrize("kind", [Blobs, LabelField, Rivers])
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
    assert {type(random_task(generator)) for _ in range(40)} == {Blobs, LabelField, Rivers}


def test_training_learns_and_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = TrainConfig(steps=6, episodes_per_step=1, crop=48, warmup=2, bf16=False, learning_rate=1e-3)
    whole = train(config, [], tmp_path / "whole", loader_workers=0, report_every=3)

    class Killed(Exception):
        pass

    def die(step: int) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(config, [], tmp_path / "twice", loader_workers=0, report_every=3, on_step=die)
    again = train(config, [], tmp_path / "twice", loader_workers=0, report_every=3)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rows = [json.loads(line) for line in (tmp_path / "twice" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    start = CompactNet("S").state_dict()["encoder.blocks.0.0.weight"]
    assert not torch.equal(start, whole.state_dict()["encoder.blocks.0.0.weight"])


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(steps=1, episodes_per_step=1, crop=32, warmup=1, bf16=False)
    train(config, [], tmp_path, loader_workers=0)
    with pytest.raises(ValueError, match="another run"):
        train(TrainConfig(steps=2, episodes_per_step=1, crop=32, bf16=False), [], tmp_path, loader_workers=0)

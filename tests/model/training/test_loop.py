"""Training: reproducible, resumable, licensed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewscope.jobs.train
import fewscope.model.training.loop
from benchmarks import training_speed
from fewscope.errors import ConfigError
from fewscope.model.episodes.protocol import sampled_episodes
from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.networks.registry import build_network
from fewscope.model.segmenter import load_segmenter
from fewscope.model.training.job import TrainingJob
from fewscope.model.training.loop import RunOptions, train
from fewscope.model.training.optimisation import (
    clip_gradients,
    episode_source,
    moving_average,
)
from fewscope.model.training.recipes import TrainConfig, recipe
from fewscope.model.training.validation import ValidationClasses
from fewscope.model.weights import load_weights
from fewscope.pipeline.execution.ray_training import train_on_ray
from tests.helpers import slim
from tests.helpers.episodes import arrays_of, one_class

pytestmark = pytest.mark.usefixtures("quick_texture")


QUICK = TrainConfig(steps=4, episodes_per_step=1, crop=32, warmup=2, bf16=False, learning_rate=1e-3)


PAPER = replace(
    recipe("paper", "vgg16-paper", "mse"), steps=4, images_per_episode=7, crop=32, halve_every=2, bf16=False
)


@pytest.fixture
def slim_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relation networks have few channels."""
    monkeypatch.setattr(fewscope.model.training.loop, "build_network", slim.build_network)


class Killed(Exception):
    pass


def rows_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("slim_vgg16")
@pytest.mark.parametrize("config", [QUICK, PAPER], ids=["compact", "vgg16"])
def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, and a log of the same rows, each once: also where the kill came between log and checkpoint."""
    options = RunOptions(report_every=2, validate_every=4, loader_workers=0)
    whole = train(config, [], tmp_path / "whole", options=options)
    save, saved = fewscope.model.training.loop._State.save, []

    def die(state: fewscope.model.training.loop._State, path: Path, run: dict[str, object]) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise Killed
        save(state, path, run)

    monkeypatch.setattr(fewscope.model.training.loop._State, "save", die)
    with pytest.raises(Killed):
        train(config, [], tmp_path / "twice", options=options)
    monkeypatch.setattr(fewscope.model.training.loop._State, "save", save)
    assert [row["step"] for row in rows_of(tmp_path / "twice")] == [2, 4]
    with (tmp_path / "twice" / "log.jsonl").open("a") as f:
        f.write('{"step": 1')  # and a line cut short
    again = train(config, [], tmp_path / "twice", options=options)

    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    curve, repeated = (
        [{k: v for k, v in row.items() if k != "s_per_step"} for row in rows_of(tmp_path / folder)]
        for folder in ("whole", "twice")
    )
    assert curve == repeated
    assert [row["step"] for row in curve] == [2, 4]


@pytest.mark.timeout(
    600
)  # Ray starts six processes that import torch or Ray, which a busy machine takes long for
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")  # of its own making
@pytest.mark.usefixtures("ray_here", "slim_vgg16")
def test_two_workers_go_on_where_one_process_stopped_and_do_the_same(tmp_path: Path) -> None:
    """Gradients are averaged, episodes shared without loss, and both workers end with the same network."""
    config = replace(PAPER, loss="bce", episodes_per_step=4)
    options = RunOptions(report_every=1, validate_every=4, loader_workers=0)
    train(config, [], tmp_path / "one", options=options)

    def stop(step: int) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        train(config, [], tmp_path / "two", options=options, on_step=stop)
    digests = train_on_ray(slim.SlimJob(config, tmp_path / "two", options=options), 2)
    assert len(digests) == 2
    assert len(set(digests)) == 1

    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["step"] for row in two] == [1, 2, 3, 4]
    for name, same in (("loss", 1e-5), ("gradient_norm", 1e-4)):  # step 3 starts from the same weights
        assert two[2][name] == pytest.approx(one[2][name], rel=same), name
    assert two[3]["loss"] == pytest.approx(one[3]["loss"], rel=1e-2)  # Adam makes steps of rounding errors
    assert (tmp_path / "two" / "weights.safetensors").exists()


def test_episodes_that_cannot_be_shared_evenly_are_refused_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give --episodes-per-step 6"):
        train_on_ray(TrainingJob(replace(QUICK, episodes_per_step=4), tmp_path), 3)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    options = RunOptions(1, 1, loader_workers=0)
    config = replace(QUICK, steps=1)
    train(config, [], tmp_path, options=options)
    with pytest.raises(ValueError, match=r"another run \(steps: 1 there, 2 now\)"):
        train(replace(config, steps=2), [], tmp_path, options=options)


@pytest.mark.slow
@pytest.mark.usefixtures("slim_vgg16")
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_a_relation_network_learns_the_papers_way(tmp_path: Path, loss: str) -> None:
    config = replace(recipe("paper", "vgg16-paper", loss), steps=40, crop=32, bf16=False)
    train(config, one_class(), tmp_path, options=RunOptions(10, 40, loader_workers=0))
    rows = rows_of(tmp_path)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["iou"] > 0.5


def test_real_classes_of_unknown_domains_keep_their_part_of_the_episodes() -> None:
    """FSS-1000 has no microscopy: its classes take the place of all real ones, whatever its super-categories are."""
    animals = [replace(one_class()[0], domain="Animals")]
    sampler = EpisodeSampler(animals, size=32)
    part = dict(zip(sampler.kinds, (sampler.weights / sampler.weights.sum()).tolist(), strict=True))
    assert part == pytest.approx({"natural": 0.52, "synthetic": 0.34, "appearance": 0.10, "superpixel": 0.04})


@pytest.mark.parametrize(("n_steps", "least"), [(20, 0.7), (100, 0.95)])
def test_the_average_of_a_short_run_forgets_its_initial_weights(n_steps: int, least: float) -> None:
    net = torch.nn.Linear(1, 1)
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=moving_average(0.998))
    for weight in (0.0, *[1.0] * n_steps):
        torch.nn.init.constant_(net.weight, weight)
        mean.update_parameters(net)
    assert least < mean.module.weight.item() <= 1
    late = [torch.zeros(1)]
    moving_average(0.998)(late, [torch.ones(1)], 10_000)
    assert late[0].item() == pytest.approx(0.002)


def test_encoder_and_decoder_are_clipped_apart_with_the_squared_error_only() -> None:
    for loss, clipped in (("mse", True), ("bce", False)):
        net = slim.relation_network("paper")
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        n_encoder = sum(p.numel() for p in net.encoder.parameters())
        n_all = sum(p.numel() for p in net.parameters())
        norm = clip_gradients(recipe("paper", "vgg16-paper", loss), net)
        assert float(norm) == pytest.approx(n_all**0.5)  # that of before
        after = sum(float(p.grad.square().sum()) for p in net.encoder.parameters()) ** 0.5
        assert after == pytest.approx(0.5 if clipped else n_encoder**0.5, rel=1e-4)


@pytest.mark.slow
def test_validation_scores_as_evaluation_does_and_keeps_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three examinations the second was the best: its weights are in weights-best, and give its score again."""
    classes = one_class()
    scores = iter([0.2, 0.6, 0.4])
    kept = []

    def score(self: ValidationClasses, net: torch.nn.Module, *_: object, **__: object) -> float:
        kept.append(net.head.weight.clone())
        return next(scores)

    with monkeypatch.context() as patch:
        patch.setattr(ValidationClasses, "score", score)
        config = replace(QUICK, steps=3, average=None)
        train(config, [], tmp_path, validation=classes, options=RunOptions(1, 1, loader_workers=0))
    assert [row["validation_iou"] for row in rows_of(tmp_path)] == [0.2, 0.6, 0.4]
    assert torch.equal(load_weights(tmp_path / "weights-best.safetensors")["head.weight"], kept[1])
    assert not torch.equal(kept[1], kept[2])

    segmenter = load_segmenter(device="cpu", dtype=torch.float32)
    (draw,) = sampled_episodes("squares", 10, 5, 1, 5)
    images, labels = arrays_of(classes[0])
    support, query = list(draw.support), list(draw.query)
    found = segmenter.predict(images[query], segmenter.encode(images[support], labels[support]))[:, 0] >= 0.5
    truth = labels[query] > 0
    ious = [(f & t).sum() / (f | t).sum() for f, t in zip(found, truth, strict=True)]
    judged = ValidationClasses(classes, 224).score(segmenter._exact, torch.device("cpu"), bf16=False)
    assert judged == pytest.approx(np.mean(ious), abs=1e-3)


@pytest.mark.slow
def test_weights_to_start_from_are_those_of_the_network(tmp_path: Path) -> None:
    other = build_network("compact-L").state_dict()
    with pytest.raises(ValueError, match="another network than compact-S"):
        train(QUICK, [], tmp_path, initial=other)
    torch.manual_seed(5)
    own = {k: v for k, v in build_network("compact-S").state_dict().items() if not k.startswith("depth_head")}
    config = replace(QUICK, steps=1, learning_rate=1e-30)
    net = train(config, [], tmp_path, initial=own, options=RunOptions(1, 1, loader_workers=0))
    assert torch.equal(net.head.weight, own["head.weight"])


@pytest.mark.slow
def test_training_from_nothing_gives_weights_that_segment(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """The command, with no data at all; and once more, which has nothing left to do."""
    flags = [
        "--synthetic-only",
        "--steps",
        "2",
        "--crop",
        "32",
        "--episodes-per-step",
        "1",
        "--report-every",
        "1",
    ]
    flags += ["--validate-every", "2", "--loader-workers", "0", "--out", str(tmp_path)]
    for _ in range(2):
        assert fewscope.jobs.train.main(flags) == 0
        said = capfd.readouterr()
        assert said.out.splitlines()[-1] == str(tmp_path / "weights.safetensors")
        assert [row["step"] for row in rows_of(tmp_path)] == [1, 2]
    segmenter = load_segmenter("compact", str(tmp_path / "weights.safetensors"), device="cpu")
    images, labels = arrays_of(one_class()[0])
    assert segmenter.predict(images[3:4], segmenter.encode(images[:3], labels[:3])).shape == (1, 1, 224, 224)
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.size == (6 * (32 + 3) + 3, 6 * (32 + 3) + 3)  # six episodes, six pictures each


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--synthetic-only --crop 100", "crop 100 px is not a multiple of 16"),
        ("--synthetic-only --validate val", "--validate val needs --data"),
        ("--synthetic-only --imagenet", "no ImageNet weights for compact-S"),
        ("--data nowhere", "nowhere is not a folder"),
        ("--synthetic-only --report-every 3 --validate-every 4", "validate_every 4 is not a multiple"),
        ("--synthetic-only --initial-weights nothing.safetensors", "no such weights file"),
    ],
)
def test_bad_input_is_one_line(
    flags: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert fewscope.jobs.train.main([*flags.split(), "--out", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_commands_in_help_and_pages_are_runs() -> None:
    root = Path(__file__).resolve().parents[3]
    pages = [
        fewscope.jobs.train.DESCRIPTION.replace("%(prog)s", fewscope.jobs.train.PROG),
        *((root / "docs" / f"{n}.md").read_text() for n in ("training", "model-card")),
    ]
    shown = [
        line
        for page in pages
        for line in re.findall(r"python jobs/train\.py (.*)", page.replace("\\\n", " "))
    ]
    assert len(shown) >= 10
    for line in shown:
        assert fewscope.jobs.train.job_of(fewscope.jobs.train.parse(line.split())).config.steps > 0, line


def test_without_augmentation_a_recipe_trains_on_whole_pictures() -> None:
    def config(line: str) -> TrainConfig:
        asked = ["--synthetic-only", "--out", "out", "--network", "canet", *line.split()]
        return fewscope.jobs.train.job_of(fewscope.jobs.train.parse(asked)).config

    plain = config("--no-augmentation")
    assert plain == replace(config(""), augmented=False)
    episode = episode_source(plain, one_class(), 0)[0]
    assert (episode.shots, len(episode.images)) == (5, 8)
    assert config("--no-augmentation --shots 1").images_per_episode == 4
    assert config("--no-augmentation --recipe paper") == config("--recipe paper")
    assert config("--no-augmentation --balance-domains") == replace(plain, balance_domains=True)
    with pytest.raises(ConfigError, match="--no-augmentation"):
        config("--balance-domains")


@pytest.mark.slow
def test_the_speed_of_training_is_measured_beside_a_baseline(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = training_speed.recipe
    monkeypatch.setattr(training_speed, "recipe", lambda *names: replace(of(*names), episodes_per_step=1))
    assert (
        training_speed.main(["--minutes", "10", "--steps", "1", "--networks", "compact-S", "compact-S"]) == 0
    )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["ratio"] == 1
    assert second["ratio"] == pytest.approx(second["s_per_step"] / first["s_per_step"], rel=1e-2)
    assert first["steps_in_the_time"] == pytest.approx(600 / first["s_per_step"], rel=1e-2, abs=1)

"""Episodes and training: reproducible, resumable, licensed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import fewscope.jobs.train
import fewscope.model.training.loop
from benchmarks import training_speed
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.errors import WeightsError
from fewscope.model.episodes.category import Category, load_categories
from fewscope.model.episodes.fss1000 import PaperEpisodes
from fewscope.model.episodes.protocol import sampled_episodes
from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.episodes.synthetic import Blobs, LabelField, Rivers
from fewscope.model.episodes.tessellations import Cells, Parcels, random_task
from fewscope.model.networks import imagenet
from fewscope.model.networks.encoders import ENCODERS
from fewscope.model.networks.registry import build_network
from fewscope.model.segmenter import load_segmenter
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.job import TrainingJob
from fewscope.model.training.loop import RunOptions, train
from fewscope.model.training.objectives import RelationObjective
from fewscope.model.training.optimisation import (
    clip_gradients,
    moving_average,
    optimiser_of,
    schedule_of,
)
from fewscope.model.training.recipes import TrainConfig, recipe
from fewscope.model.training.validation import ValidationClasses
from fewscope.model.weights import load_weights
from fewscope.pipeline.execution.ray_training import train_on_ray
from tests.helpers import slim

pytestmark = pytest.mark.usefixtures("quick_texture")


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


def one_class() -> list[Category]:
    """Ten pictures, each of its own grey, with a brighter square."""
    images = (
        torch.zeros(10, 3, 224, 224, dtype=torch.uint8)
        + torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    )
    masks = torch.zeros(10, 224, 224, dtype=torch.bool)
    for i in range(10):
        masks[i, 20 + 8 * i : 120 + 8 * i, 30:190] = True
    return [Category("squares", "", images + 150 * masks[:, None].to(torch.uint8), masks)]


def arrays_of(category: Category) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 224, 224, 3) and labels (N, 224, 224), uint8, as `Segmenter` takes them."""
    images = np.ascontiguousarray(category.images.permute(0, 2, 3, 1).numpy())
    return images, category.masks.numpy().astype(np.uint8)


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


def test_real_classes_of_unknown_domains_keep_their_part_of_the_episodes() -> None:
    """FSS-1000 has no microscopy: its classes take the place of all real ones, whatever its super-categories are."""
    animals = [replace(one_class()[0], domain="Animals")]
    sampler = EpisodeSampler(animals, size=32)
    part = dict(zip(sampler.kinds, (sampler.weights / sampler.weights.sum()).tolist(), strict=True))
    assert part == pytest.approx({"natural": 0.52, "synthetic": 0.34, "appearance": 0.10, "superpixel": 0.04})


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
@pytest.mark.parametrize("name", ["vgg16", "resnet101", "inception"])
def test_imagenet_weights_see_what_they_were_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our [0, 1] pictures, whatever the mask, give the maps that torchvision's network has of standardised ones."""
    torch.manual_seed(0)
    built = {
        "vgg16": lambda: torchvision.models.vgg16_bn(weights=None),
        "resnet101": lambda: torchvision.models.resnet101(weights=None),
        "inception": lambda: torchvision.models.inception_v3(
            weights=None, init_weights=False, transform_input=True
        ),
    }
    original = built[name]().eval()
    weights = original.state_dict()
    for key, tensor in weights.items():
        if key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    monkeypatch.setattr(imagenet.WeightsEnum, "get_state_dict", lambda self, **_: weights)
    encoder = ENCODERS[name]().eval()
    imagenet.load_imagenet(encoder, name)

    image, mask = torch.rand(1, 3, 80, 80), torch.rand(1, 1, 80, 80)
    standardised = torchvision.transforms.functional.normalize(image, imagenet.MEAN, imagenet.STD)
    first = {  # the part of torchvision's network that makes our first tap
        "vgg16": lambda x: original.features[:6](x),
        "resnet101": lambda x: original.relu(original.bn1(original.conv1(x))),
        "inception": lambda x: original.Conv2d_2b_3x3(
            original.Conv2d_2a_3x3(original.Conv2d_1a_3x3(original._transform_input(x)))
        ),
    }
    with torch.inference_mode():
        tap = next(t for t in encoder(torch.cat([image, mask], 1))[1] if t.shape[1])
        inside = (
            ...,
            slice(4, -4),
            slice(4, -4),
        )  # at the rim, our padding is black and theirs the mean colour
        torch.testing.assert_close(tap[inside], first[name](standardised)[inside], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_imagenet_weights_without_a_network_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object, **_: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(imagenet.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(
        WeightsError, match=r"vgg16 cannot be downloaded.*without --imagenet, or put vgg16_bn-"
    ):
        imagenet.load_imagenet(ENCODERS["vgg16"](), "vgg16")


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


@pytest.mark.slow
def test_the_speed_of_training_is_measured_beside_a_baseline(capsys: pytest.CaptureFixture) -> None:
    assert (
        training_speed.main(["--minutes", "10", "--steps", "1", "--networks", "compact-S", "compact-S"]) == 0
    )
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["ratio"] == 1
    assert second["ratio"] == pytest.approx(second["s_per_step"] / first["s_per_step"], rel=1e-2)
    assert first["steps_in_the_time"] == pytest.approx(600 / first["s_per_step"], rel=1e-2, abs=1)

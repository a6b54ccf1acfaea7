"""The benchmarks run, at tiny sizes, and say what they found as JSON lines. No times are judged here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from benchmarks import (
    bench_engine,
    bench_labels,
    bench_memory,
    bench_repeats,
    bench_support,
    bench_tile,
    distil_backbone,
    new_layers,
    synthetic,
    teach_one_look,
)
from benchmarks.records import MemoryWatch, Process
from fewscope.connectors.open import open_source
from fewscope.model.networks.canet import CANet
from fewscope.model.networks.guided import GuidedNet
from fewscope.model.networks.oslsm import OSLSM
from fewscope.model.segmenter import load_segmenter
from fewscope.model.training.recipes import recipe
from fewscope.model.weights import SHIPPED, checksum
from tests.helpers import slim
from tests.helpers.discs import patches
from tests.helpers.episodes import one_class

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))


def lines(text: str) -> list[dict]:
    """Standard output as it is meant to be read: every line is JSON, with hardware and versions."""
    found = [json.loads(line) for line in text.splitlines()]
    assert found
    for line in found:
        assert line["hardware"]["cpu"]
        assert line["hardware"]["cores"] >= 1
        assert "numpy" in line["versions"]
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_a_command(script, capsys):
    module = sys.modules[f"benchmarks.{script.removesuffix('.py')}"]  # imported above
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python benchmarks/{script}" in capsys.readouterr().out


@pytest.mark.slow
def test_engine(capsys):
    arguments = "--engines local --side 500 --unit 256 --shard 256 --tile-ms 0"
    assert bench_engine.main(arguments.split()) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["tiles"] == 9  # 3 x 3: 0, 192, 276
    assert line["units"] == 4
    assert line["tiles_run"] == 9  # each unit touches 2 x 2, and finds what another one has predicted
    assert line["ratio"] > 0
    assert line["count"] > 0


def test_parts_of_the_plain_loop_are_the_whole(tmp_path):
    slide = tmp_path / "slide.tif"
    synthetic.write_repeats(slide, synthetic.tissue(256), 900, 500)
    whole = bench_engine.plain_loop(str(slide), 0)
    assert whole == 5 * 3
    assert sum(bench_engine.plain_loop(str(slide), 0, part, 2) for part in range(2)) == whole


def test_labels(capsys):
    assert bench_labels.main(["--side", "300", "--unit", "128", "--rounds", "1"]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["ours_equals_scipy"]
    assert line["dask_image_equals_scipy"]
    assert line["units"] == 9


def test_same_sees_joined_and_parted_labels():
    truth = np.array([[1, 0, 2], [0, 0, 2]])
    assert bench_labels.same(np.array([[7, 0, 3], [0, 0, 3]]), truth, 2)
    assert not bench_labels.same(np.array([[3, 0, 3], [0, 0, 3]]), truth, 2)
    assert not bench_labels.same(np.array([[1, 0, 2], [0, 0, 3]]), truth, 2)
    assert not bench_labels.same(np.array([[1, 2, 2], [0, 0, 2]]), truth, 2)


@pytest.fixture
def jobs_in_this_process(monkeypatch):
    """A program of its own takes seconds to start; what the benchmarks do with what it tells is the same."""

    def watch(engine, options, workers, model="fake"):
        told = bench_memory.job(engine, options, workers, model)
        seen = Process(
            1, 0, "python", 150.0, [(told["start"]["clock"], 100.0), (told["stages"][-1][1], 150.0)]
        )
        by_stage = bench_memory.by_stage(seen, told["start"]["clock"], told["stages"])
        sizes = {"driver_mb": seen.peak_mb, "driver_start_mb": 50.0, "worker_mb": None, "task_mb": None}
        return told | sizes | {"driver_by_stage_mb": by_stage}

    monkeypatch.setattr(bench_memory, "watch", watch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slide", "raster"])
@pytest.mark.usefixtures("jobs_in_this_process")
def test_memory(capsys, kind):
    sides = ["--sides", "300", "600", "--unit", "256"]
    assert bench_memory.main(["--kind", kind, "--engines", "local", *sides]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert ("map" in line["large"]["driver_by_stage_mb"]) == (kind == "raster")
    assert line["driver_ratio"] == line["driver_ratio_above_start"] == 1
    stages = line["large"]["driver_by_stage_mb"]
    assert next(iter(stages)) == "prepare"
    assert stages["prepare"] == 100
    assert max(stages.values()) == stages["outlines and pictures"] == 150


def test_a_peak_is_seen_in_a_child_process_after_it_is_gone():
    grandchild = "import time; held = bytearray(300_000_000); del held; time.sleep(1)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    with subprocess.Popen([sys.executable, "-c", child]) as program, MemoryWatch(program.pid, 0.05) as seen:
        assert program.wait() == 0
    peaks = sorted(process.peak_mb for process in seen.processes.values())
    assert peaks[-1] > 300
    assert seen.processes[program.pid].peak_mb < 100


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_in_this_process")
def test_repeats(capsys):
    assert bench_repeats.main(["--side", "1920", "--period", "384", "--unit", "512"]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["count_is_right"]
    assert line["count"] == line["expected"] > 0


def test_the_polynomial_of_repeats_counts_what_scipy_counts():
    picture = synthetic.tissue(192)
    counts = {k: bench_repeats.scipy_count(picture, k) for k in bench_repeats.SMALL}
    assert bench_repeats.expected(counts, 9) == bench_repeats.scipy_count(picture, 9)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_support(capsys, monkeypatch):
    monkeypatch.setattr(bench_support, "BATCH", 2)
    arguments = "--models compact --tiles 1 --shots 2 --dtypes float32 --threads 1"
    assert bench_support.main(arguments.split()) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["ratio"] > 0
    assert line["model"] == "compact"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_tile(capsys, monkeypatch):
    monkeypatch.setattr(bench_tile, "RelationNet", slim.relation_network)
    assert bench_tile.main(["--dtype", "float32", "--rounds", "1", "--shots", "2"]) == 0
    (line,) = lines(capsys.readouterr().out)
    assert line["ratio"] == pytest.approx(line["vgg16_ms_per_tile"] / line["ms_per_tile"], rel=1e-3)
    assert (line["dtype"], line["batch"]) == ("float32", 4)


def test_made_up_slides_repeat_exactly(tmp_path):
    slide = tmp_path / "slide.tif"
    picture = synthetic.tissue(256)
    synthetic.write_repeats(slide, picture, 600, 700, compress="deflate")
    image, _ = open_source(str(slide)).read(bench_repeats.Window(0, 0, 700, 600))
    np.testing.assert_array_equal(image, np.tile(picture, (3, 3, 1))[:600, :700])


def test_the_fake_model_is_the_colour_rule():
    picture = synthetic.tissue(256)
    model = synthetic.FakeModel()
    probability = model.predict(picture[None, :224, :224], None)[0, 0]
    np.testing.assert_array_equal(probability >= 0.5, synthetic.is_object(picture)[:224, :224])
    stored = probability * np.float32(255)
    np.testing.assert_array_equal(stored, np.rint(stored))
    n = ndimage.label(synthetic.is_object(picture))[1]
    assert 0.4 < n / (picture[..., 0].size / synthetic.PX_PER_NUCLEUS) <= 1  # some nuclei touch


def test_teaching_ends_with_a_lower_rate():
    rates = [distil_backbone.rate_of(step, 1000, 100) for step in range(1100)]
    assert max(rates) == rates[distil_backbone.WARMUP - 1] > 0.9 * distil_backbone.RATE
    assert rates[999] < 1e-5 * distil_backbone.RATE
    assert rates[1000] == distil_backbone.SETTLING_RATE > rates[1050] > rates[1099] > 0


def test_pictures_that_are_varied_for_teaching_are_reproducible_pictures():
    pictures = torch.full((8, 3, 32, 32), 0.5)
    varied = distil_backbone.varied(pictures, 3)
    assert varied.shape == pictures.shape
    assert 0 <= varied.min() < varied.max() <= 1
    assert not torch.equal(varied, pictures)
    assert torch.equal(varied, distil_backbone.varied(pictures, 3))
    assert not torch.equal(varied, distil_backbone.varied(pictures, 4))


@pytest.fixture
def small_nets():
    """Small versions of the networks, whose last layers are not 0, as the authors of one start them."""
    torch.manual_seed(0)
    guided = GuidedNet(widths=(4, 4, 8, 8, 8), width=16).eval()
    guided.head.score.weight.data.normal_()
    oslsm = OSLSM(widths=(4, 4, 8, 8, 8), width=16, n_outputs=6, condition_side=64).eval()
    return {"guided": guided, "oslsm": oslsm, "canet": CANet(width=16, blocks=(1, 1, 1)).eval()}


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("canet", ("layer5", "layer55", "residule", "layer6", "layer7", "layer9")),
        ("guided", ("encoder.fc6", "head")),
        ("oslsm", ("conditioning.fc7", "conditioning.fc8", "segmentation.fc7")),
    ],
)
def test_new_layers_are_trained_on_the_features_of_the_backbone(monkeypatch, small_nets, name, new):
    """An episode of kept features gives what the network says to the pictures, and only new layers are trained."""
    monkeypatch.setattr(new_layers, "computes_bfloat16", lambda _device: False)
    net = small_nets[name]
    cut = new_layers.CUTS[name](net)
    config = replace(recipe("modern", name), augmented=False, steps=2)
    (category,) = one_class()
    kept = new_layers.keep_features(cut, category, 64, 10)
    torch.manual_seed(1)
    logits, truth = new_layers.episode(cut, kept, config)
    torch.manual_seed(1)
    drawn = torch.randperm(10)[:8]
    images, masks = new_layers.resized(category.images[drawn], category.masks[drawn], 64)
    expected, _ = net.episode(images, masks[:5], 1 - masks[:5])
    torch.testing.assert_close(logits, expected)
    assert torch.equal(truth, masks[5:])

    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    trained = new_layers.train_layers(cut, [[kept]], config).state_dict()
    changed = {name for name, tensor in trained.items() if not torch.equal(tensor, before[name])}
    assert {prefix for prefix in new if any(name.startswith(prefix) for name in changed)} == set(new)
    assert all(name.startswith(new) for name in changed), changed


def test_kept_features_are_read_from_their_file(tmp_path, small_nets):
    cut = new_layers.CUTS["guided"](small_nets["guided"])
    first = new_layers.keep_all(cut, one_class(), 64, 4, tmp_path / "kept.pt")
    small_nets["guided"].encoder.conv1_1.weight.data.zero_()
    again = new_layers.keep_all(cut, one_class(), 64, 4, tmp_path / "kept.pt")
    assert torch.equal(again["squares"][0][0], first["squares"][0][0])
    assert len(again["squares"][1]) == 4
    fresh = new_layers.keep_all(cut, one_class(), 64, 4, None)
    assert not torch.equal(fresh["squares"][0][0], first["squares"][0][0])


def test_one_look_is_taught_with_the_norms_of_a_job():
    """Maps of an episode equal those of the network whose statistics are adapted to the support set, as in a job."""
    net = teach_one_look.two_looks_network()
    images = torch.rand(7, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taught = net.encoder.forward_episodes(images, 1, 5)
        of_job = net.adapt_statistics(images[:5]).encoder(images)
    for stride, maps in of_job.items():
        torch.testing.assert_close(taught[stride], maps, rtol=1e-4, atol=1e-4)


def test_a_teacher_is_not_far_from_itself():
    logits = torch.linspace(-6, 6, 50)
    assert teach_one_look.divergence(logits, torch.sigmoid(logits)).abs().max() < 1e-6
    assert (teach_one_look.divergence(logits + 1, torch.sigmoid(logits)) > 0).all()


def write_classes(folder: Path) -> None:
    """Two training classes of fifteen pairs, in the layout of FSS-1000 with licences."""
    rows = ["class,k,licence"]
    for name, colour in (("dark", (90, 60, 140)), ("green", (60, 130, 70))):
        (folder / name).mkdir(parents=True)
        for k, (image, mask) in enumerate(zip(*patches(15, 0, colour), strict=True), start=1):
            Image.fromarray(image).save(folder / name / f"{k}.jpg")
            Image.fromarray(mask * 255).save(folder / name / f"{k}.png")
            rows.append(f"{name},{k},CC0")
    (folder / "pairs.csv").write_text("\n".join(rows))
    (folder / "splits").mkdir()
    (folder / "splits" / "train.txt").write_text("dark\ngreen\n")


@pytest.mark.slow
def test_one_look_is_taught_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    for name in ("KEPT_EVERY", "EPISODES", "QUERIES"):
        monkeypatch.setattr(teach_one_look, name, 1)
    write_classes(tmp_path / "data")
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert teach_one_look.main([*arguments, "--steps", "1"]) == 0
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert first["step"] == 1
    assert teach_one_look.main([*arguments, "--steps", "2"]) == 0
    assert lines(capsys.readouterr().out.splitlines()[-1])[0]["steps"] == 2
    second = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert second["step"] == 2
    assert second["seconds"] > first["seconds"]
    weights = tmp_path / "run" / "weights.safetensors"
    assert load_segmenter(weights=str(weights)).has_depth
    assert checksum(weights) != checksum(SHIPPED / "compact.safetensors")

"""The paper's tables: runs find their rows, figures follow their definitions, and what is missing has a command."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.errors import ConfigError, WeightsError
from fewscope.jobs import benchmark, evaluate, train
from fewscope.model.networks.registry import NETWORKS, build_network
from fewscope.model.weights import save_weights
from fewscope.pipeline.evaluation.benchmark_measure import (
    label_images,
    measure,
    mine_worst,
    spread_of_supports,
)
from fewscope.pipeline.evaluation.benchmark_page import Bars, Benchmark
from fewscope.pipeline.evaluation.benchmark_published import OF_FSS, TABLE_2, TABLE_3, TABLE_4
from fewscope.pipeline.evaluation.benchmark_runs import Run, find_runs
from fewscope.pipeline.evaluation.benchmark_tables import (
    fits,
    missing_methods,
    table_of_folds,
    table_of_methods,
    table_of_pretraining,
)
from fewscope.pipeline.evaluation.measurement_store import MeasurementStore
from fewscope.pipeline.evaluation.runner import EvaluationConfig
from tests.helpers.fakes import ByColour


def disks(name: str = "disks", n: int = 5, domain: str = "") -> ClassImages:
    """Pictures of a red disk on blue, each at another place."""
    images = np.zeros((n, 224, 224, 3), np.uint8)
    images[..., 2] = 200
    row, col = np.indices((224, 224))
    masks = np.stack([(row - 60 - 20 * i) ** 2 + (col - 50 - 20 * i) ** 2 < 30**2 for i in range(n)])
    images[masks] = (250, 30, 20)
    return ClassImages(name, domain, images, masks, None, tuple(map(str, range(n))))


class Share:
    """Finds the left part of the object, as wide as the first support's key number says; a stand-in with known IoU."""

    name = "share"

    def __init__(self, category: ClassImages, shares: np.ndarray) -> None:
        self._places = {image.tobytes(): i for i, image in enumerate(category.images)}
        self._masks, self._shares = category.masks, shares

    def encode(self, images: np.ndarray, labels: np.ndarray) -> list[int]:
        return [self._places[image.tobytes()] for image in images]

    def predict(self, tiles: np.ndarray, features: list[int]) -> np.ndarray:
        out = []
        for tile in tiles:
            i = self._places[tile.tobytes()]
            pixels = np.argwhere(self._masks[i])
            n = round(len(pixels) * max(self._shares[k, i] for k in features))
            mask = np.zeros((224, 224), np.float32)
            mask[tuple(pixels[:n].T)] = 1
            out.append(mask)
        return np.stack(out)[:, None]


def test_a_cell_has_the_mean_over_seeds_and_classes() -> None:
    model = ByColour()
    found = measure(
        lambda: iter([disks("a"), disks("b", 4), disks("small", 2)]),
        [model],
        EvaluationConfig(shots=(2,)),
        [1, 2],
    )
    (cell,) = found.values()
    assert list(found) == [(model.name, 2)]
    assert (cell.n_classes, cell.n_queries) == (2, 9)  # two images are too few
    assert cell.image_iou.value == cell.class_iou.value == 1
    assert cell.over_seeds == 0


def test_classes_with_too_few_images_are_named(caplog: pytest.LogCaptureFixture) -> None:
    few, many = disks("few", n=5), disks("many", n=6)
    cells = measure(lambda: iter([few, many]), [ByColour()], EvaluationConfig(shots=(5,)), [0])
    assert [cell.n_classes for cell in cells.values()] == [1]
    assert "few is left out: it has 5 images" in caplog.text
    with pytest.raises(ConfigError, match="no class has the 6 images that 5 supports and a query need"):
        measure(lambda: iter([few]), [ByColour()], EvaluationConfig(shots=(5,)), [0])


def test_the_best_and_the_worst_support_of_the_query_that_depends_most_on_it() -> None:
    category = disks(n=3)
    shares = np.array([[0, 0.5, 0.9], [0.5, 0, 0.3], [0.5, 0.6, 0]])
    spread = spread_of_supports(category, Share(category, shares))
    assert (spread.query, spread.best, spread.worst) == (2, 0, 1)
    assert spread.ious == pytest.approx((0.9, 0.3), abs=1e-3)
    assert spread.masks[0].sum() > spread.masks[1].sum()


def test_the_worst_queries_go_into_the_support_set_and_the_rest_is_compared() -> None:
    category = disks(n=6)
    shares = np.full((6, 6), 0.4)
    shares[:, [1, 4]] = 0.2  # the worst queries, wherever they are not supports
    shares[[1, 4]] = 0.8  # and supports that help
    rounds = [mine_worst(category, Share(category, shares), 2, seed) for seed in range(12)]
    seen = [r for r in rounds if r is not None and r.first < 0.5]
    assert seen, "no seed leaves both of the worst as queries"
    for r in seen:
        assert r.n_queries == 2
        assert (r.first, r.second) == pytest.approx((0.4, 0.8), abs=2e-3)
    assert mine_worst(disks(n=4), ByColour(), 2, 0) is None


def test_images_are_labelled_up_to_a_number_and_shares_are_of_their_iou() -> None:
    (found,) = label_images(lambda: iter([disks("a"), disks("b"), disks("c")]), [ByColour()], 5, 3, 2, 0)
    assert found.n_images == 5
    assert found.shares == (1, 1, 1, 1)
    assert found.seconds > 0


def write_run(folder: Path, network: str, **stated: object) -> Path:
    """A folder as train leaves it, with no weights inside the file."""
    folder.mkdir(parents=True)
    save_weights(torch.nn.Linear(1, 1), folder / "weights.safetensors", {"network": network, "recipe": "{}"})
    recipe = {
        "loss": "bce",
        "data": "data",
        "split": "train",
        "initial": None,
        "imagenet": False,
        "seed": 0,
        "steps": 7,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe | stated))
    return folder


def test_runs_are_found_in_folders_and_know_where_they_come_from(tmp_path: Path) -> None:
    first = write_run(tmp_path / "runs" / "fss", "vgg16-paper", data="d/FSS-1000", imagenet=True)
    write_run(
        tmp_path / "runs" / "both",
        "panet-417",
        data="d/fsCOCO",
        initial=str(first / "weights.safetensors"),
        loss="mse",
    )
    both, fss = find_runs([tmp_path / "runs"])
    assert (fss.name, fss.model, fss.kind, fss.provenance) == (
        "fss",
        "vgg16-paper",
        "vgg16-paper",
        "ImageNet → FSS-1000",
    )
    assert (both.kind, both.provenance, both.loss, both.steps) == ("panet", "FSS-1000 → fsCOCO", "mse", 7)
    assert find_runs([first], ["prototype-compact"])[0].weights is None
    with pytest.raises(ConfigError, match="two runs are called fss"):
        find_runs([first, tmp_path / "runs"])
    with pytest.raises(ConfigError, match=r"no folder in it has weights\.safetensors"):
        find_runs([first.parent.parent])
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_runs([tmp_path / "nothing"])
    save_weights(torch.nn.Linear(1, 1), tmp_path / "odd.safetensors", {})
    with pytest.raises(WeightsError, match="does not state its network"):
        find_runs([tmp_path / "odd.safetensors"])
    (first / "recipe.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not what train writes"):
        find_runs([first])


def test_every_row_can_be_filled_and_every_command_is_a_run() -> None:
    for row in (*TABLE_2, *TABLE_3):
        assert all(name in NETWORKS for name in row.networks), row
        assert any(fits(row, Run("x", name, loss=row.loss)) for name in row.networks)
    missing = [m for n in (2, 3) for m in missing_methods(n, [], Path("data"), Path("runs"))]
    missing += table_of_folds([], [Path(f"fold{i}") for i in range(4)], {}, Path("fss"))[1]
    missing += table_of_pretraining([], {}, Path("fss"))[1]
    commands = [m.command for m in missing if m.command]
    assert len(commands) > 30
    for command in commands:
        program, job, *words = shlex.split(command)
        assert (program, job) == ("fewscope", "train")
        assert train.parse(words).network in NETWORKS
    assert {m.label for m in missing if not m.command} == {
        "FSS-1000, the authors' weights",
        "prototypes, compact",
        "prototypes, VGG-16",
        "prototypes, ResNet-50",
    }


def test_the_printed_folds_have_the_printed_means() -> None:
    for label, _, folds, mean in TABLE_4:
        known = [f for f in folds if f is not None]
        if known:
            assert sum(known) / 4 == pytest.approx(mean, abs=0.06), label
    assert any(label == OF_FSS for label, *_ in TABLE_4)


def test_a_run_stands_in_the_row_of_its_network_and_loss() -> None:
    found = measure(lambda: iter([disks("a"), disks("b")]), [ByColour()], EvaluationConfig(shots=(1, 2)), [0])
    cells = {("mine", shots): cell for (_, shots), cell in found.items()} | {
        ("mine", 5): found[ByColour().name, 2]
    }
    table = table_of_methods(
        2, [Run("mine", "vgg16-paper", Path("w"), loss="mse", data="d/x", steps=9)], cells
    )
    rows = {row[0]: row for row in table.rows}
    assert rows["VGG-16, MSE"][2:4] == ("79.66", "100.00")
    assert rows["VGG-16, MSE"][8:10] == ("mine", "x, 9 steps")
    assert rows["VGG-16, BCE"][3] == "–"


def test_what_differs_is_said_of_the_run_that_was_made() -> None:
    runs = [Run("small", "panet", Path("a")), Run("large", "panet-417", Path("b"))]
    said = {row[8]: row[-1] for row in table_of_methods(3, runs, {}).rows if row[0] == "PANet"}
    assert said == {"small": "224 px, not 417", "large": "–"}
    canet = {row[1]: row[-1] for row in table_of_methods(3, [], {}).rows if row[0] == "CANet"}
    assert canet == {"1": "one scale, 224 px, not 321", "5": "no attention, one scale, 224 px, not 321"}


def test_a_fold_is_filled_by_the_run_that_was_trained_on_it(tmp_path: Path) -> None:
    cells = measure(lambda: iter([disks("a"), disks("b")]), [ByColour()], EvaluationConfig(shots=(2,)), [0])
    (cell,) = cells.values()
    folds = [tmp_path / f"fold{i}" for i in range(2)]
    runs = [
        Run("p0", "panet-417", Path("w"), data=str(folds[0])),
        Run("p1", "panet", Path("w"), data=str(folds[1])),
    ]
    table, missing = table_of_folds(runs, folds, {("p0", 0): cell, ("p1", 0): cell}, None)
    row = next(row for row in table.rows if row[0] == "PANet")
    assert row[1:3] == ("51.8 | 100.0", "64.6 | –")
    assert row[-1] == "p0, p1"
    assert not [m for m in missing if m.label.startswith("PANet")]


def test_models_that_were_trained_on_no_fold_come_after_the_papers_rows(tmp_path: Path) -> None:
    cells = measure(lambda: iter([disks("a"), disks("b")]), [ByColour()], EvaluationConfig(shots=(2,)), [0])
    (cell,) = cells.values()
    folds = [tmp_path / f"fold{i}" for i in range(4)]
    runs = [Run("compact", "compact-S"), Run("p0", "panet", Path("w"), data=str(folds[0]))]
    measured = {(name, i): cell for name in ("compact", "p0") for i in range(4)}
    table, _ = table_of_folds(runs, folds, measured, None)
    assert len(table.rows) == len(TABLE_4) + 1  # p0 has seen the test classes of the other folds
    assert table.rows[-1] == ("compact-S, shipped weights", *["– | 100.0"] * 5, "compact")
    assert Benchmark.unfilled(table.rows[0])
    assert not Benchmark.unfilled(table.rows[-1])


def test_a_run_on_the_data_of_the_benchmark_was_trained_on_fss_1000_whatever_its_folder_is_called() -> None:
    data = Path("somewhere/fewshot_data")
    runs = [
        Run("one", "vgg16-paper", Path("one.safetensors"), data="elsewhere/fewshot_data", imagenet=True),
        Run("two", "vgg16-paper", Path("two.safetensors"), data=str(data)),
        Run("three", "vgg16-paper", Path("three.safetensors"), data="x/fsCOCO", initial="fewshot_data"),
    ]
    table, missing = table_of_pretraining(runs, {}, data)
    assert [(row[0], row[3]) for row in table.rows] == [
        ("ImageNet → fewshot_data", "79.30"),
        ("fewshot_data", "–"),
        ("fewshot_data → fsCOCO", "82.66"),
    ]
    assert not missing
    (coco,) = table_of_pretraining(runs[:2], {}, data)[1]
    assert "--initial-weights two.safetensors" in coco.command


def test_bars_have_the_height_of_their_values() -> None:
    chart = Bars.of("t", "n", {"one": {"a": 0.5, "b": 1.0}, "two": {"b": float("nan")}})
    assert [bar[3] for bar in chart.bars] == [120.0, 240.0]
    assert [text for *_, text in chart.values] == ["0.50", "1.00"]
    assert [name for _, name in chart.groups] == ["a", "b"]
    assert len(chart.legend) == 2


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three classes of six images in two super-categories."""
    root = tmp_path / "corpus"
    for name in ("ant", "bee", "car"):
        (root / name).mkdir(parents=True)
        category = disks(n=6)
        for k, (image, mask) in enumerate(zip(category.images, category.masks, strict=True), start=1):
            Image.fromarray(image).save(root / name / f"{k}.jpg", quality=95)
            Image.fromarray(255 * mask.astype(np.uint8)).save(root / name / f"{k}.png")
    (root / "splits").mkdir()
    (root / "splits" / "test.txt").write_text("ant\nbee\ncar\n")
    (root / "supercategories.csv").write_text(
        "class,supercategory\nant,animals\nbee,animals\ncar,transport\n"
    )
    return root


class Killed(Exception):
    pass


class Known(ByColour):
    """A model with what tells its results from those of another."""

    weights_digest, processor, precision = "0" * 64, "any", "float32"


def test_a_stopped_benchmark_resumes_and_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped in the middle of each measurement; a file that was damaged meanwhile is measured again."""
    write_run(tmp_path / "runs" / "own", "prototype-compact")
    command = (
        f"--data {corpus} --runs {tmp_path / 'runs'} --shots 1 2 --seeds 1 2 --tables 3 --figures 6 9 11"
    )
    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", lambda *_, **__: Known())
    keep, calls, stop = MeasurementStore.keep, [], {"at": 0}

    def counted(self: MeasurementStore, facts: str, value: object) -> object:
        calls.append(facts)
        if len(calls) == stop["at"]:
            raise Killed
        return keep(self, facts, value)

    def bytes_of(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.glob("benchmark.*")}

    def made(out: Path, more: str = "") -> int:
        calls.clear()
        benchmark.measure_all(benchmark.parse([*command.split(), *more.split(), "--out", str(out)]))
        return len(calls)

    monkeypatch.setattr(MeasurementStore, "keep", counted)
    n = made(tmp_path / "whole")
    whole = bytes_of(tmp_path / "whole")
    assert n == 3 * 2 + 3 + 3  # classes by seeds, then figure 9 and figure 11 by class
    assert sorted(whole) == ["benchmark.html", "benchmark.json", "benchmark.txt"]
    out = tmp_path / "stopped"
    for stop["at"] in (3, 5, 4):  # the tables, figure 9, figure 11
        with pytest.raises(Killed):
            made(out)
        assert not bytes_of(out)
    kept = sorted(out.rglob("measured-*"))
    assert len(kept) == 2 + 4 + 3
    stop["at"] = 0
    kept[0].write_bytes(kept[1].read_bytes())  # sound, but of something else
    kept[2].write_bytes(kept[2].read_bytes()[:-9])
    assert made(out) == n - 9 + 2
    assert caplog.text.count("is damaged: measured again") == 2
    assert bytes_of(out) == whole
    assert made(out) == 0
    assert bytes_of(out) == whole

    assert made(out, "--tables 6 --images 3") == 3
    timed = bytes_of(out)
    assert made(out, "--tables 6 --images 3") == 0
    assert bytes_of(out) == timed  # with the seconds that were measured

    monkeypatch.setattr(Known, "weights_digest", "1" * 64)
    assert made(out) == n
    picture = corpus / "bee" / "3.png"
    Image.fromarray(np.asarray(Image.open(picture)).T).save(picture)
    assert made(out) == 2 + 1 + 1  # the class that changed


@pytest.mark.slow
def test_one_command_makes_the_tables_the_figures_and_a_page_of_its_own(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(0)
    run = tmp_path / "runs" / "own"
    run.mkdir(parents=True)
    facts = {"network": "prototype-compact", "recipe": "{}"}
    save_weights(build_network("prototype-compact"), run / "weights.safetensors", facts)
    command = f"--data {corpus} --runs {run.parent} --shipped prototype-compact --pascal {corpus} --shots 1 5"
    command += " --tables 2 3 4 5 6 --figures 6 8 9 11 --example-classes 2 --images 6 --total-episodes 3"
    command += " --episodes 1 --baselines threshold"
    out = tmp_path / "out"
    assert benchmark.main([*command.split(), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for words in (
        "Table 2",
        "Table 3",
        "Table 4",
        "Table 5",
        "Table 6",
        "Figure 11",
        "no number here is an FSS-1000 score",
        "Cells without a run",
        "fewscope train --data",
    ):
        assert words in text
    page = (out / "benchmark.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "")
    assert "Figure 9" in page
    content = json.loads((out / "benchmark.json").read_text())
    by_run = {(m["run"], m["shots"]): m for m in content["measured"] if m["data"] == str(corpus)}
    assert by_run["prototype-compact", 5]["classes"] == 3
    assert by_run["prototype-compact", 1]["mean_image_iou"] > 0.5
    assert ("own", 1) in by_run


def test_what_is_missing_is_listed_without_measuring(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path / "runs" / "mine", "vgg16-paper")
    command = f"--data {corpus} --runs {tmp_path / 'runs'} --tables 2 --missing"
    assert benchmark.main(command.split()) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("table 2")]
    assert len(lines) == 5
    assert not [line for line in lines if "VGG-16, BCE" in line]
    with pytest.raises(SystemExit):
        benchmark.parse(["--data", "d"])
    assert "give --out" in capsys.readouterr().err


def test_evaluate_compares_several_weights_on_the_same_episodes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(model: str, weights: str | None, *_: object, **__: object) -> Known:
        asked.append((model, None if weights is None else Path(weights).parent.name))
        return Known()

    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", load)
    runs = [
        write_run(tmp_path / "runs" / name, network)
        for name, network in (("one", "panet"), ("two", "compact-S"))
    ]
    command = f"--data {corpus} --split test --episodes 1 --shots 2 --out {tmp_path / 'out'} --weights"
    found = evaluate.evaluate(evaluate.parse([*command.split(), *map(str, runs)]))
    assert asked == [("panet", "one"), ("compact", "two")]
    assert list(found.methods) == ["one", "two"]
    assert len({(r.method, r.category, r.query) for r in found.query_results}) == 2 * 3 * 4
    assert found.settings["model"] == "one (000000000000); two (000000000000)"
    (folder,) = {run.parent for run in runs}
    evaluate.evaluate(evaluate.parse([*command.split(), str(folder)]))
    assert asked[2:] == asked[:2]
    evaluate.evaluate(
        evaluate.parse([*command.split(), str(runs[0] / "weights.safetensors"), "--model", "panet"])
    )
    assert asked[4:] == [("panet", "one")]

"""Every method is asked the same questions, and the figures are what their definitions say."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.jobs import evaluate as job
from fewscope.pipeline.calibration.intervals import CountRatio
from fewscope.pipeline.evaluation.baselines import load_baseline
from fewscope.pipeline.evaluation.n_way import evaluate_n_way
from fewscope.pipeline.evaluation.results import calibration, class_metrics, differences, method_metrics
from fewscope.pipeline.evaluation.runner import (
    Adapted,
    EvaluationConfig,
    QueryResult,
    SupportResult,
    evaluate_class,
)
from fewscope.pipeline.metrics import Objects, Pixels
from tests.helpers.crowds import crowd, painted
from tests.helpers.fakes import ByColour, ByDepth, Certain

ONCE = EvaluationConfig(shots=(2,), episodes=1, queries=2)


def red_disks(name="disks", n=5, domain="", apart=70) -> ClassImages:
    """Pictures of two red disks of radius 30 on blue, with objects; each picture has another place."""
    images = np.zeros((n, 224, 224, 3), np.uint8)
    images[..., 2] = 200
    row, col = np.indices((224, 224))
    objects = np.zeros((n, 224, 224), np.int32)
    for i in range(n):
        for number, column in ((1, 50 + 5 * i), (2, 50 + 5 * i + apart)):
            disk = (row - 60 - 10 * i) ** 2 + (col - column) ** 2 < 30**2
            objects[i][disk & (objects[i] == 0)] = number
    images[objects > 0] = (250, 30, 20)
    return ClassImages(
        name,
        domain,
        images,
        objects > 0,
        objects,
        tuple(str(k) for k in range(1, n + 1)),
    )


class Recorder(ByColour):
    """Knows what it was taught and asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taught: list[bytes] = []
        self.asked: list[bytes] = []

    def encode(self, images, labels):
        self.taught.append(images.tobytes() + labels.tobytes())
        return super().encode(images, labels)

    def predict(self, tiles, features):
        self.asked.append(tiles.tobytes())
        return super().predict(tiles, features)


def test_all_methods_learn_and_answer_the_same():
    one, other = Recorder("one"), Recorder("other")
    found = evaluate_class(red_disks(), [one, other], EvaluationConfig(shots=(1, 3)))
    assert one.taught == other.taught
    assert one.asked == other.asked
    assert len(one.asked) == 2 * 5  # every picture once, for both numbers of shots
    assert [a.query for a in found.query_results if (a.method, a.shots) == ("one", 3)] == [
        "1",
        "2",
        "3",
        "4",
        "5",
    ]


def test_a_right_answer_is_1_and_a_wrong_one_its_part_of_the_picture():
    category = red_disks()
    found = evaluate_class(category, [ByColour(), Certain()], ONCE)
    part = float(category.masks[0].mean())
    for answer in found.query_results:
        if answer.method == "by-colour":
            assert answer.at_half.iou == 1
            assert answer.components.f1 == answer.components.pq == 1
            assert answer.components.found == 2
        else:
            assert answer.at_half.iou == pytest.approx(part)
            assert answer.at_half.background_iou == 0
        assert answer.at_chosen is None
        assert answer.separated is None
    assert all(r.estimate is None for r in found.support_results)


@pytest.mark.parametrize(("apart", "rule", "n_components"), [(52, "split", 1), (70, "components", 2)])
def test_with_calibration_touching_objects_are_told_apart_where_the_support_says_so(
    apart, rule, n_components
):
    config = EvaluationConfig((3,), 1, 2, calibration=True)
    found = evaluate_class(red_disks(apart=apart), [ByColour()], config)
    assert {(r.rule, r.estimate) for r in found.support_results} == {(rule, 1.0)}
    for asked in found.query_results:
        assert asked.at_chosen.iou == 1
        assert (asked.components.found, asked.separated.found) == (n_components, 2)
        assert asked.separated.f1 == 1


def test_with_a_model_that_knows_depth_objects_are_told_apart_by_it_where_that_counts_better():
    crowds = [crowd(30 + k, 120, 7.0, (224, 224)) for k in range(4)]
    category = ClassImages(
        "disc",
        "",
        np.stack([painted(*c) for c in crowds]),
        np.stack([labels > 0 for labels, _ in crowds]),
        np.stack([labels for labels, _ in crowds]).astype(np.int32),
        tuple("1234"),
    )
    found = evaluate_class(category, [ByDepth()], EvaluationConfig((3,), 1, 1, calibration=True))
    assert [r.rule for r in found.support_results] == ["learned depth"]
    (asked,) = found.query_results
    assert abs(asked.separated.found - asked.separated.true) <= 0.05 * asked.separated.true
    assert asked.components.found < 0.5 * asked.components.true


def test_grabcut_is_asked_without_being_taught():
    found = evaluate_class(
        red_disks(), [load_baseline("grabcut")], EvaluationConfig((2,), 1, 1, calibration=True)
    )
    assert found.support_results[0].threshold is None
    assert found.query_results[0].at_half.both > 0


def answer(category, iou_parts, method="own", query="1", domain="", episode=0, chosen=None) -> QueryResult:
    both, wrong = iou_parts
    pixels = Pixels(both, wrong, 0, 100 - both - wrong)
    return QueryResult(method, category, domain, 5, episode, query, pixels, chosen, None, None, 0.1)


def test_the_two_metrics_by_hand():
    figures = class_metrics(
        [
            answer("a", (10, 10), query="1"),  # IoU 1/2, background 80/90
            answer("a", (30, 0), query="2"),  # IoU 1, background 70/70
            answer("b", (5, 15), query="1"),  # IoU 1/4, background 80/95
        ]
    )
    (overall,) = method_metrics(figures)
    assert overall.n_queries == 3
    assert overall.scores["image_iou"].value == pytest.approx((3 / 4 + 1 / 4) / 2)  # (a)
    assert overall.scores["class_iou"].value == pytest.approx((40 / 50 + 5 / 20) / 2)  # (b), pooled per class
    assert overall.fb_iou == pytest.approx((45 / 70 + (80 + 70 + 80) / (80 + 70 + 80 + 25)) / 2)
    low, high = overall.scores["image_iou"].interval
    assert low == pytest.approx(1 / 4)
    assert high == pytest.approx(3 / 4)


def test_methods_are_compared_class_by_class_and_domains_apart():
    query_results = []
    for category, domain, own, theirs in (
        ("a", "micro", 40, 30),
        ("b", "micro", 20, 30),
        ("c", "sat", 50, 10),
    ):
        query_results.append(answer(category, (own, 50 - own), "own", domain=domain))
        query_results.append(answer(category, (theirs, 50 - theirs), "baseline", domain=domain))
    found = {d.group: d for d in differences(class_metrics(query_results), "own")}
    assert set(found) == {"all", "micro", "sat"}
    assert found["all"].mean.value == pytest.approx((0.2 - 0.2 + 0.8) / 3)
    assert (found["all"].ahead, found["all"].n_classes) == (2, 3)
    assert found["micro"].mean.value == pytest.approx(0)
    assert found["sat"].mean.interval is None  # one class


def test_the_promise_is_compared_with_what_came():
    support_results, query_results = [], []
    for category, promised, came in (("a", 0.9, 0.8), ("b", 0.5, 0.4), ("c", 0.2, 0.3)):
        left_out = promised - 0.03, promised, promised + 0.03  # so that one more is within 0.149
        interval = promised - 0.1001, promised + 0.05
        ratio = None if category == "c" else CountRatio(0.8, 1.0, 1.1)
        support_results.append(
            SupportResult("own", category, "", 5, 0, 0.1, 0.4, promised, interval, left_out, "", ratio)
        )
        pixels = Pixels(int(came * 100), 100 - int(came * 100), 0, 0)
        counted = Objects(10 if category == "a" else 12, 10, 9, 8.0, 90, 100)  # true, found
        query_results.append(
            dataclasses.replace(answer(category, (50, 50), chosen=pixels), separated=counted)
        )
    found = calibration(support_results, query_results, "own", 5)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.coverage_with_queries == 1
    assert found.bias == pytest.approx((0.1 + 0.1 - 0.1) / 3)
    assert (found.n_counted, found.count_coverage) == (2, 0.5)  # 8 to 11 hold 10, not 12
    assert found.over_classes == pytest.approx(np.corrcoef([0.9, 0.5, 0.2], [0.8, 0.4, 0.3])[0, 1])
    assert calibration(support_results, [], "other", 5) is None


@pytest.fixture
def corpus(tmp_path):
    """Two classes of four pictures, the third of two; one has a name that HTML would take for a tag."""
    for name, n in (("<b>lake", 4), ("river", 4), ("rare", 2)):
        category = red_disks(n=n)
        (tmp_path / name).mkdir()
        images, labels, _ = category.arrays()
        for k, image, label in zip(category.keys, images, labels, strict=True):
            Image.fromarray(image).save(tmp_path / name / f"{k}.jpg", quality=95)
            Image.fromarray(label * 255).save(tmp_path / name / f"{k}.png")
    (tmp_path / "classes.csv").write_text("class,domain\n<b>lake,sat\nriver,sat\nrare,sat\n")
    return tmp_path


@pytest.fixture
def by_colour(monkeypatch):
    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", lambda *args, **kwargs: ByColour())


@pytest.mark.slow
def test_the_command_writes_a_page_a_table_and_json_that_say_the_same(corpus, tmp_path, by_colour, capsys):
    out = tmp_path / "out"
    args = [
        "--data",
        str(corpus),
        "--shots",
        "1",
        "3",
        "--baselines",
        "threshold",
        "--calibration",
        "--out",
        str(out),
    ]
    assert job.main(args) == 0
    content = json.loads((out / "evaluation.json").read_text())
    rows = {(s["method"], s["shots"]): s for s in content["standings"]}
    assert set(rows) == {(m, k) for m in ("by-colour", "threshold") for k in (1, 3)}
    assert rows["by-colour", 3]["n_queries"] == 8
    assert rows["by-colour", 3]["image_iou"]["value"] > 0.99
    assert rows["by-colour", 1]["chosen_iou"] is None  # nothing can be left out of one
    assert content["what"]["left out"] == "rare"
    assert "no number here is an FSS-1000 score" in content["what"]["benchmark"]
    assert len(content["answers"]) == 2 * 2 * 8
    printed = capsys.readouterr().out
    assert printed.startswith((out / "evaluation.txt").read_text().rstrip()[:2000])
    page = (out / "evaluation.html").read_text()
    assert "<b>lake" not in page
    assert "&lt;b&gt;lake" in page
    assert len(re.findall(r'alt="query"', page)) == 2 * 3  # best, median, worst of both classes
    assert not re.search(r'(src|href)="(?!data:)', page)
    value = f"{rows['by-colour', 3]['image_iou']['value']:.3f}"
    assert value in page
    assert value in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "fss_test_set.txt"),
        (["--shots", "9"], "fewer --shots"),
        (["--shots", "0"], "1 or more"),
        (["--domains", "micro"], "no class of the domain 'micro'"),
        (["--episodes", "0"], "episodes 0 is not above 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(corpus, tmp_path, by_colour, capsys, arguments, message):
    out = tmp_path / "out"
    assert job.main(["--data", str(corpus), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not out.exists()


def stripes(name, colour, n=4) -> ClassImages:
    """Pictures with one square of a colour on grey; each picture has another place."""
    images = np.full((n, 224, 224, 3), 60, np.uint8)
    masks = np.zeros((n, 224, 224), bool)
    for i in range(n):
        masks[i, 20 * i : 20 * i + 80, 30:150] = True
    images[masks] = colour
    return ClassImages(name, "", images, masks, None, tuple("1234"[:n]))


class ByMeanColour(ByColour):
    """Object where a pixel is nearer to the support's object colour than to its background's."""

    def encode(self, images, labels):
        return [images[labels == value].mean(0) for value in (0, 1)]

    def predict(self, tiles, features):
        other, own = (np.abs(tiles - colour).sum(-1) for colour in features)
        return (other / (own + other + 1e-6))[:, None].astype(np.float32)


def test_of_several_classes_every_pixel_is_of_the_likeliest():
    corpus = [stripes("red", (250, 0, 0)), stripes("green", (0, 250, 0)), stripes("rust", (200, 60, 0))]
    config = EvaluationConfig((2,), 1, 2)
    found = evaluate_n_way(corpus, ByMeanColour(), config, way=3, shots=2)
    assert found.n_queries == 6
    assert dict(found.by_class) == {"red": 1, "green": 1, "rust": 1}
    # certain of everything, the first class wins: of a query's three classes, its own is first
    blind = evaluate_n_way(corpus, Certain(), config, way=3, shots=2)
    part = float(corpus[0].masks[0].mean())
    assert dict(blind.by_class) == pytest.approx({"red": part, "green": part, "rust": part})
    with pytest.raises(ValueError, match="2 other classes of its domain; expected at least 3"):
        evaluate_n_way(corpus, Certain(), config, way=4, shots=2)


def test_a_picture_that_is_asked_is_not_shown_for_another_class():
    """Classes share pictures, as cells and membranes do."""
    cells, red = stripes("cell", (250, 0, 0)), stripes("red", (0, 250, 0))
    membranes = ClassImages("membrane", "", cells.images, ~cells.masks, None, cells.keys)
    shown = Recorder("recorder")
    evaluate_n_way([cells, membranes, red], shown, EvaluationConfig((2,)), way=2, shots=2)
    size = 224 * 224 * 3
    for asked, taught in zip(shown.asked, shown.taught, strict=True):
        pictures = [taught[i * size : (i + 1) * size] for i in range(4)]  # two of each class
        assert len(set(pictures)) == 4
        assert asked not in pictures


class Adapts(ByColour):
    """Looks at blue against red, until it is adapted."""

    adapts = True

    def encode(self, images, labels, instances=None, adaptation=None, **options):
        known = options.get("known", {})
        tuned = adaptation is not None or any(view.tuned for view in known.values())
        return SimpleNamespace(views=[SimpleNamespace(side=224, tuned=tuned)])

    def predict(self, tiles, features):
        return super().predict(tiles if features.views[0].tuned else tiles[..., ::-1], features)


def test_an_adapted_network_is_a_method_of_its_own():
    model = Adapts()
    adapted = Adapted(model, seconds=60)
    found = evaluate_class(red_disks(n=3), [adapted, model], EvaluationConfig((2,), 1, 1))
    iou = {answer.method: answer.at_half.iou for answer in found.query_results}
    assert iou["by-colour"] == 0
    assert iou["by-colour, adapted"] == 1
    with pytest.raises(ValueError, match="no time"):
        Adapted(model, seconds=0)
    model.adapts = False
    with pytest.raises(ValueError, match="leave out --adapt"):
        Adapted(model, seconds=60)


def test_void_pixels_are_not_counted():
    """A wrong answer there costs nothing, and everything elsewhere is counted."""
    category = red_disks(n=3)
    void = np.zeros_like(category.masks)
    void[:, 180:] = True
    images = category.images.copy()
    images[:, 180:] = (250, 30, 20)  # red, and so found
    with_void = dataclasses.replace(category, images=images, void=void, instances=None)
    right = evaluate_class(with_void, [ByColour()], ONCE).query_results
    assert [r.at_half.iou for r in right] == [1.0] * len(right)
    assert {sum(dataclasses.astuple(r.at_half)) for r in right} == {180 * 224}
    wrong = evaluate_class(dataclasses.replace(with_void, void=None), [ByColour()], ONCE).query_results
    assert all(r.at_half.iou < 0.5 for r in wrong)


def test_a_number_of_episodes_is_shared_evenly_by_the_classes():
    config = EvaluationConfig(shots=(1,), total=1000).for_classes(5)
    assert (config.episodes, config.queries) == (200, 1)
    assert sum(len(draw.query) for draw in config.draws("cat", 40, 1)) == 200
    with pytest.raises(ValueError, match="cannot be shared evenly by 7 classes; give 994"):
        EvaluationConfig(total=1000).for_classes(7)


def test_the_pooled_iou_is_that_of_the_pixels_of_all_classes():
    (row,) = method_metrics(class_metrics([answer("one", (10, 10)), answer("other", (90, 10))]))
    assert row.pooled_iou == pytest.approx(100 / 120)
    assert row.scores["class_iou"].value == pytest.approx((0.5 + 0.9) / 2)


def test_super_categories_that_are_not_the_papers_are_named():
    names = [f"{g}-{i}" for g in range(12) for i in range(20)]
    groups = {name: f"group {name.partition('-')[0]}" for name in names}
    assert job.describe_supercategories(groups, names) == "12 of 20 test classes each, as in the paper"
    assert "group 0 19" in job.describe_supercategories(groups | {"0-1": "group 1"}, names)
    assert "give --supercategories FILE" in job.describe_supercategories({}, names)

"""Several classes from one pass: one map, objects of each class by themselves, exact across seams."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from pathlib import Path

import numpy as np
import ome_zarr_models
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import fewscope.pipeline.report.builder
import fewscope.pipeline.run
from fewscope.connectors.results.reader import open_result
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.instances.class_map import assign_classes, label_classes, winning_probability
from fewscope.pipeline.instances.labelling import merge_labels, seam_pairs
from fewscope.pipeline.instances.split_rules import SplitRule
from fewscope.pipeline.run import segment
from fewscope.pipeline.tiling.grid import grow, plan_units
from tests.helpers import fakes
from tests.helpers.labels import same_objects

N_CLASSES = 3


@given(
    seed=st.integers(0, 2**32 - 1),
    thresholds=st.lists(st.integers(1, 255), min_size=1, max_size=4),
)
@settings(max_examples=30)
def test_the_largest_probability_among_those_that_reach_their_threshold_has_the_pixel(seed, thresholds):
    rng = np.random.default_rng(seed)
    probability = rng.integers(0, 256, (len(thresholds), 9, 11), np.uint8) // 32 * 32  # with many equals
    classes = assign_classes(probability, thresholds)
    winning = winning_probability(probability, classes)
    for row, col in np.ndindex(9, 11):
        reached = [
            (-int(p), value)
            for value, (p, t) in enumerate(zip(probability[:, row, col], thresholds, strict=True), start=1)
            if p >= t
        ]
        assert classes[row, col] == (min(reached)[1] if reached else 0)
        assert winning[row, col] == (-min(reached)[0] if reached else probability[:, row, col].max())


def in_units(classes: np.ndarray, side: int, rules, connectivity: int) -> np.ndarray:
    """Objects of a class map, worked through in units that see their core and the halo of the rules."""
    units = plan_units(*classes.shape, side)
    index = np.arange(classes.size).reshape(classes.shape)
    halo = max((rule.halo for rule in rules if rule), default=0)
    labels, borders, n_labels, first, area, of_class = [], [], [], [], [], []
    for unit in units:
        window = grow(unit.core, halo, *classes.shape)
        of_unit, n_of_class, border = label_classes(
            classes[window.toslices()], window, unit.core, classes.shape, rules, connectivity
        )
        n = sum(n_of_class)
        assert n == of_unit.max(initial=0)
        numbers = np.arange(1, n + 1)
        labels.append(of_unit)
        n_labels.append(n)
        borders.append(border if n else None)
        of_class.append(np.repeat([1, 2, 3], n_of_class))
        first.append(np.asarray(ndimage.minimum(index[unit.core.toslices()], of_unit, numbers)).reshape(n))
        area.append(np.bincount(of_unit.ravel(), minlength=n + 1)[1:])
    pairs = seam_pairs(units, borders, n_labels, connectivity)
    values = np.concatenate(of_class)
    merge = merge_labels(n_labels, pairs[values[pairs[:, 0]] == values[pairs[:, 1]]], first, area)
    result = np.zeros(classes.shape, np.int64)
    for unit in units:
        result[unit.core.toslices()] = merge.lookup(unit.index)[labels[unit.index]]
    return result


maps = st.builds(
    lambda seed, height, width, smooth, empty: _random_map(seed, height, width, smooth, empty),
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 45), st.sampled_from([0, 1, 2]),
    st.sampled_from([0.0, 0.3, 0.7]),
)  # fmt: skip


def _random_map(seed: int, height: int, width: int, smooth: int, empty: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.random((N_CLASSES, height, width)), (0, smooth, smooth))
    classes = fields.argmax(axis=0) + 1
    return np.where(fields.max(axis=0) < np.quantile(fields.max(axis=0), empty), 0, classes).astype(np.uint8)


@given(classes=maps, side=st.sampled_from([7, 16, 64]), connectivity=st.sampled_from([1, 2]))
@settings(max_examples=25)
def test_objects_are_the_components_of_each_class_by_itself(classes, side, connectivity):
    found = in_units(classes, side, [None] * N_CLASSES, connectivity)
    expected = np.zeros(classes.shape, np.int64)
    for value in range(1, N_CLASSES + 1):
        of_class, _ = ndimage.label(classes == value, ndimage.generate_binary_structure(2, connectivity))
        expected[of_class > 0] = of_class[of_class > 0] + expected.max()
    assert same_objects(found, expected)


@given(
    classes=maps,
    side=st.sampled_from([8, 16, 24]),
    rules=st.sampled_from(
        [[SplitRule(2), None, SplitRule(3)], [None, None, SplitRule(1)], [SplitRule(3)] * 3]
    ),
)
@settings(max_examples=15)
def test_objects_told_apart_by_a_rule_of_each_class_do_not_depend_on_the_units(classes, side, rules):
    whole = in_units(classes, 64, rules, 2)
    assert np.array_equal(in_units(classes, side, rules, 2), whole)
    for value, rule in enumerate(rules, start=1):  # and are those of the class alone
        alone = in_units(np.where(classes == value, 1, 0).astype(np.uint8), 64, [rule], 2)
        assert same_objects(np.where(classes == value, whole, 0), alone)


# --- the whole journey --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def class_slide(tmp_path_factory) -> str:
    return fakes.write_slide(tmp_path_factory.mktemp("slides") / "three.tif", fakes.class_picture())


@pytest.fixture(scope="module")
def class_support(tmp_path_factory) -> str:
    return fakes.write_class_support(tmp_path_factory.mktemp("support") / "three")


@pytest.fixture
def config(class_slide, class_support, tmp_path) -> SegmentConfig:
    return SegmentConfig(
        class_slide, class_support, str(tmp_path / "out"), shard=256, threshold=0.5,
        instances="components", min_area_um2=0, foreground="all",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(class_slide, class_support, tmp_path_factory) -> tuple[str, dict]:
    """The folder of a run that keeps the probabilities of the classes, and its report with the pictures."""
    out = str(tmp_path_factory.mktemp("finished") / "out")
    return out, run(SegmentConfig(
        class_slide, class_support, out, shard=256, threshold=0.5, instances="components", min_area_um2=0,
        foreground="all", class_probabilities=True,
    ))  # fmt: skip


def run(config, model=fakes.ByChannel, **changes):
    with LocalPool(model) as pool:
        return segment(dataclasses.replace(config, **changes), pool, model())


@pytest.mark.slow
def test_map_table_outlines_and_report_say_the_same_of_each_class(finished):
    out, report = finished
    result = open_result(out)
    image = fakes.class_picture()
    classes = result.semantic[0].compute()
    assert np.array_equal(classes, fakes.class_map(image))
    assert np.array_equal(
        result.probability[0].compute(), np.where(classes > 0, np.take_along_axis(
            image, np.maximum(classes, 1)[..., None] - 1, 2)[..., 0], image.max(axis=2))
    )  # fmt: skip
    for c, of_class in enumerate(result.class_probabilities):
        assert np.array_equal(of_class[0].compute(), image[..., c])
        assert len(of_class) == len(result.semantic)

    ids = result.instances[0].compute()
    table = result.table.to_table()
    assert str(table.schema.field("class").type) == "dictionary<values=string, indices=int8, ordered=0>"
    assert table["id"].to_pylist() == list(range(1, ids.max() + 1))
    names = np.array(["", *table["class"].to_pylist()])
    firsts = np.unique(ids, return_index=True)[1][1:]
    assert (np.diff(firsts) > 0).all()
    features = json.loads(gzip.decompress((Path(out) / "instances.geojson.gz").read_bytes()))["features"]
    drawn = {f["properties"]["measurements"]["Id"]: f["properties"]["classification"] for f in features}
    colours = set()
    for value, (name, said) in enumerate(zip(fakes.CLASSES, report["classes"], strict=True), start=1):
        expected, n = ndimage.label(classes == value, np.ones((3, 3)))
        assert same_objects(np.where(classes == value, ids, 0), expected)
        assert np.array_equal(names[ids] == name, classes == value)
        assert (said["name"], said["value"], said["count"]) == (name, value, n)
        assert said["covered_px"] == (classes == value).sum()
        assert said["density_per_mm2"] == pytest.approx(n / report["area_mm2"])
        of_class = [drawn[i] for i in table["id"].to_pylist() if names[i] == name]
        assert {c["name"] for c in of_class} == {name}
        assert "#{:02x}{:02x}{:02x}".format(*of_class[0]["color"]) == said["colour"]
        colours.add(said["colour"])
    assert len(colours) == N_CLASSES
    assert report["count"] == sum(c["count"] for c in report["classes"]) == ids.max()
    assert report["covered_px"] == (classes > 0).sum()


@pytest.mark.slow
def test_left_out_patches_judge_each_class(config, no_pictures):
    """A model that is right everywhere: IoU 1, and an interval of each count as narrow as chance leaves it."""
    report = run(config, threshold=None)
    for said in report["classes"]:
        assert said["quality"]["iou"] == [1.0, 1.0, 1.0]
        low, high = said["count_interval"]
        assert low < said["count"] < high
    assert report["quality"]["iou_held_out"] == 1.0
    assert report["count_interval"] is None


def test_each_tile_is_predicted_once_for_all_classes(config, no_pictures, monkeypatch):
    seen = []
    wanted = fakes.ByChannel.predict

    def predict(self, tiles, features):
        seen.extend(tile.tobytes() for tile in tiles)
        return wanted(self, tiles, features)

    monkeypatch.setattr(fakes.ByChannel, "predict", predict)
    report = run(config, shard=640)
    n_tiles = report["timings"]["tiles"]
    left_out, sample, segmented = seen[:3], seen[3:-n_tiles], seen[-n_tiles:]  # patches, tiles, tiles
    for of_tiles in (sample, segmented):
        assert len(set(of_tiles)) == len(of_tiles)
    assert len(left_out) == 3
    assert set(sample) <= set(segmented)


@pytest.mark.slow
def test_a_store_of_classes_is_valid_ome_zarr_with_names_and_colours(finished):
    group = zarr.open_group(f"{finished[0]}/result.zarr", mode="r")
    ome_zarr_models.open_ome_zarr(group)
    for name in ("labels/semantic", "labels/instances", "classes/1", "classes/2", "classes/3"):
        ome_zarr_models.open_ome_zarr(group[name])
    label = group["labels/semantic"].attrs.asdict()["ome"]["image-label"]
    assert [p["class"] for p in label["properties"]] == list(fakes.CLASSES)
    assert [c["label-value"] for c in label["colors"]] == [1, 2, 3]
    images = [
        group[f"classes/{value}"].attrs.asdict()["ome"]["multiscales"][0]["name"] for value in (1, 2, 3)
    ]
    assert images == list(fakes.CLASSES)


@pytest.mark.slow
def test_one_of_several_classes_is_a_result_of_one_class(config, no_pictures):
    report = run(config, class_names=("green",))
    assert "classes" not in report
    assert "class" not in open_result(config.out).table.schema.names
    _, n = ndimage.label(fakes.class_picture()[..., 0] >= 128, np.ones((3, 3)))  # `ByChannel`'s first class
    assert (report["class_name"], report["count"]) == ("green", n)


def test_bytes_do_not_depend_on_units_workers_or_interruptions(
    config, tmp_path, no_pictures, monkeypatch, ray_here
):
    how = {"class_probabilities": True, "threshold": None, "instances": "split", "object_radius_um": 2.0}
    config = dataclasses.replace(config, shard=256, **how)
    run(config)
    expected = fakes.outputs(Path(config.out))
    assert json.loads(expected["report.json"])["classes"][1]["count"] > 10
    assert expected.keys() > {"result.zarr/classes/3/0/c/0/0"}

    run(config, out=str(tmp_path / "large"), unit=768)
    large = fakes.outputs(tmp_path / "large")

    on_ray = dataclasses.replace(config, out=str(tmp_path / "ray"))
    with RayPool(fakes.ByChannel, 1) as pool:
        segment(on_ray, pool, fakes.ByChannel())

    stopped = dataclasses.replace(config, out=str(tmp_path / "stopped"))
    monkeypatch.setattr(fewscope.pipeline.run, "relabel_unit", None)
    with pytest.raises(TypeError):
        run(stopped)
    monkeypatch.undo()
    monkeypatch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)
    monkeypatch.setattr(fakes.ByChannel, "predict", None)
    run(stopped)
    for found in (large, fakes.outputs(tmp_path / "ray"), fakes.outputs(tmp_path / "stopped")):
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == expected[name], name


@pytest.mark.slow
def test_the_page_names_every_class_in_its_colour(finished):
    out, report = finished
    page = (Path(out) / "report.html").read_text()
    for said in report["classes"]:
        row = re.search(
            rf'<tr><td><i class="swatch" style="background:{said["colour"]}">.*?</tr>', page, re.S
        )
        assert row
        assert said["name"] in row[0]
        assert f"{said['count']:,}" in row[0]
    assert page.count("data:image/jpeg") >= 9


@pytest.mark.slow
def test_an_object_smaller_than_its_class_allows_is_dropped(config, no_pictures):
    """Without a given area each class has a smallest object of its own: a tenth of its typical one."""
    report = run(config, min_area_um2=None)
    least = [report["run"][f"class {name}"]["smallest object (px)"] for name in fakes.CLASSES]
    classes = fakes.class_map(fakes.class_picture())
    for value, said in enumerate(report["classes"], start=1):
        labels, _ = ndimage.label(classes == value, np.ones((3, 3)))
        assert said["count"] == (np.bincount(labels.ravel())[1:] >= least[value - 1]).sum()
        assert least[value - 1] > 1


def test_the_cleaned_map_does_not_depend_on_units(config, no_pictures, tmp_path):
    """Objects are joined across seams before any is too small."""
    found = []
    for unit in (128, 512):
        out = str(tmp_path / str(unit))
        report = run(config, min_area_um2=10, shard=128, unit=unit, out=out)
        result = open_result(out)
        classes, labels = result.mask[0].compute(), result.labels[0].compute()
        assert np.array_equal(classes > 0, labels > 0)
        assert np.count_nonzero(classes) == report["covered_px"]
        truth = fakes.class_map(fakes.class_picture())
        assert np.array_equal(classes, np.where(labels > 0, truth, 0))
        assert np.count_nonzero(truth) - np.count_nonzero(classes) == report["dropped_px"] > 0
        found.append((classes, labels, report["dropped_count"]))
    (one, one_labels, n_one), (other, other_labels, n_other) = found
    assert n_one == n_other
    assert np.array_equal(one, other)
    assert np.array_equal(one_labels, other_labels)

"""Only what lies in an area is segmented: the same there as without one, and nothing outside."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy import ndimage
from shapely.geometry import Polygon, box, mapping

from fewscope.connectors.results.reader import open_result
from fewscope.errors import ConfigError, RunMismatch, SourceError
from fewscope.jobs.segment_wsi import configs, parse
from fewscope.jobs.segment_wsi import run as run_job
from fewscope.pipeline.calibration import sampling
from fewscope.pipeline.calibration.sampling import sample_tiles
from fewscope.pipeline.estimate import estimate
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.plan import make_plan
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.labels import same_objects

pytestmark = pytest.mark.usefixtures("no_pictures")

TUMOUR = Polygon([(90.2, 60), (420, 40.7), (500, 300), (300, 420.1), (70, 380)])
FOLD = box(240, 150, 300, 290)
INSIDE = TUMOUR.difference(FOLD)


def drawn(path: Path, *polygons: tuple[Polygon, str]) -> str:
    features = [
        {"type": "Feature", "geometry": mapping(shape), "properties": {"classification": {"name": name}}}
        for shape, name in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


@pytest.fixture
def aoi(tmp_path):
    return drawn(tmp_path / "tumour.geojson", (TUMOUR, "Tumor"), (FOLD, "Ignore*"))


@pytest.fixture(scope="module")
def glassy(tmp_path_factory):
    """A slide of 800 x 900 px whose right and lower parts are glass; its path."""
    image = np.full((800, 900, 3), 240, np.uint8)
    image[:350, :400] = fakes.picture()[:350, :400]
    return fakes.write_slide(tmp_path_factory.mktemp("glassy") / "glassy.tif", image)


@pytest.fixture(scope="module")
def inside():
    rows, cols = np.indices((fakes.HEIGHT, fakes.WIDTH)) + 0.5
    return shapely.contains_xy(INSIDE, cols, rows)


def run(config, model=fakes.ByColour, **changes):
    with LocalPool(model) as pool:
        return segment(dataclasses.replace(config, **changes), pool, model())


@pytest.mark.parametrize("part", ["foreground", "whole"])
def test_inside_as_without_an_area_and_nothing_outside(config, tmp_path, aoi, inside, glassy, part):
    config = dataclasses.replace(config, source=glassy if part == "foreground" else config.source)
    run(config, fakes.ByPlace, out=str(tmp_path / "all"))
    run(config, fakes.ByPlace, aoi=aoi)
    whole, cut = (open_result(out).probability[0].compute() for out in (str(tmp_path / "all"), config.out))
    there = np.zeros(whole.shape, bool)
    there[: fakes.HEIGHT, : fakes.WIDTH] = inside
    assert whole[there].any()
    assert whole[~there].any()
    assert np.array_equal(cut, np.where(there, whole, 0))


def test_objects_are_cut_at_the_outline_and_counted_with_what_is_inside(config, aoi, inside):
    report = run(config, aoi=aoi)
    truth = (fakes.colour_probability(fakes.picture()) >= 0.5) & inside
    expected, n = ndimage.label(truth, np.ones((3, 3)))
    result = open_result(config.out)
    assert same_objects(result.instances[0].compute(), expected)
    assert np.array_equal(result.semantic[0].compute() > 0, truth)
    assert (report["count"], report["covered_px"]) == (n, truth.sum())
    assert report["area_px"] == pytest.approx(inside.sum(), rel=0.01)
    assert report["density_per_mm2"] == pytest.approx(n / (inside.sum() * fakes.MPP**2 / 1e6), rel=0.01)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_size_of_the_units(config, tmp_path, aoi):
    found = []
    for unit in (128, 384, 640):
        out, shard = str(tmp_path / str(unit)), 128
        rules = {"instances": "split", "object_radius_um": 3}
        run(config, fakes.ByPlace, out=out, shard=shard, unit=unit, aoi=aoi, **rules)
        found.append(fakes.outputs(Path(out)))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name in found[0]:
        assert found[0][name] == found[1][name] == found[2][name], name


def test_units_and_tiles_outside_cost_nothing(config, tmp_path):
    corner = drawn(tmp_path / "corner.geojson", (box(20, 20, 60, 60), "Tumor"))
    small = dataclasses.replace(config, aoi=corner)
    plan = make_plan(small)
    assert (len(plan.units), [unit.index for unit in plan.planned], plan.n_tiles) == (6, [0], 1)
    report = run(small)
    assert report["timings"]["tiles"] == 1
    assert report["run"]["work"]["units"] == 1
    whole, cut = (estimate(one, fakes.ByColour()) for one in (config, small))
    assert (cut.n_units, cut.n_tiles_with_tissue) == (1, 1)
    assert f"1 of 9 tiles have foreground in the area of {corner}" in str(cut)
    assert cut.disk_gb == pytest.approx(whole.disk_gb * 1600 / (fakes.HEIGHT * fakes.WIDTH), rel=0.02)


@pytest.mark.parametrize(("n_tiles", "least"), [(2, 0.5), (64, 0.0)])
def test_the_sample_that_a_run_looks_at_first_lies_in_the_area(config, aoi, n_tiles, least):
    plan = make_plan(dataclasses.replace(config, aoi=aoi))
    sample = sample_tiles(plan, n_tiles)
    assert len(sample) == min(n_tiles, plan.n_tiles)
    for window, known in zip(sample.windows, sample.foreground, strict=True):
        rows, cols = np.indices(known.shape) + 0.5
        expected = shapely.contains_xy(INSIDE, cols + window.col_off, rows + window.row_off)
        assert known.mean() > least
        assert np.array_equal(known, expected)


def test_a_small_area_of_a_large_slide_is_sampled(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_CANDIDATES", 1)
    corner = drawn(tmp_path / "corner.geojson", (box(20, 20, 60, 60), "Tumor"))
    assert len(sample_tiles(make_plan(dataclasses.replace(config, aoi=corner)))) == 1


def test_another_area_is_another_run(config, tmp_path, aoi):
    first = run(config, aoi=aoi)
    assert run(config, aoi=aoi) == first
    other = drawn(tmp_path / "other.geojson", (TUMOUR, "Tumor"))
    for changed in (other, None):
        with pytest.raises(RunMismatch, match="aoi"):
            run(config, aoi=changed)
    renamed = drawn(tmp_path / "renamed.geojson", (TUMOUR, "Carcinoma"), (FOLD, "Ignore*"))
    assert run(config, aoi=renamed) == first  # the same area


def test_the_report_names_the_area(config, aoi):
    report = run(config, aoi=aoi)
    stated = report["aoi"]
    assert stated["file"] == aoi
    assert stated["area_px"] == pytest.approx(INSIDE.area)
    assert stated["area_mm2"] == pytest.approx(INSIDE.area * 0.25e-6)
    assert [(one["class_name"], one["polygons"]) for one in stated["used"]] == [("Tumor", 1)]
    page = (Path(config.out) / "report.html").read_text()
    assert "Only the area asked for was analysed" in page
    assert "1 polygon of class Tumor" in page


def test_an_area_without_tissue_says_what_to_do(config, tmp_path, glassy):
    glass = drawn(tmp_path / "glass.geojson", (box(860, 20, 890, 60), "Tumor"))
    config = dataclasses.replace(config, source=glassy, aoi=glass)
    with pytest.raises(SourceError, match=r"no tissue was found in the area of .*--foreground all"):
        run(config)
    assert run(config, foreground="all")["area_px"] == pytest.approx(30 * 40, rel=0.01)


def test_one_file_of_regions_objects_and_the_outline(config, tmp_path):
    blob = fakes.colour_probability(fakes.picture()) >= 0.5
    inside = ndimage.binary_erosion(blob, np.ones((9, 9)))
    top, left = np.argwhere(inside & (np.indices(blob.shape) > 100).all(axis=0))[0].tolist()
    nucleus = box(left - 4, top - 4, left + 4, top + 4)
    around = box(left - 40, top - 40, left + 40, top + 40)
    both = drawn(tmp_path / "both.geojson", (around, "Region*"), (nucleus, "Nucleus"), (TUMOUR, "Tumor"))
    config = dataclasses.replace(config, support=both, aoi=both)
    with pytest.raises(SourceError, match=r"which outline the area.*--aoi-class 'Tumor'"):
        run(config)
    with pytest.raises(
        ConfigError, match=r"Tumor outlines the area, and would be looked for.*--class 'Nucleus'"
    ):
        run(config, aoi_classes=("Tumor",))
    report = run(config, aoi_classes=("Tumor",), class_names=("Nucleus",))
    assert report["class_name"] == "Nucleus"
    assert report["aoi"]["area_px"] == pytest.approx(TUMOUR.area)


def test_what_only_an_area_has_needs_one(config):
    with pytest.raises(ConfigError, match=r"--aoi-class .* give the file with --aoi"):
        dataclasses.replace(config, aoi_classes=("Tumor",))
    with pytest.raises(ConfigError, match="no name"):
        dataclasses.replace(config, aoi="a.geojson", aoi_excluded=(" ",))


def test_photographs_that_are_resized_whole_have_no_area(tmp_path):
    from PIL import Image

    Image.fromarray(fakes.picture()).save(tmp_path / "a.png")
    (five := tmp_path / "five").mkdir()
    words = [str(tmp_path), "--support", str(five), "--out", str(tmp_path / "out"), "--pictures", "whole"]
    with pytest.raises(
        ConfigError, match=r"--aoi a\.geojson: is for slides; photographs are segmented whole"
    ):
        run_job(parse([*words, "--aoi", "a.geojson"]))


def arguments(*more: str):
    return configs(parse([*more, "--support", "five", "--out", "out"]))


def test_several_slides_take_a_folder_of_files_with_their_names(tmp_path):
    for name in ("a.geojson", "b.svs.xml", "notes.txt"):
        (tmp_path / name).write_text("")
    both = arguments("x/a.svs", "x/b.svs", "--aoi", str(tmp_path), "--aoi-class", "Tumor")
    assert [Path(one.aoi).name for one in both] == ["a.geojson", "b.svs.xml"]
    assert both[1].aoi_classes == ("Tumor",)
    assert arguments("x/c.svs", "--aoi", "drawn.geojson")[0].aoi == "drawn.geojson"
    with pytest.raises(SourceError, match=r"one file, but 2 slides are given.*a\.geojson"):
        arguments("x/a.svs", "x/b.svs", "--aoi", "drawn.geojson")
    with pytest.raises(SourceError, match=r"holds no outline of x/c\.svs; name it c\.geojson"):
        arguments("x/a.svs", "x/c.svs", "--aoi", str(tmp_path))
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(SourceError, match="keep one of them"):
        arguments("x/a.svs", "--aoi", str(tmp_path))

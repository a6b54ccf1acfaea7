"""The interface of notebooks and services: results, progress, cancellation, single images."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fewscope
from fewscope.errors import Cancelled, ConfigError, FewscopeError, ResultNotFound, SupportError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.config import IndexBands
from fewscope.pipeline.execution.progress import ProgressEvent
from tests.helpers import fakes
from tests.helpers.machine import ROOT

EXACT = {"threshold": 0.5, "instances": "components", "adapt_s": 0}


WHO_LOADS = ("fewscope.pipeline.plan", "fewscope.model.segmenter")
"""Jobs, and `fewscope.Segmenter`."""


@pytest.fixture
def by_colour(monkeypatch, no_pictures):
    """A model whose answers are known, wherever one is loaded in this process."""
    for module in WHO_LOADS:
        monkeypatch.setattr(f"{module}.load_segmenter", lambda *args, **options: fakes.ByColour())


@pytest.fixture(scope="module")
def result(slide, support, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewscope.pipeline.plan.load_segmenter", lambda *args, **options: fakes.ByColour())
        patch.setattr("fewscope.pipeline.report.builder.draw", fakes.no_pictures)
        return fewscope.segment(slide, support, tmp_path_factory.mktemp("api") / "out", **EXACT)


def test_import_is_light_and_lists_its_names():
    code = "import sys, fewscope; print(*sys.modules); print(dir(fewscope))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules, names = done.stdout.splitlines()
    assert not {"numpy", "torch", "ray", "rasterio"} & {name.partition(".")[0] for name in modules.split()}
    for name in ("segment", "map", "open_result", "Segmenter", "__version__"):
        assert f"'{name}'" in names
        assert getattr(fewscope, name)
    with pytest.raises(AttributeError, match="no attribute 'segmant'"):
        _ = fewscope.segmant


def test_everything_public_is_documented():
    for public in (fewscope.segment, fewscope.map, fewscope.open_result, fewscope.Segmenter.encode):
        text = inspect.getdoc(public)
        assert "Raises\n---" in text
        for name in inspect.signature(public).parameters:
            assert name == "self" or name in text, f"{public.__name__}: {name}"


def test_a_result_has_the_numbers_and_arrays_of_its_files(result):
    report = json.loads((Path(result.out) / "report.json").read_text())
    labels = result.labels[0].compute()
    assert result.count == report["count"] == labels.max() == len(np.unique(labels)) - 1
    assert result.report_path == f"{result.out}/report.html"
    assert Path(result.report_path).is_file()
    expected = fakes.colour_probability(fakes.picture()) * 255
    assert np.abs(result.probability[0].compute().astype(float) - expected).max() <= 1
    assert np.array_equal(result.mask[0].compute() > 0, result.semantic[0].compute() == 1)
    assert result.table.count_rows() == result.count
    (only,) = result.classes
    assert (only["count"], only["value"]) == (result.count, 1)
    assert (
        result.count_interval is None or result.count_interval[0] <= result.count <= result.count_interval[1]
    )
    assert result.quality == report["quality"]
    again = fewscope.open_result(Path(result.out))
    assert again.count == result.count


def test_a_slide_is_placed_in_micrometres(result):
    assert result.mpp == pytest.approx(fakes.MPP)
    assert result.crs is None
    assert result.transform @ (10, 20) == pytest.approx((5, 10))


def test_the_table_as_pandas(result):
    table = result.to_pandas()
    assert len(table) == result.count
    labels = result.labels[0].compute()
    assert table.set_index("id")["area_px"].loc[1] == (labels == 1).sum()
    assert list(result.to_pandas(columns=["id", "area_px"]).columns) == ["id", "area_px"]


class Viewer:
    """What napari.Viewer is asked for."""

    def __init__(self):
        self.layers = {}

    def add_image(self, data, name, **how):
        self.layers[name] = ("image", data, how)

    def add_labels(self, data, name, **how):
        self.layers[name] = ("labels", data, how)


def test_layers_for_napari(result):
    viewer = result.to_napari(Viewer())
    assert {name: layer[0] for name, layer in viewer.layers.items()} == {
        "probability": "image",
        "mask": "labels",
        "instances": "labels",
    }
    _, levels, how = viewer.layers["instances"]
    assert [level.shape for level in levels] == [level.shape for level in result.labels]
    assert how["scale"] == (fakes.MPP, fakes.MPP)


@pytest.mark.parametrize("package", ["napari", "anndata"])
def test_what_needs_a_package_names_it(result, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"needs {package}: pip install"):
        getattr(result, f"to_{package}")()


def test_anndata_has_features_and_places(result):
    pytest.importorskip("anndata")
    cells, table = result.to_anndata(), result.to_pandas()
    assert cells.shape[0] == result.count
    assert np.allclose(cells.obsm["spatial"], table[["x", "y"]])
    assert np.allclose(cells[:, list(cells.var["feature"]).index("area_px")].X.ravel(), table["area_px"])


def test_the_card_of_a_notebook_escapes_what_came_from_outside(slide, support, tmp_path, by_colour):
    out = tmp_path / "<i>out"
    card = fewscope.segment(slide, support, out, **EXACT)._repr_html_()
    assert "&lt;i&gt;out/report.html" in card
    assert "<i>" not in card
    assert f"{fewscope.open_result(out).count:,}" in card


def test_progress_counts_every_tile(slide, support, tmp_path, by_colour):
    events: list[ProgressEvent] = []
    fewscope.segment(slide, support, tmp_path / "out", **EXACT, progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages[:4] == ["prepare", "decide", "segment", "number instances"]
    tiles = [event for event in events if event.unit == "tile"]
    assert tiles[0].done == 0
    assert [event.done for event in tiles] == sorted(event.done for event in tiles)
    assert tiles[-1].done == tiles[-1].total > 0


@pytest.mark.parametrize("as_event", [True, False])
def test_a_cancelled_run_resumes_to_the_same_bytes(
    slide, support, tmp_path, by_colour, as_event, monkeypatch
):
    monkeypatch.setattr("fewscope.pipeline.plan.default_shard", lambda *size: 256)
    whole, out = tmp_path / "whole", tmp_path / "out"
    fewscope.segment(slide, support, whole, **EXACT)
    stop = threading.Event()

    def after_one_unit(event: ProgressEvent) -> None:
        if event.stage == "segment" and event.done:
            stop.set()

    cancel = stop if as_event else stop.is_set
    with pytest.raises(Cancelled, match=r"in the stage 'segment'.*resumes") as caught:
        fewscope.segment(slide, support, out, **EXACT, progress=after_one_unit, cancel=cancel)
    assert isinstance(caught.value, FewscopeError)
    done = {path.name: path.stat().st_mtime_ns for path in out.glob(".fewscope/markers/r*.json")}
    assert 1 <= len(done) < 6
    with pytest.raises(ResultNotFound, match="has not finished"):
        _ = fewscope.open_result(out).count
    stop.clear()
    fewscope.segment(slide, support, out, **EXACT, cancel=cancel)
    assert fakes.outputs(out) == fakes.outputs(whole)


def test_cancelled_before_it_begins_writes_nothing(slide, support, tmp_path, by_colour):
    with pytest.raises(Cancelled, match="'prepare'"):
        fewscope.segment(slide, support, tmp_path / "out", **EXACT, cancel=lambda: True)
    assert not (tmp_path / "out").exists()


def test_errors_are_fewscopes(slide, support, tmp_path, by_colour):
    with pytest.raises(FewscopeError, match="no-such"):
        fewscope.segment(tmp_path / "no-such.svs", support, tmp_path / "out", **EXACT)
    with pytest.raises(ConfigError, match="workers -1"):
        fewscope.segment(slide, support, tmp_path / "out", **EXACT, workers=-1)
    with pytest.raises(ConfigError, match="no raster"):
        fewscope.map([], support, tmp_path / "out")
    with pytest.raises(ResultNotFound, match="has no result"):
        fewscope.open_result(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_raster_is_placed_by_its_crs(tmp_path, by_colour):
    import rasterio
    from affine import Affine

    image = fakes.picture()
    transform = Affine(10, 0, 500_000, 0, -10, 4_100_000)
    how = {"driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **how, crs="EPSG:32618", transform=transform) as file:
        file.write(np.moveaxis(image, 2, 0))
    fakes.write_support(tmp_path / "support" / "water")
    result = fewscope.map(
        tmp_path / "scene.tif",
        tmp_path / "support" / "water",
        tmp_path / "out",
        bands=(1, 2, 3),
        scale=(0, 255),
        threshold=0.5,
        adapt_s=0,
        index_bands=IndexBands(2, nir=3),
    )
    assert result.transform == transform
    assert "UTM zone 18N" in result.crs
    assert result.mpp is None
    assert result.count == int(result.labels[0].max().compute()) > 0
    assert (tmp_path / "out/mask.tif").is_file()


# --- single images ------------------------------------------------------------------------------------------


@pytest.fixture
def patches() -> tuple[np.ndarray, np.ndarray]:
    image = fakes.picture()
    images = np.stack(
        [image[r : r + PATCH_SIZE, c : c + PATCH_SIZE] for r, c in [(0, 0), (100, 200), (250, 300)]]
    )
    return images, fakes.colour_probability(images) >= 0.5


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (224, 224), (225, 100), (500, 600)])
def test_any_size_is_predicted_as_the_model_says_of_each_pixel(patches, by_colour, size):
    image = fakes.picture(500, 600)[: size[0], : size[1]]
    found = fewscope.Segmenter().encode(*patches).predict(image)
    assert (found.shape, found.dtype) == (size, np.float32)
    assert np.allclose(found, fakes.colour_probability(image), atol=1e-6)


def test_several_classes_have_a_map_each(patches, monkeypatch):
    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", lambda *args, **options: fakes.ByChannel())
    images, masks = patches
    segmenter = fewscope.Segmenter()
    monkeypatch.setattr(segmenter._model, "encode", lambda images, labels: int(labels.max()))
    image = fakes.picture(300, 250)
    found = segmenter.encode(images, masks + np.uint8(1)).predict(image)
    assert found.shape == (2, 300, 250)
    assert np.allclose(found[0], image[..., 0] / 255, atol=1e-6)
    assert np.allclose(found[1], image[..., 1] / 255, atol=1e-6)


def test_what_cannot_be_encoded_or_predicted_is_refused(patches, by_colour):
    images, masks = patches
    segmenter = fewscope.Segmenter()
    image = images[0]
    with pytest.raises(SupportError, match="call encode"):
        segmenter.predict(image)
    with pytest.raises(SupportError, match="support images are float64"):
        segmenter.encode(images / 255, masks)
    with pytest.raises(SupportError, match="support masks are int64"):
        segmenter.encode(images, masks.astype(np.int64))
    with pytest.raises(SupportError, match="mask > 0"):
        segmenter.encode(images, masks * np.uint8(255))
    segmenter.encode(images, masks)
    for wrong in (image[..., 0], image / 255, image[:0], np.dstack([image, image])):
        with pytest.raises(ConfigError, match=r"give uint8 \(H, W, 3\)"):
            segmenter.predict(wrong)


def test_the_shipped_network_finds_what_it_was_shown(
    patches, slide, support, tmp_path, no_pictures, quick_texture
):
    images, masks = patches
    segmenter = fewscope.Segmenter(device="cpu").encode(images[:2], masks[:2])
    found = segmenter.predict(images[2]) >= 0.5
    assert (found & masks[2]).sum() / (found | masks[2]).sum() > 0.6

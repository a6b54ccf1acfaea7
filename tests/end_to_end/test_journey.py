"""The whole journey in this process: what is promised of the result, against an independent truth."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
from pathlib import Path

import numpy as np
import ome_zarr_models
import pytest
import zarr
from scipy import ndimage

import fewscope.connectors.results.run_folder
from fewscope.connectors.results.reader import open_result
from fewscope.errors import OutputError, RunMismatch, UnreadableError
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.labels import same_objects

pytestmark = pytest.mark.usefixtures("no_pictures")


def run(config, model=fakes.ByColour, **changes):
    """Segment in this process; the report."""
    with LocalPool(model) as pool:
        return segment(dataclasses.replace(config, **changes), pool, model())


def outlines(config) -> list[dict]:
    """The features of the GeoJSON."""
    return json.loads(gzip.decompress((Path(config.out) / "instances.geojson.gz").read_bytes()))["features"]


@pytest.fixture(scope="session")
def truth() -> np.ndarray:
    """The model on the whole picture, thresholded."""
    return fakes.colour_probability(fakes.picture()) >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("connectivity", [1, 2])
def test_instances_are_the_components_of_the_whole_mask(config, truth, connectivity):
    report = run(config, connectivity=connectivity, shard=128)
    result = open_result(config.out)
    assert np.array_equal(result.semantic[0].compute(), truth)
    expected, n = ndimage.label(truth, ndimage.generate_binary_structure(2, connectivity))
    found = result.instances[0].compute()
    assert same_objects(found, expected)
    assert report["count"] == n == found.max()
    # the largest lies in many units, and ids are in the raster order of first pixels
    largest = found == np.bincount(found[found > 0]).argmax()
    assert len({(r // 128, c // 128) for r, c in np.argwhere(largest)}) > 8
    firsts = np.unique(found, return_index=True)[1][1:]
    assert (np.diff(firsts) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 17, 112])
def test_p_1_gives_1_everywhere(config, overlap):
    report = run(config, fakes.Certain, overlap=overlap)
    result = open_result(config.out)
    assert (result.probability[0].compute() == 255).all()
    assert (result.instances[0].compute() == 1).all()
    assert (report["count"], report["covered_fraction"], report["unread_px"]) == (1, 1.0, 0)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_size_of_the_units(config, tmp_path):
    found = []
    for unit in (128, 384, 640):
        out = tmp_path / str(unit)
        run(
            config,
            fakes.ByPlace,
            out=str(out),
            shard=128,
            unit=unit,
            threshold=None,
            instances="split",
            object_radius_um=3,
        )
        found.append(fakes.outputs(out))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name in found[0]:
        assert found[0][name] == found[1][name] == found[2][name], name


def test_table_outlines_report_and_store_agree(config, truth):
    report = run(config, min_area_um2=5)  # 20 px
    result = open_result(config.out)
    ids = result.instances[0].compute()
    table = result.table.to_table()
    n = report["count"]
    assert table["id"].to_pylist() == list(range(1, n + 1)) == np.unique(ids)[1:].tolist()
    assert table["area_px"].to_pylist() == np.bincount(ids.ravel())[1:].tolist()
    labels, _ = ndimage.label(truth, np.ones((3, 3)))
    assert n == (np.bincount(labels.ravel())[1:] >= 20).sum()
    features = outlines(config)
    assert [feature["properties"]["measurements"]["Id"] for feature in features] == list(range(1, n + 1))
    assert report["covered_px"] == (ids > 0).sum()
    assert report["run"]["model"]["SHA-256 of the weights"] == "none"
    assert {"torch", "ray", "zarr", "openslide-python", "fewscope"} <= report["run"]["versions"].keys()


def test_the_store_is_valid_ome_zarr(config):
    run(config)
    group = zarr.open_group(f"{config.out}/result.zarr", mode="r")
    ome_zarr_models.open_ome_zarr(group)
    for name in ("semantic", "instances"):
        ome_zarr_models.open_ome_zarr(group["labels"][name])


def test_nothing_found_is_a_result(config):
    report = run(config, threshold=0.999)
    assert report["count"] == 0
    assert open_result(config.out).table.count_rows() == 0
    assert outlines(config) == []


def test_a_source_smaller_than_a_tile(config, tmp_path):
    image = fakes.picture()[:100, :150]
    report = run(config, source=fakes.write_slide(tmp_path / "tiny.tif", image))
    expected, n = ndimage.label(fakes.colour_probability(image) >= 0.5, np.ones((3, 3)))
    assert report["count"] == n
    assert same_objects(open_result(config.out).instances[0].compute(), expected)


# --- a run and its folder ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_run_says_so_and_does_nothing(config, caplog, monkeypatch):
    first = run(config)
    before = fakes.outputs(Path(config.out))
    caplog.set_level("INFO")
    monkeypatch.setattr(fakes.ByColour, "predict", None)  # nobody may ask the model
    monkeypatch.setattr(fakes.ByColour, "encode", None)
    assert run(config) == first
    assert "already finished" in caplog.text
    assert fakes.outputs(Path(config.out)) == before


@pytest.mark.slow
def test_another_run_is_refused_with_what_differs_and_overwrite_starts_anew(config):
    run(config)
    before = fakes.outputs(Path(config.out))
    with pytest.raises(RunMismatch) as error:
        run(config, threshold=0.25, overlap=16)
    said = str(error.value)
    assert "overlap: was 32, now 16" in said
    assert "threshold: was 0.5, now 0.25" in said
    assert "--overwrite" in said
    assert "\n" not in said
    assert fakes.outputs(Path(config.out)) == before
    count = run(config, threshold=0.25, overlap=16, overwrite=True)["count"]
    assert count != json.loads(before["report.json"])["count"]
    assert open_result(config.out).report["run"]["options"]["threshold"] == 0.25


def test_a_folder_of_something_else_is_left_alone(config):
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.txt").write_text("important")
    with pytest.raises(RunMismatch, match=r"thesis\.txt"):
        run(config, overwrite=True)
    assert [path.name for path in Path(config.out).iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_a_full_disk_stops_cleanly_and_the_same_command_resumes(config, tmp_path, monkeypatch):
    run(config, out=str(tmp_path / "never full"))
    room = [25]

    def fsync(descriptor):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(fewscope.connectors.results.run_folder.os, "fsync", fsync)
        with pytest.raises(OutputError) as error:
            run(config)
    said = str(error.value)
    assert "No space left on device" in said
    assert "same command" in said
    assert "\n" not in said
    n_done = len(list((Path(config.out) / ".fewscope/markers").glob("*.json")))
    assert 0 < n_done < 6
    run(config)
    assert fakes.outputs(Path(config.out)) == fakes.outputs(tmp_path / "never full")


# --- what cannot be read ----------------------------------------------------------------------------------


@pytest.fixture
def damaged_slide(tmp_path) -> str:
    """The slide in JPEG tiles of 256 px, the first of which is garbage."""
    return fakes.write_damaged_slide(tmp_path / "damaged.tif")


@pytest.mark.slow
def test_one_damaged_tile_is_said_and_costs_nothing_else(config, damaged_slide):
    report = run(config, source=damaged_slide, support_slide=None, max_unreadable=0.5)
    result = open_result(config.out)
    assert report["unread_px"] == 256 * 256
    assert report["unread_fraction"] == pytest.approx(256 * 256 / (500 * 600), rel=0.02)
    assert report["area_px"] == pytest.approx(500 * 600 - 256 * 256, rel=0.02)
    probability = result.probability[0].compute()
    assert not probability[:256, :256].any()
    assert (probability[:, 256:] > 0).mean() > 0.9
    assert any("could not be read" in note for note in report["notes"])


@pytest.mark.slow
def test_more_unreadable_than_allowed_is_an_error_each_time_it_is_asked(config, damaged_slide):
    for _ in range(2):
        with pytest.raises(UnreadableError, match=r"21\.\d% .*--max-unreadable 10\.0%"):
            run(config, source=damaged_slide)
        assert (Path(config.out) / "report.json").exists()
    assert run(config, source=damaged_slide, max_unreadable=0.5)["unread_px"] > 0

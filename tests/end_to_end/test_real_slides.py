"""The whole journey on real slides, at low resolution; and every odd file through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import zarr

import fewscope.jobs.segmenting
from fewscope.connectors.open import open_source
from fewscope.connectors.results.reader import open_result
from fewscope.jobs import segment_wsi
from tests.helpers import fakes

SHARED_DATA = Path(
    os.environ.get("FEWSCOPE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)
SLIDES = SHARED_DATA / "slides"


@pytest.fixture(scope="module", autouse=True)
def slides_are_there():
    if SLIDES.is_dir():
        return
    explain = f"no slides in {SLIDES}; set FEWSCOPE_SHARED_DATA to the folder that holds slides/"
    if os.environ.get("CI") == "true":
        pytest.fail(explain)
    pytest.skip(explain)


def box(row: float, col: float, side: float, name: str) -> dict:
    """A square of level-0 pixels as QuPath writes it."""
    corners = [[col, row], [col + side, row], [col + side, row + side], [col, row + side], [col, row]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def draw_annotations(path: Path, slide: str, **resolution: float) -> str:
    """Two regions on the slide with one square object in each; sized for the working resolution."""
    source = open_source(slide, **resolution)
    info, step = source.info, source.info.transform.a
    side = min(info.native_height, info.native_width, 200 * step)
    features = []
    for part in (0.0, 1.0):
        row = part * (info.native_height - side)
        col = part * (info.native_width - side)
        features += [box(row, col, side, "Region*"), box(row + side / 4, col + side / 4, side / 2, "Thing")]
    source.close()
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


@pytest.fixture
def job(tmp_path, capfd, monkeypatch):
    """``job(slide, flags)`` -> (exit code, stderr's lines), in this process, with the shipped model if so wanted."""

    def call(slide: str, support: str, *flags: object, shipped: bool = False) -> tuple[int, list[str]]:
        capfd.readouterr()
        if not shipped:
            monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.Coarse)
        options = ["--local", "--adapt", "0", *map(str, flags)]
        command = [slide, "--support", support, "--out", str(tmp_path / "out"), *options]
        code = segment_wsi.main(command)
        return code, capfd.readouterr().err.splitlines()

    return call


# slide, resolution, size of the working grid
REAL = [
    ("CMU-1-Small-Region.svs", {"mpp": 2.0}, (740, 554)),
    ("TCGA-CR-7395-01A-01-TS1.svs", {"mpp": 2.0, "slide_mpp": 0.25}, None),
    ("test3-DAPI.ndpi", {"mpp": 3.65}, None),
    ("wsi2dcm-jpeg.dcm", {"mpp": 20.0}, None),
    ("odd/small_HE_levels.tiff", {"mpp": 2.0, "slide_mpp": 0.5}, None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "resolution", "size"), REAL, ids=[case[0] for case in REAL])
def test_real_slides_from_annotations_to_a_report(job, tmp_path, name, resolution, size):
    slide = str(SLIDES / name)
    support = draw_annotations(tmp_path / "drawn.geojson", slide, **resolution)
    flags = [text for key, value in resolution.items() for text in (f"--{key.replace('_', '-')}", value)]
    assert job(slide, support, *flags, shipped=size is not None) == (0, [])  # one of them
    out = tmp_path / "out"
    result, report = open_result(str(out)), json.loads((out / "report.json").read_text())
    if size:
        assert result.instances[0].shape == size
    assert report["mpp"] == pytest.approx(resolution["mpp"], rel=0.02)
    assert report["count"] == result.table.count_rows() == result.instances[0].max().compute()
    assert report["unread_px"] == 0
    assert (result.probability[0].max() > 0).compute()
    import ome_zarr_models

    ome_zarr_models.open_ome_zarr(zarr.open_group(out / "result.zarr", mode="r"))


ODD = {  # what the command line says of each, or None where a result is finished
    "broken.svs": ["not a slide", "copy it again"],
    "kidney-48-5.tif": None,
    "small_dicom.dcm": ["OpenSlide cannot open it"],
    "small_vectra.qptiff": None,
    "unopenable.tiff": ["Unsupported TIFF compression"],
    "boxes.tiff": ["352.778", "--slide-mpp"],
    "small_HE_levels.tiff": ["352.858", "--slide-mpp"],
    "unreadable.svs": ["no pixel of it could be read"],
    "small.svs": None,
    "😐.svs": None,
}


def test_every_odd_file_is_spoken_of():
    assert {path.name for path in (SLIDES / "odd").iterdir()} == ODD.keys()


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> str:
    """A support set that states no resolution, and so suits any slide."""
    folder = Path(fakes.write_support(tmp_path_factory.mktemp("patches") / "blobs"))
    (folder / "support.json").unlink()
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), ODD.items(), ids=ODD.keys())
def test_odd_files_give_a_clear_error_or_a_result(job, tmp_path, patches, name, words):
    slide = str(SLIDES / "odd" / name)
    code, lines = job(slide, patches)
    if words is None:
        assert (code, lines) == (0, [])
        assert json.loads((tmp_path / "out/report.json").read_text())["count"] >= 0
        return
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for word in [slide, *words]:
        assert word in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("TCGA-CR-7395-01A-01-TS1.svs", ["does not state", "--slide-mpp"])]
)
def test_slides_without_resolution_say_what_to_do(job, tmp_path, patches, name, words):
    code, lines = job(str(SLIDES / name), patches)
    assert code == 2
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]

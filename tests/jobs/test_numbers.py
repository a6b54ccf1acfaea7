"""Numbers that make no sense are refused before anything is started, in one line that names the option."""

from __future__ import annotations

import pytest

import fewscope
from fewscope.connectors.raster_options import RasterOptions
from fewscope.errors import ConfigError
from fewscope.jobs import convert, evaluate, map_changes, segment_raster, segment_wsi, train
from tests.helpers import fakes
from tests.helpers.rasters import north_up, waves, write_raster
from tests.helpers.support_folders import save_pair

SLIDE = "slide.svs --support support --out OUT"
RASTER = "scene.tif --support support --out OUT"
DATES = "1990.tif 2000.tif --support support --out OUT"
TRAIN = "--synthetic-only --out OUT"
EVALUATE = "--data data --out OUT"
CONVERT = "voc data --out OUT"

SHARED = (
    "--adapt nan", "--adapt inf", "--adapt -1", "--threshold nan", "--threshold 0", "--threshold 1",
    "--overlap -1", "--overlap 113", "--max-unreadable nan", "--max-unreadable 2", "--workers 0", "--workers -1",
    "--gpus-per-worker -1", "--gpus-per-worker nan", "--gpus-per-worker inf", "--unit-timeout 0",
    "--unit-timeout nan", "--class lake --class lake",
)  # fmt: skip
OF_SLIDES = (
    "--mpp nan", "--mpp 0", "--mpp inf", "--slide-mpp -1", "--slide-mpp nan", "--min-area-um2 nan",
    "--min-area-um2 inf", "--min-area-um2 -1", "--object-radius-um nan", "--object-radius-um inf",
    "--object-radius-um 0",
)  # fmt: skip
OF_RASTERS = (
    "--bands 0,1,2", "--bands 1,1", "--bands 3,3,3", "--scale 2 1", "--scale 1 1", "--scale nan 1", "--scale 0 inf",
    "--res nan", "--res 0", "--res -10", "--res inf", "--bbox 1 2 1 3", "--bbox 1 3 2 2", "--bbox nan 0 1 1",
    "--bbox 0 0 inf 1", "--bbox -70 0 -75 1", "--simplify nan", "--simplify inf", "--simplify -1",
    "--min-area-m2 nan", "--min-area-m2 inf", "--min-area-m2 -1", "--green 0 --nir 4", "--green 2 --nir 0",
    "--green 2 --nir 2", "--green 2 --swir -1", "--nir 4", "--nodata one", "--crs ''",
)  # fmt: skip
OF_TRAINING = (
    "--learning-rate nan", "--learning-rate inf", "--learning-rate 0", "--steps 0", "--crop 0", "--crop 113",
    "--episodes-per-step 0", "--seed -1", "--report-every 0", "--validate-every 0", "--validate-every -50",
    "--loader-workers -1", "--threads 0", "--workers 0", "--workers -2",
)  # fmt: skip
OF_EVALUATION = (
    "--shots 0", "--shots 1 -1", "--episodes 0", "--queries 0", "--n-way 0", "--n-way -1", "--seed -1",
    "--adapt nan", "--adapt inf", "--adapt 0",
)  # fmt: skip
OF_CONVERSION = ("--min-area nan", "--min-area -0.1", "--min-area 2", "--max-pairs 0", "--fold 4")

CASES = [
    (job, words, bad)
    for job, words, table in (
        (segment_wsi, SLIDE, (*SHARED, *OF_SLIDES)),
        (segment_raster, RASTER, (*SHARED, *OF_RASTERS)),
        (map_changes, DATES, (*SHARED, *OF_RASTERS)),
        (train, TRAIN, OF_TRAINING),
        (evaluate, EVALUATE, OF_EVALUATION),
        (convert, CONVERT, OF_CONVERSION),
    )
    for bad in table
]


@pytest.mark.parametrize(
    ("job", "words", "bad"), CASES, ids=[f"{job.__name__.rpartition('.')[2]} {bad}" for job, _, bad in CASES]
)
def test_a_number_that_makes_no_sense(job, words, bad, tmp_path, monkeypatch, capsys):
    def started(*_args, **_more):
        raise AssertionError("something was started")

    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", started)
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", started)
    monkeypatch.setattr("fewscope.model.training.job.TrainingJob.run", started)
    monkeypatch.chdir(tmp_path)
    for name in ("slide.svs", "scene.tif", "1990.tif", "2000.tif"):
        (tmp_path / name).touch()
    (tmp_path / "support").mkdir()
    out = tmp_path / "out"
    command = [word.replace("OUT", str(out)) for word in words.split()]
    try:
        code = job.main([*command, *("" if word == "''" else word for word in bad.split())])
    except SystemExit as end:  # from the parser
        code = end.code
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert "error: " in said
    assert any(word in said for word in bad.split() if word.startswith("--"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--res 5000", "--res 5000"),
        ("--crs EPSG:999999", "--crs"),
        ("--crs nowhere", "--crs"),
        ("--bands 1,2,5", "--bands"),
        ("--green 2 --nir 5", "--nir"),
        ("--green 2 --swir 9", "--swir"),
        ("--bbox 10 10 11 11", "does not overlap"),
        ("--bbox 500000 4498000 502000 4500000", "--bbox"),
    ],
)
def test_a_number_that_the_raster_contradicts(options, word, tmp_path, monkeypatch, capsys):
    """It takes the file to know; no model is asked, and nothing is written."""
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda config: fakes.ByColour)
    scene = write_raster(tmp_path / "scene.tif", waves(300, 300, 4), north_up())
    save_pair(tmp_path / "support", "a")
    save_pair(tmp_path / "support", "b")
    out = tmp_path / "out"
    command = [scene, "--support", str(tmp_path / "support"), "--out", str(out), "--local", *options.split()]
    assert segment_raster.main(command) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert word in said
    assert "scene.tif" in said
    assert not out.exists()


def test_the_ends_are_allowed():
    from fewscope.pipeline.config import SegmentConfig, check_workers

    check_workers(1, 0)
    check_workers(None, 0.5)
    SegmentConfig("a", "b", "c", mpp=0.1, simplify_px=0.0, class_names=("a", "A"))
    RasterOptions(bands=(1, 2, 1), bbox=(179.0, 0.0, -179.0, 1.0))


@pytest.mark.parametrize(
    "options",
    [
        {"mpp": float("nan")},
        {"adapt_s": float("inf")},
        {"min_area_um2": float("nan")},
        {"threshold": float("nan")},
        {"max_unreadable": float("nan")},
        {"class_names": ("a", "a")},
        {"workers": -1},
    ],
)
def test_from_python_likewise(options, tmp_path):
    with pytest.raises(ConfigError):
        fewscope.segment("slide.svs", "support", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"res": float("nan")},
        {"scale": (1, 1)},
        {"bands": (0, 1, 2)},
        {"bbox": (1, 3, 2, 2)},
        {"min_area_m2": float("nan")},
        {"simplify_px": float("inf")},
        {"workers": -1},
    ],
)
def test_of_rasters_from_python_likewise(options, tmp_path):
    with pytest.raises(ConfigError):
        fewscope.map("scene.tif", "support", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_segmenter_refuses_an_overlap_of_more_than_half_a_tile():
    with pytest.raises(ConfigError, match="overlap 113"):
        fewscope.Segmenter(overlap=113)

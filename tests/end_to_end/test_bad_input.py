"""Every row of the design's table of bad input, through the command line: one line, exit code 2, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

import fewscope.jobs.segmenting
from fewscope.jobs import segment_wsi
from tests.helpers import fakes
from tests.helpers.object_stores import forget_s3

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def cli(monkeypatch, capfd, tmp_path, slide, support):
    """Run the job with a fake model: ``cli(source=..., support=..., flags)`` -> (exit code, stderr's lines)."""
    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.ByColour)

    def call(*flags, source=slide, support=support, out=tmp_path / "out"):
        capfd.readouterr()
        command = [str(source), "--support", str(support), "--out", str(out), "--local", *map(str, flags)]
        code = segment_wsi.main(command)
        return code, capfd.readouterr().err.splitlines()

    return call


def refused(answer, *words, out: Path | None = None) -> None:
    """Exit code 2, one line on stderr that says all `words`, nothing in the output folder."""
    code, lines = answer
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert str(word) in lines[0]
    assert out is None or not out.exists()


# --- the slide --------------------------------------------------------------------------------------------


def missing(path):
    pass


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.mkdir()


def text(path):
    path.write_text("not a slide")


def cut_short(path):
    fakes.write_slide(path)
    path.write_bytes(path.read_bytes()[:3000])


def photograph(path):
    Image.fromarray(fakes.picture()).save(path, format="PNG")


def raster(path):
    profile = {
        "driver": "GTiff",
        "height": 64,
        "width": 64,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32631",
    }
    with rasterio.open(path, "w", transform=Affine(10, 0, 5e5, 0, -10, 5e6), tiled=True, blockxsize=64,
                       blockysize=64, **profile) as file:  # fmt: skip
        file.write(np.zeros((3, 64, 64), np.uint8))


def unstated(path):
    fakes.write_slide(path, mpp=None)


def implausible(path):
    fakes.write_slide(path, mpp=352.8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["no such file"]),
        (empty, ["0 bytes", "copy it again"]),
        (folder, ["is a folder"]),
        (text, ["not a slide"]),
        (cut_short, ["copy it again"]),
        (photograph, ["PNG picture", "fewscope.connectors.slides.pyramid_tiff"]),
        (raster, ["georeferenced raster"]),
        (unstated, ["does not state its resolution", "--slide-mpp"]),
        (implausible, ["352.8", "--slide-mpp"]),
    ],
)
def test_slides(cli, tmp_path, make, words):
    path = tmp_path / "a slide.svs"
    make(path)
    refused(cli(source=path), path, *words, out=tmp_path / "out")


def test_a_finer_resolution_than_that_of_the_support_set(cli, tmp_path):
    refused(cli("--mpp", "0.3"), "0.3", "--mpp 0.5", out=tmp_path / "out")


def test_the_flag_that_the_message_names_settles_it(cli, tmp_path):
    slide = tmp_path / "unstated.tif"
    unstated(slide)
    assert cli("--slide-mpp", "0.5", source=slide) == (0, [])


def test_a_damaged_tile_is_no_error_unless_too_much_is_lost(cli, tmp_path):
    slide = fakes.write_damaged_slide(tmp_path / "damaged.tif")
    refused(cli(source=slide), slide, "could not be read", "--max-unreadable")
    assert (tmp_path / "out/report.json").exists()  # the rest is there
    assert cli("--max-unreadable", "0.5", source=slide) == (0, [])


# --- the support set --------------------------------------------------------------------------------------


def change_label(folder, change):
    path = folder / "label/1.png"
    change(np.array(Image.open(path))).save(path)


def no_labels(folder):
    for path in (folder / "label").iterdir():
        path.unlink()
    (folder / "label").rmdir()


def no_files(folder):
    for path in [*folder.glob("*/*.png")]:
        path.unlink()


def other_size(folder):
    change_label(folder, lambda mask: Image.fromarray(mask[:200]))


def all_empty(folder):
    for path in (folder / "label").iterdir():
        Image.fromarray(np.zeros((224, 224), np.uint8)).save(path)


def all_full(folder):
    for path in (folder / "label").iterdir():
        Image.fromarray(np.full((224, 224), 255, np.uint8)).save(path)


def grey(folder):
    change_label(folder, lambda mask: Image.fromarray(np.arange(224 * 224, dtype=np.uint8).reshape(224, 224)))


def real_numbers(folder):
    (folder / "label/1.png").unlink()
    Image.fromarray(np.full((224, 224), 0.5, np.float32)).save(folder / "label/1.tif")


def transparent(folder):
    path = folder / "image/1.png"
    picture = Image.open(path).convert("RGBA")
    picture.putalpha(100)
    picture.save(path)


def palette_of_unclear_meaning(folder):
    def change(mask):
        picture = Image.fromarray((mask > 0).astype(np.uint8), mode="P")
        picture.putpalette([255, 255, 255, 0, 0, 0])
        return picture

    change_label(folder, change)


def broken_picture(folder):
    (folder / "image/1.png").write_bytes(b"not a picture")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_files, ["no labelled pair"]),
        (no_labels, ["no label/"]),
        (other_size, ["label/1.png", "200 x 224"]),
        (all_empty, ["labelled as object"]),
        (all_full, ["labelled as background"]),
        (grey, ["label/1.png", "expected 2"]),
        (real_numbers, ["label/1.tif", "mode F"]),
        (transparent, ["image/1.png", "transparent"]),
        (palette_of_unclear_meaning, ["label/1.png", "palette"]),
        (broken_picture, ["image/1.png", "not a picture"]),
    ],
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_support_sets(cli, tmp_path, spoil, words):
    folder = tmp_path / "support set"
    fakes.write_support(folder)
    spoil(folder)
    refused(cli(support=folder), folder, *words, out=tmp_path / "out")


def small_numbers(folder):  # 0/1 here, 0/255 in the others
    change_label(folder, lambda mask: Image.fromarray((mask > 0).astype(np.uint8)))


def deep(folder):
    change_label(folder, lambda mask: Image.fromarray((mask > 0).astype(np.uint16) * 65535))


def opaque(folder):
    path = folder / "image/1.png"
    Image.open(path).convert("RGBA").save(path)


def one_negative(folder):
    change_label(folder, lambda mask: Image.fromarray(np.zeros_like(mask)))


@pytest.mark.slow
@pytest.mark.parametrize("vary", [small_numbers, deep, opaque, one_negative])
def test_support_sets_whose_meaning_is_certain(cli, tmp_path, vary):
    folder = tmp_path / "support set"
    fakes.write_support(folder)
    vary(folder)
    assert cli(support=folder) == (0, [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", ["no such folder"]),
        ("none.geojson", ["none.geojson"]),
        ("broken.geojson", ["broken.geojson"]),
    ],
)
def test_support_that_is_not_there(cli, tmp_path, name, words):
    (tmp_path / "broken.geojson").write_text("{")
    refused(cli(support=tmp_path / name), *words, out=tmp_path / "out")


# --- options and the output -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "1.5"], ["1.5", "between 0 and 1"]),
        (["--overlap", "200"], ["200", "use 32"]),
        (["--min-area-um2", "-1"], ["-1"]),
        (["--max-unreadable", "7"], ["--max-unreadable 7"]),
        (["--instances", "split"], ["--object-radius-um"]),
        (["--object-radius-um", "-3"], ["-3"]),
        (["--mpp", "1000"], ["1000", "0.0001..50"]),
    ],
)
def test_options_that_make_no_sense(cli, tmp_path, flags, words):
    refused(cli(*flags), *words, out=tmp_path / "out")


def test_weights_that_are_not_there(monkeypatch, capfd, tmp_path, slide, support):
    weights, out = tmp_path / "no weights.safetensors", tmp_path / "out"
    command = [slide, "--support", support, "--out", str(out), "--local", "--weights", str(weights)]
    refused((segment_wsi.main(command), capfd.readouterr().err.splitlines()), weights, out=out)
    weights.write_bytes(b"not safetensors")
    refused((segment_wsi.main(command), capfd.readouterr().err.splitlines()), weights, out=out)


def test_another_runs_output(cli, tmp_path):
    assert cli("--threshold", "0.5") == (0, [])
    before = fakes.outputs(tmp_path / "out")
    refused(cli("--threshold", "0.4"), "threshold: was 0.5, now 0.4", "--overwrite")
    assert fakes.outputs(tmp_path / "out") == before


def test_output_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "a file").write_text("in the way")
    refused(cli(out=tmp_path / "a file"), "a file")
    refused(cli(out=tmp_path / "a file/out"), "a file", "cannot write")
    assert (tmp_path / "a file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(cli, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(cli(out=tmp_path / "locked/out"), "may write to")


def test_a_bucket_that_does_not_answer(cli, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        refused(cli(out="s3://bucket/out"), "s3://bucket/out")
    finally:
        forget_s3()


# --- many slides ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("broken_one", [0, 1])
def test_one_broken_slide_among_many_does_not_stop_the_others(cli, tmp_path, slide, broken_one):
    broken = tmp_path / "broken.svs"
    broken.write_text("not a slide")
    others = [str(tmp_path / "b.tif")]
    os.link(slide, others[0])
    slides = [slide, *others]
    slides.insert(broken_one, str(broken))
    code, lines = cli(*slides[1:], source=slides[0])
    assert code == 2
    assert len(lines) == 1
    assert str(broken) in lines[0]
    done = sorted(path.parent.name for path in (tmp_path / "out").glob("*/report.json"))
    assert done == ["b", "blobs"]
    assert not (tmp_path / "out/broken").exists()

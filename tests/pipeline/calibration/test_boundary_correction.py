"""Trees correct outlines only where held-out patches gain clearly and the source looks like them, and stay decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewscope.pipeline.run
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model import segmenter
from fewscope.model.networks import boundary_trees
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration import boundary_correction, model_selection, operating_point
from fewscope.pipeline.calibration.boundary_correction import correct_boundaries
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.model_selection import EncodingOptions, SelectedEncoding
from fewscope.pipeline.calibration.source_match import SourceMatch
from fewscope.pipeline.config import RasterConfig, SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.rasters import north_up, write_raster

SIDE, WRONG = 224, 45  # rows of each patch, and how many of these are labelled as background


class Features(SimpleNamespace):
    """Features of a stand-in."""

    def with_boundaries(self, trees: Sequence[Any]) -> Features:
        return Features(boundaries=tuple(trees))

    def recoloured(self, tiles: np.ndarray) -> np.ndarray:
        return tiles


class Corrector:
    """A model whose trees clear the first rows of a mask: as many as the picture's blue says."""

    name = "corrector"

    def __init__(self) -> None:
        self.fitted: list[list[int]] = []

    def fit_boundary(self, images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> str | None:
        self.fitted.append(images[:, 0, 0, 0].tolist())
        return "trees" if labels.any() else None

    def correct_boundary(self, images: np.ndarray, probabilities: np.ndarray, trees: str) -> np.ndarray:
        found = probabilities.copy()
        for image, of_image in zip(images, found, strict=True):
            of_image[: int(image[0, 0, 2])] = 0
        return found


def patches(cleared: Sequence[int]) -> SupportSet:
    """Patches whose red is their number and whose blue the rows that the trees clear: the first are wrong."""
    k = len(cleared)
    images = np.zeros((k, SIDE, SIDE, 3), np.uint8)
    images[..., 0] = np.arange(k)[:, None, None]
    images[..., 2] = np.array(cleared)[:, None, None]
    labels = np.ones((k, SIDE, SIDE), np.uint8)
    labels[:, :WRONG] = 0
    return SupportSet(images, labels, None, tuple(map(str, range(k))), None, ("object",))


def encoded(support: SupportSet, agreement: tuple[float | None, ...] = (0.9,)) -> SelectedEncoding:
    held_out = np.ones(support.images.shape[:3], np.float32)
    return SelectedEncoding(
        Features(boundaries=()), [held_out], [None], EncodingOptions(), 0.8, 0.8, agreement
    )


def source(rows: int) -> tuple[SourceMatch, np.ndarray]:
    """A source that is object everywhere, and tiles of which the trees clear so many rows."""
    tiles = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    tiles[..., 2] = rows
    return SourceMatch(Features(boundaries=()), maps=np.ones((2, 1, SIDE, SIDE), np.float32)), tiles


@pytest.mark.parametrize(
    ("cleared", "gains"),
    [
        ((45, 45, 45, 45, 45), True),
        ((45, 45, 45, 45, 0), True),
        ((0, 0, 0, 0, 0), False),
        ((90, 90, 90, 90, 90), False),
        ((45, 0, 0, 0, 0), False),  # the mean is better by less than two standard errors
        ((45, 45), False),  # too few patches to tell
        ((45,), False),
    ],
)
def test_they_must_help_clearly(cleared: tuple[int, ...], gains: bool) -> None:
    support = patches(cleared)
    plain = encoded(support)
    before, tiles = source(45)
    better, after = correct_boundaries(Corrector(), plain, support, before, tiles)
    assert bool(better.options.corrected) == gains
    assert ("boosted trees" in str(better)) == gains
    if not gains:
        assert better is plain
        assert after is before
        return
    assert after.features.boundaries == ("trees",)
    assert before.maps is not None
    assert after.maps is not None
    assert before.maps.all(), "not changed in place"
    assert not after.maps[:, 0, :45].any()
    assert after.maps[:, 0, 45:].all()
    (held_out,) = better.held_out
    assert held_out is not None
    for of_patch, rows in zip(held_out, cleared, strict=True):
        assert not of_patch[:rows].any()
        assert of_patch[rows:].all()
    assert better.selected_iou is not None
    assert better.selected_iou > 0.9


def test_a_gain_of_less_than_a_hundredth_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    support = patches((45, 45, 45, 45))
    plain = encoded(support)
    monkeypatch.setattr(boundary_correction, "LEAST_GAIN", 0.3)  # theirs is 0.2
    assert correct_boundaries(Corrector(), plain, support, *source(45))[0] is plain


@pytest.mark.parametrize(("rows", "fits"), [(45, True), (60, True), (75, False), (150, False)])
def test_the_source_must_change_as_little_as_the_patches(rows: int, fits: bool) -> None:
    """Held-out masks keep 0.8 of themselves."""
    support = patches((45, 45, 45, 45))
    plain = encoded(support)
    better, _ = correct_boundaries(Corrector(), plain, support, *source(rows))
    assert bool(better.options.corrected) == fits
    match, tiles = source(rows)
    unknown = replace(match, maps=None)
    assert correct_boundaries(Corrector(), plain, support, unknown, tiles)[0] is plain, "cannot be judged"
    assert correct_boundaries(Corrector(), plain, support, unknown, tiles[:0])[0].options.corrected


def test_a_patch_is_corrected_by_trees_that_have_not_seen_it() -> None:
    support, model = patches((45, 45, 45, 45)), Corrector()
    plain = encoded(support)
    correct_boundaries(model, plain, support, *source(45))
    everything = set(range(4))
    assert [set(numbers) for numbers in model.fitted[:-1]] == [everything - {k} for k in range(4)]
    assert set(model.fitted[-1]) == everything


def test_nothing_is_corrected_without_adaptation_or_by_other_models() -> None:
    support = patches((45, 45, 45, 45))
    unadapted = encoded(support, agreement=())
    model = Corrector()
    assert correct_boundaries(model, unadapted, support, *source(45))[0] is unadapted
    assert not model.fitted
    plain = encoded(support)
    other: Any = SimpleNamespace(name="other")
    assert correct_boundaries(other, plain, support, *source(45))[0] is plain


def streams(folder: Path) -> SegmentConfig:
    """A scene of streams a few pixels wide, told from the land by each pixel's colour, and three patches of it."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, : 3 * SIDE]
    water = np.zeros((SIDE, 3 * SIDE), bool)
    for k in range(3):
        middle = 40 + 70 * k + 18 * np.sin(columns / 23 + k) + 6 * np.sin(columns / 5 + 2 * k)
        water |= np.abs(rows - middle) < 2.0 + generator.integers(0, 4, (1, 3 * SIDE))
    land = generator.integers(90, 160, (SIDE, 3 * SIDE, 3))
    pixels = np.where(water[..., None], [40, 60, 110], land).astype(np.uint8)
    path = write_raster(folder / "scene.tif", pixels.transpose(2, 0, 1), north_up())
    patches = folder / "patches"
    patches.mkdir()
    for k in range(3):
        part = slice(k * SIDE, (k + 1) * SIDE)
        Image.fromarray(pixels[:, part]).save(patches / f"{k}.png")
        Image.fromarray(water[:, part]).save(patches / f"{k}_mask.png")
    return SegmentConfig(path, str(patches), "", shard=256, raster=RasterConfig())


def test_the_next_source_of_a_support_set_fits_no_trees_again_but_judges_them_by_itself() -> None:
    support = patches((45, 45, 45, 45, 45))
    plain, model = encoded(support), Corrector()
    encodings = EncodingCache(model)  # type: ignore[arg-type]
    suits, does_not = source(45), source(SIDE)
    one = correct_boundaries(model, plain, support, *suits, encodings)[0]
    n_fitted = len(model.fitted)
    assert n_fitted > 1
    two = correct_boundaries(model, plain, support, *suits, encodings)[0]
    assert two.options == one.options
    assert np.array_equal(np.stack(two.held_out), np.stack(one.held_out))  # type: ignore[arg-type]
    assert correct_boundaries(model, plain, support, *does_not, encodings)[0] is plain
    assert len(model.fitted) == n_fitted


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures", "quick_texture")
def test_a_run_says_that_it_corrects_and_a_resumed_one_goes_on_with_the_same_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEAST_GAIN", -1.0), ("STANDARD_ERRORS", 0.0), ("MARGIN", 1.0)):
        monkeypatch.setattr(boundary_correction, name, value)  # whether they help is not asked here
    monkeypatch.setattr(model_selection, "OTHER_SIDES", {1: ()})
    monkeypatch.setattr(model_selection, "TEXTURE_SHARES", ())
    monkeypatch.setattr(operating_point, "N_MATCHED", 1)
    monkeypatch.setattr(boundary_trees, "N_TREES", 20)
    monkeypatch.setitem(segmenter.SIDES_OF, 1, (96,))
    config, model = streams(tmp_path), load_segmenter(device="cpu")
    encodings = EncodingCache(model)

    def run(name: str) -> Path:
        out = tmp_path / name
        with LocalPool(lambda: model) as pool:
            segment(replace(config, out=str(out)), pool, model, encodings=encodings)
        return out

    whole = run("whole")
    assert "outlines by boosted trees" in (whole / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(fewscope.pipeline.run, "number_instances", None)
        with pytest.raises(TypeError):
            run("stopped")
    markers = sorted((tmp_path / "stopped/.fewscope/markers").glob("r*.json"))
    markers[0].unlink()  # one unit is predicted again
    with monkeypatch.context() as patch:
        patch.setattr(operating_point, "correct_boundaries", None)  # nothing is decided again
        assert fakes.outputs(run("stopped")) == fakes.outputs(whole)
    monkeypatch.setattr(operating_point, "correct_boundaries", lambda _, encoding, *rest: (encoding, rest[1]))
    assert fakes.outputs(run("uncorrected")) != fakes.outputs(whole)

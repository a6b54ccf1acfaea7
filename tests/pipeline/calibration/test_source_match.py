"""What a job looks at before it segments, and how it adjusts the support set to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewscope.pipeline.run
from fewscope.model.networks.pixel_classifier import N_STATISTICS, TexturePack
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.views import SupportFeatures, View
from fewscope.pipeline.calibration import operating_point
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.leave_one_out import agreement
from fewscope.pipeline.calibration.model_selection import EncodingOptions, SelectedEncoding
from fewscope.pipeline.calibration.sampling import sample_tiles
from fewscope.pipeline.calibration.source_match import OFFSETS, SourceMatch, colour_table, match_source
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from fewscope.pipeline.tiling.foreground import Foreground
from fewscope.pipeline.tiling.grid import TileGrid
from tests.helpers import fakes

SIDE = 512


class Squares:
    """A source whose red is the column / 4 and whose green the row / 4; its right quarter cannot be read."""

    info = SimpleNamespace(n_channels=3)

    def read(self, window: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(window.row_off, window.row_off + window.height)[:, None]
        cols = np.arange(window.col_off, window.col_off + window.width)[None]
        red, green = np.broadcast_arrays(cols // 4, rows // 4)
        return np.stack([red, green, 0 * red], -1).astype(np.uint8), np.broadcast_to(cols < 384, red.shape)


def plan(mask: list[list[bool]]) -> Any:
    return SimpleNamespace(
        source=Squares(),
        grid=TileGrid(SIDE, SIDE, 64, 0),
        foreground=Foreground(np.array(mask), (SIDE, SIDE)),
    )


def test_tiles_are_of_the_foreground_whole_and_spread_over_it() -> None:
    everywhere = sample_tiles(plan([[True, True], [True, True]]), 40).images
    assert everywhere.shape == (40, 64, 64, 3)
    assert len(np.unique(everywhere[:, 0, 0, :2], axis=0)) == 40
    corners = everywhere[:, 0, 0, :2].astype(int) * 4
    assert corners[:, 0].max() + 64 <= 384  # what could not be read is left out
    assert corners[:, 0].min() == 0
    assert corners[:, 1].min() == 0
    assert corners[:, 1].max() == SIDE - 64
    sample = sample_tiles(plan([[False, False], [True, False]]), 24)
    assert sample.foreground.all()
    assert [window.row_off for window in sample.windows] == [4 * int(i[0, 0, 1]) for i in sample.images]
    below = sample.images
    assert len(below) == 4 * 4
    assert (below[:, 0, 0, 1].astype(int) * 4 >= SIDE // 2).all()
    assert not len(sample_tiles(plan([[False, False], [False, False]])))


class Look:
    """Features of a stand-in: darker than `level` is object, for the classifier darker than half of the patches' level.

    Made of patches whose objects are at 50 and whose ground is at 200.
    """

    def __init__(self, network: float, classifier: float, colours: np.ndarray | None = None) -> None:
        self.network, self.classifier, self.colours = network, classifier, colours

    def with_colours(self, colours: np.ndarray) -> Look:
        return Look(self.network, self.classifier, colours)

    def second_opinion(self) -> Look:
        return Look(self.classifier, self.classifier, self.colours)


class Darker:
    """A model whose network and classifier have thresholds of their own on the first channel."""

    name = "darker"

    def encode(self, images: np.ndarray, labels: np.ndarray, **options: Any) -> Look:
        return options["known"]["norms"]

    def views_between(self, features: Look, tiles: np.ndarray) -> dict[str, Look]:
        return self.views

    def predict(self, tiles: np.ndarray, features: Look) -> np.ndarray:
        values = tiles if features.colours is None else features.colours[0][tiles]
        return (values[..., 0] < features.network)[:, None].astype(np.float32)

    def __init__(self, **views: Look) -> None:
        self.views = views


def picture(ground: int, objects: int, side: int = 64) -> np.ndarray:
    """A dark square, a ninth of the picture, on ground with a little noise."""
    image = np.random.default_rng(ground).integers(-3, 4, (1, side, side, 3)) + ground
    image[:, side // 3 : 2 * side // 3, side // 3 : 2 * side // 3] += objects - ground
    return image.astype(np.uint8)


PATCHES = picture(200, 50)
LABELS = (PATCHES[None, ..., 0] < 100).astype(np.uint8)


def matched(
    model: Darker, tiles: np.ndarray, kind: str, adaptation: Any = None, before: Any = (0.95,)
) -> Any:
    encoding: Any = SimpleNamespace(
        features=Look(100, 130),
        agreement=before,
        options=EncodingOptions(adaptation=adaptation),
    )
    return match_source(model, encoding, PATCHES, LABELS, tiles, kind)  # type: ignore[arg-type]


def test_a_slide_of_another_stain_is_given_the_colours_of_the_patches() -> None:
    """Its objects are too pale for the network, and found again once the colours are those of the patches."""
    pale = picture(220, 120)
    plain = Darker().predict(pale, Look(100, 130))
    assert not plain.any()
    assert Darker().predict(pale, Look(130, 130)).mean() == pytest.approx(21**2 / 64**2)
    dark = picture(200, 110)
    dark[:, 24:28, 24:28] = 50  # a little is dark enough for the network, too
    found = matched(Darker(), dark, "slide")
    assert found.remedy == "colours"
    assert found.agreement[0] > 0.9
    truth = dark[..., 0] < 150
    assert (Darker().predict(dark, found.features)[:, 0] > 0.5).tolist() == truth.tolist()
    assert found.lost((0.95,))[0] < 0.05


def test_a_source_that_looks_like_the_patches_is_left_as_it_is() -> None:
    found = matched(Darker(norms=Look(130, 130)), picture(190, 60), "slide")
    assert (found.remedy, found.agreement, found.features.colours) == ("", (1.0,), None)


def test_the_colours_of_a_map_are_never_changed_and_its_norms_only_for_good_reason() -> None:
    dark = picture(200, 110)
    dark[:, 24:28, 24:28] = 50
    assert matched(Darker(), dark, "raster").remedy == ""
    assert matched(Darker(norms=Look(130, 130)), dark, "raster").remedy == "norms"
    assert matched(Darker(norms=Look(100, 130)), dark, "raster").remedy == ""
    assert matched(Darker(norms=Look(130, 130)), dark, "raster", adaptation="tuned").remedy == ""
    for unknown in ((), (None,)):
        assert matched(Darker(norms=Look(130, 130)), dark, "raster", before=unknown).remedy == ""


def test_lost_agreement_is_unknown_where_nothing_was_found_or_looked_at() -> None:
    assert SourceMatch(None, "", (0.5, None, 0.75)).lost((0.75, 0.5, None)) == (0.25, None, None)
    assert SourceMatch(None).lost((0.75,)) == (None,)


def test_agreement_is_the_iou_of_the_two_masks() -> None:
    one = np.array([[0.9, 0.5, 0.4, 0.1]])
    assert agreement(one, np.array([[0.9, 0.1, 0.6, 0.1]])) == round(1 / 3, 3)
    assert agreement(one, one) == 1.0
    assert agreement(one * 0, one * 0) is None


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_colour_table_gives_a_picture_the_mean_and_spread_of_another(offset: float) -> None:
    rng = np.random.default_rng(0)
    one, two = (
        rng.normal(m, s, (1, 64, 64, 3)).clip(0, 255).astype(np.uint8) for m, s in ((120, 10), (170, 25))
    )
    table = colour_table(one, two, None, offset)
    assert table.shape == (3, 256)
    assert (np.diff(table.astype(int)) >= 0).all()
    recoloured = table[0][two[..., 0]]
    assert recoloured.mean() == pytest.approx(one[..., 0].mean(), abs=1)
    assert recoloured.std() == pytest.approx(one[..., 0].std(), abs=1)
    glass = np.where(np.arange(64)[:, None] < 32, 255, two[0, ..., 0])
    half = np.repeat(glass[None, ..., None], 3, 3).astype(np.uint8)
    rest = np.broadcast_to(np.arange(64)[:, None] >= 32, (1, 64, 64))
    assert np.array_equal(
        colour_table(one, half, rest, offset), colour_table(one, half[:, 32:], None, offset)
    )
    assert (
        abs(int(colour_table(one, np.full_like(one, 7), None, offset)[0, 7]) - one[..., 0].mean()) < 2
    )  # no division by 0


def test_features_of_the_second_opinion_are_others_for_a_segmenter() -> None:
    """They have another digest, by which a segmenter keeps what it has prepared."""
    zeros = TexturePack.of({name: np.zeros(N_STATISTICS, np.float32) for name in TexturePack.__slots__})
    features = SupportFeatures((View(128, (), None, (zeros,)),), 5, "digest")
    alone = features.second_opinion()
    assert alone is not None
    assert alone.texture_share == 1.0
    network = alone.second_opinion()
    assert network is not None
    assert network.texture_share == 0.0
    assert len({features.digest, alone.digest, network.digest}) == 3
    assert SupportFeatures((View(128, ()),), 5, "digest").second_opinion() is None


def test_recoloured_features_have_another_digest_and_change_tiles_alone() -> None:
    features = SupportFeatures((View(128, ()),), 5, "digest")
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)]).astype(np.uint8)
    other = features.with_colours(table)
    assert other.digest != features.digest
    tile = np.array([[[[1, 2, 3], [4, 5, 6]]]], np.uint8)
    assert other.recoloured(tile).tolist() == [[[[1, 253, 7], [4, 250, 7]]]]
    assert features.recoloured(tile) is tile


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures", "quick_texture")
def test_a_resumed_run_segments_in_the_same_colours(
    slide: str, support: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept with the operating point, and are not settled again."""
    table = np.tile(np.clip(np.arange(256) * 1.1, 0, 255).astype(np.uint8), (3, 1))

    def settle(model: Segmenter, encoding: SelectedEncoding, *_: object) -> SourceMatch:
        return SourceMatch(encoding.features.with_colours(table), "colours", (0.5,))

    def run(out: str, model: Segmenter, encodings: EncodingCache | None = None) -> None:
        config = SegmentConfig(slide, support, str(tmp_path / out), shard=256, adapt_s=0, threshold=0.5)
        with LocalPool(lambda: model) as pool:
            segment(config, pool, model, encodings=encodings)

    model = load_segmenter(device="cpu")
    encodings = EncodingCache(model)
    run("plain", model, encodings)
    monkeypatch.setattr(operating_point, "match_source", settle)
    run("whole", model, encodings)
    assert fakes.outputs(tmp_path / "whole") != fakes.outputs(tmp_path / "plain")
    with monkeypatch.context() as patch:
        patch.setattr(fewscope.pipeline.run, "number_instances", None)
        with pytest.raises(TypeError):
            run("stopped", model, encodings)
    marker = sorted((tmp_path / "stopped/.fewscope/markers").glob("r*.json"))[0]
    marker.unlink()  # one unit is predicted again
    monkeypatch.setattr(operating_point, "match_source", None)
    run("stopped", load_segmenter(device="cpu"))
    assert fakes.outputs(tmp_path / "stopped") == fakes.outputs(tmp_path / "whole")

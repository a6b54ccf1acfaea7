"""What is offered to a person: objects of the preview, the wand, the gallery, and how good a round is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from rasterio.windows import Window

from fewscope.annotate.objects import area_fraction, object_at, object_rules, objects_in
from fewscope.annotate.preview import Preview
from fewscope.annotate.rounds import RoundCount, score_round
from fewscope.annotate.suggest import choose_typical, suggest_windows
from fewscope.annotate.wand import grow_region, propose_object
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration.unlike import choose_unlike
from fewscope.pipeline.instances.split_rules import SplitRule
from tests.helpers.previews import ArraySource, Heard, preview_of, support_of

SIDE = 1000


def disc(row: float, col: float, radius: float, side: int = SIDE) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side]
    found: np.ndarray = (rows - row) ** 2 + (cols - col) ** 2 < radius**2
    return found


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Dark; red are two discs that touch, one across a seam of cells, and one at the edge; green is a square."""
    image = np.full((SIDE, SIDE, 3), 20, np.uint8)
    for where in ((200, 200, 30), (200, 252, 30), (448, 600, 40), (990, 990, 30)):
        image[disc(*where), 0] = 240
    image[700:740, 100:140, 1] = 250
    return image


@pytest.fixture(scope="module")
def preview(picture: np.ndarray) -> Iterator[Preview]:
    heard = Heard()
    preview, _ = preview_of([ArraySource(picture)], heard)
    preview.look_at(0, Window(0, 0, SIDE, SIDE))
    preview.set_support(support_of(n_classes=2), revision=1)
    heard.ready(1)
    yield preview
    preview.close()


def test_objects_of_a_window_are_whole_and_separated_by_the_rule(preview: Preview) -> None:
    window = Window(150, 150, 80, 100)  # touches the left disc and a bit of the right one's side
    (both,) = objects_in(preview, 0, window, 0, 0.5)
    assert both.area_px == (disc(200, 200, 30) | disc(200, 252, 30)).sum()
    assert both.probability == pytest.approx(240 / 255)
    left, right = objects_in(preview, 0, window, 0, 0.5, SplitRule(30.0))
    assert left.area_px + right.area_px == both.area_px
    assert left.polygon.contains(shapely.Point(200, 200))
    assert right.polygon.contains(shapely.Point(252, 200))
    assert objects_in(preview, 0, window, 0, 0.5, min_area_px=10_000) == []
    assert objects_in(preview, 0, window, 0, 0.99) == []
    assert objects_in(preview, 0, Window(300, 300, 50, 50), 0, 0.5) == []
    assert objects_in(preview, 0, window, 5, 0.5) == []


def test_an_object_across_cells_and_one_at_the_edge_are_found_whole(preview: Preview) -> None:
    across = object_at(preview, 0, 600.5, 420.5, 0, 0.5)
    assert across is not None
    assert across.area_px == disc(448, 600, 40).sum()
    edge = object_at(preview, 0, 985, 995, 0, 0.5)
    assert edge is not None
    assert edge.area_px == disc(990, 990, 30).sum()
    assert object_at(preview, 0, 10, 10, 0, 0.5) is None
    assert object_at(preview, 0, -5, 10, 0, 0.5) is None
    square = object_at(preview, 0, 120, 720, 1, 0.5)
    assert square is not None
    assert square.polygon.bounds == (100, 700, 140, 740)
    assert object_at(preview, 0, 120, 720, 0, 0.5) is None  # of the other class


def test_the_part_of_a_window_that_is_of_a_class(preview: Preview) -> None:
    assert area_fraction(preview, 0, Window(100, 700, 80, 40), 1, 0.5) == 0.5
    assert area_fraction(preview, 0, Window(100, 700, 80, 40), 0, 0.5) == 0


def test_the_wand_takes_the_objects_of_the_preview(preview: Preview) -> None:
    polygon = propose_object(preview, 0, 130, 710, class_index=1)
    assert polygon is not None
    assert polygon.bounds == (100, 700, 140, 740)


def test_the_wand_needs_no_label() -> None:
    rng = np.random.default_rng(0)
    image = np.full((600, 600, 3), (225, 200, 215), float)
    cell = disc(300, 310, 14, 600)
    big = disc(120, 420, 90, 600)
    image[cell], image[big] = (110, 70, 150), (150, 180, 120)
    noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    preview, _ = preview_of([ArraySource(noisy)])
    try:
        for true, x, y in ((cell, 308, 303), (big, 430, 100)):
            polygon = propose_object(preview, 0, x, y)
            assert polygon is not None
            found = shapely.contains_xy(polygon, *np.meshgrid(np.arange(600) + 0.5, np.arange(600) + 0.5))
            assert (found & true).sum() / (found | true).sum() > 0.85
        assert propose_object(preview, 0, -30, 10) is None
    finally:
        preview.close()


def test_one_colour_has_no_region() -> None:
    assert grow_region(np.full((101, 101, 3), 90, np.uint8), np.ones((101, 101), bool)) is None


# -- the gallery -------------------------------------------------------------------------------------------------------


def test_the_gallery_is_half_random_half_typical_apart_and_repeatable() -> None:
    image = np.full((2240, 2240, 3), 100, np.uint8)  # the grey of the patches
    image[1600:, 1600:] = (250, 40, 40)
    source, heard = ArraySource(image), Heard()
    preview, network = preview_of([source], heard)
    try:
        foreground = preview.foreground(0, 20)
        assert foreground is not None
        labelled = [(0.0, 0.0, 1120.0, 1120.0)]
        before = suggest_windows(preview, 0, foreground, labelled, seed=3)
        assert [one.why for one in before] == ["random"] * 8
        preview.look_at(0, Window(0, 0, 448, 448))
        preview.set_support(support_of(), revision=1)
        heard.ready(1)
        found = suggest_windows(preview, 0, foreground, labelled, seed=3)
        assert [one.why for one in found] == ["typical"] * 4 + ["random"] * 4
        assert network.n_to_answer < len(found) < network.n_maps, (
            "a frozen encoder is not asked what looks alike"
        )
        assert found[4:] == before[:4]
        assert found == suggest_windows(preview, 0, foreground, labelled, seed=3)
        assert found != suggest_windows(preview, 0, foreground, labelled, seed=4)
        boxes = [shapely.box(w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height)
                 for w in (one.window for one in found)]  # fmt: skip
        assert not any(a.intersection(b).area for i, a in enumerate(boxes) for b in boxes[:i])
        assert not any(box.intersection(shapely.box(*labelled[0])).area for box in boxes)
        red = shapely.box(1600, 1600, 2240, 2240)
        assert any(box.intersects(red) for box in boxes[:4]), "also ground that no patch has"
    finally:
        preview.close()


def test_windows_that_look_alike_are_not_shown_together() -> None:
    looks = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    scores = np.array([0.9, 0.8, 0.5, 0.0])
    assert choose_unlike(scores, looks, 2, np.zeros((0, 2), np.float32)) == [0, 2]
    assert choose_unlike(scores, looks, 1, np.array([[1, 0]], np.float32)) == [2]
    assert len(choose_unlike(scores, looks, 9, np.zeros((0, 2), np.float32))) == 4


def test_typical_windows_stand_for_most_of_the_ground_that_nothing_shown_does() -> None:
    looks = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    assert choose_typical(looks, np.zeros((0, 2), np.float32), 2) == [3, 0]
    assert choose_typical(looks, np.array([[0.6, 0.8]], np.float32), 1) == [0]
    assert choose_typical(looks, np.array([[1, 0]], np.float32), 1) != [0]
    assert sorted(choose_typical(looks, np.zeros((0, 2), np.float32), 9)) == [0, 1, 2, 3]
    assert choose_typical(looks[:0], looks, 3) == []


# -- rounds ------------------------------------------------------------------------------------------------------------


def drawn_support(n: int, missing: int = 0) -> SupportSet:
    """Patches whose objects are bright in red, which the network goes by; in the first ones an object is not drawn."""
    images = np.full((n, 224, 224, 3), 20, np.uint8)
    instances = np.zeros((n, 224, 224), np.int32)
    for k in range(n):
        for i, (row, col) in enumerate(((60, 60), (60, 160), (160, 60 + 10 * k)), start=1):
            where = disc(row, col, 20, 224)
            images[k, where, 0] = 250
            if not (k < missing and i == 1):
                instances[k, where] = i
    labels = (instances > 0).astype(np.uint8)
    names = tuple(f"patch {k}" for k in range(n))
    return SupportSet(images, labels, instances, names, None, ("cell",))


@pytest.fixture
def scorer(picture: np.ndarray) -> Iterator[Preview]:
    preview, _ = preview_of([ArraySource(picture)])
    yield preview
    preview.close()


def test_a_perfect_round_and_one_with_an_object_that_was_not_drawn(scorer: Preview) -> None:
    score = score_round(scorer, drawn_support(3))
    assert (score.iou, score.iou_by_class, score.n_patches) == (1.0, (1.0,), 3)
    assert score.counts == (RoundCount(9, 9),)
    worse = score_round(scorer, drawn_support(3, missing=1))
    assert worse.counts == (RoundCount(8, 9),)
    assert worse.iou == pytest.approx((2 / 3 + 1 + 1) / 3)


@pytest.mark.parametrize("is_large", [False, True])
def test_strokes_are_not_scored_and_one_patch_cannot_be(scorer: Preview, is_large: bool) -> None:
    support = drawn_support(3)
    labels, instances = support.labels.copy(), support.instances.copy()
    labels[2], instances[2] = 255, 0
    labels[2, 100:110, 100:140] = 0  # a stroke "not this"
    if is_large:
        labels[2] = 0  # around one object that was outlined alone
    sparse = SupportSet(
        support.images, labels, instances, support.names, None, ("cell",), n_sparse=int(is_large)
    )
    score = score_round(scorer, sparse)
    assert (score.n_patches, score.counts) == (2, (RoundCount(6, 6),))
    alone = score_round(scorer, drawn_support(1))
    assert (alone.iou, alone.counts, alone.n_patches) == (None, (None,), 1)


def test_rules_follow_what_is_outlined() -> None:
    (of_cells,) = object_rules(drawn_support(2))
    assert isinstance(of_cells.rule, SplitRule)
    assert of_cells.rule.radius == pytest.approx(20, abs=0.3)
    assert of_cells.min_area_px == pytest.approx(0.1 * np.pi * 20**2, rel=0.05)
    (of_masks,) = object_rules(support_of(), "raster")
    assert (of_masks.rule, of_masks.min_area_px) == (None, 4)

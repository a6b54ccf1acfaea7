"""Objects that are marked by points: kept and read as such, and the preview infers their outlines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.windows import Window

from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.inferred import InferredOutlines
from fewscope.annotate.labels import FILE
from fewscope.annotate.runs import Runs
from fewscope.annotate.session import Session
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import POINT, SupportSet, rough_marks
from fewscope.errors import ConfigError
from fewscope.jobs import annotate as jobs_annotate
from fewscope.model.segmenter import load_segmenter
from tests.annotate.test_labels import NEWEST, opened
from tests.helpers.pages import DiscPreview, InstantPreview, Page, config_of, point, rectangle, visit
from tests.helpers.previews import ColourSettled

RADIUS = 12


def test_points_are_kept_as_points_of_their_class_and_can_be_undone(tmp_path):
    first = opened(tmp_path / "a")
    first.apply([rectangle(10, 10, 300, 300, "region"), point(50.123, 60)], NEWEST)
    first.apply([point(90, 60, "gland"), point(120, 60, None, negative=True)], NEWEST)
    written = json.loads((tmp_path / "a" / FILE).read_text())["features"]
    shown = [
        (
            one["geometry"]["coordinates"],
            one["properties"]["classification"]["name"],
            one["properties"].get("name"),
        )
        for one in written
        if one["geometry"]["type"] == "Point"
    ]
    assert shown == [
        ([50.12, 60], "cell", "point*"),
        ([90, 60], "gland", "point*"),
        ([120, 60], "Not*", None),
    ]
    assert all(one["properties"]["objectType"] == "annotation" for one in written)

    copy = opened(tmp_path / "b", support=str(tmp_path / "a" / FILE))

    def content(labels: Any) -> list[Any]:
        return sorted(
            (one.kind, one.class_name or "", one.negative, one.geometry.wkt) for one in labels.all()
        )

    assert content(copy) == content(first)
    again = json.loads((tmp_path / "b" / FILE).read_text())["features"]
    assert sorted(one["properties"].get("name", "") for one in again) == ["", "", "point*", "point*"]
    copy.close()

    first.apply([{"op": "erase", "line": [[88, 60]], "radius": 5, "ids": None}], NEWEST)
    assert [one.class_name for one in first.all() if one.kind == "point" and not one.negative] == ["cell"]
    first.apply([{"op": "undo"}], NEWEST)
    first.close()
    restarted = opened(tmp_path / "a")
    assert [one.class_name for one in restarted.all() if one.kind == "point"] == ["cell", "gland", None]
    restarted.apply([{"op": "undo"}], NEWEST)
    assert [one.class_name for one in restarted.all() if one.kind == "point"] == ["cell"]
    restarted.close()


def test_points_of_another_program_are_taken_and_go_on_counting(tmp_path):
    """As in a job: of a file without outlines. They keep their meaning when an outline is drawn."""

    name = {"classification": {"name": "cell"}}
    square = shapely.geometry.mapping(shapely.box(10, 10, 300, 300))
    spots = [[40, 40], [80, 80]]
    features = [
        {"type": "Feature", "geometry": square, "properties": {"classification": {"name": "Region*"}}},
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": spots},
            "properties": name,
        },
    ]
    path = tmp_path / "points.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    labels = opened(tmp_path / "out", support=str(path))
    labels.apply([rectangle(100, 100, 140, 130)], NEWEST)
    assert sorted(one.kind for one in labels.all()) == ["object", "point", "point", "region"]
    written = json.loads((tmp_path / "out" / FILE).read_text())["features"]
    assert [one["properties"].get("name") for one in written].count("point*") == 2
    labels.close()


def test_the_page_asks_for_a_region_and_then_learns_from_points(slide, tmp_path):
    from fewscope.connectors.open import open_source

    async def journey(page: Page) -> None:
        await page.ops(point(300, 120))
        asked = await page.until("/api/preview?source=0", lambda now: "teach in a region" in now["message"])
        assert asked["state"] == "empty"
        assert (await page.get("/api/info"))["sources"][0]["n_objects"] == 1
        await page.ops(rectangle(210, 10, 430, 230, "region"), point(400, 200))
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        learning = next(value for value in page.client.app.values() if hasattr(value, "labels_changed"))
        source = open_source(str(slide))
        batch = load_support(str(tmp_path / FILE), source=source)
        source.close()
        assert learning.support.digest() == batch.digest()
        assert len(np.unique(batch.instances[batch.rough == POINT])) == 2
        # the preview's object at the first point is marked already
        found = (await page.post("/api/propose", {"source": "0", "box": [210, 10, 430, 230]}))["features"]
        assert len(found) == 1
        drawn = next(
            one for one in (await page.get("/api/labels?source=0"))["features"] if one["properties"]["class"]
        )
        await page.ops({"op": "delete", "ids": [drawn["id"]]})
        found = (await page.post("/api/propose", {"source": "0", "box": [210, 10, 430, 230]}))["features"]
        assert len(found) == 2

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_a_run_of_several_images_learns_from_inferred_outlines(slide, tmp_path, monkeypatch):
    class Outlining(InstantPreview):
        is_ready = False

        def outlined(self, support: SupportSet) -> SupportSet:
            return replace(support, rough=None) if Outlining.is_ready else support

    class Done:
        id, command = "001", ""

        def described(self) -> dict[str, Any]:
            return {"id": self.id}

    monkeypatch.setattr(Runs, "start", lambda self, *args: Done())
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    config = AnnotateConfig((str(slide), str(other)), ("slide", "other"), str(tmp_path / "out"))

    async def journey(page: Page) -> None:
        for source in "01":
            await page.ops(rectangle(10, 10, 234, 234, "region"), point(60, 60), source=source)
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        refused = await page.post("/api/runs", {"sources": ["0"]}, 400)
        assert "inferred by the preview" in refused["error"]
        Outlining.is_ready = True
        await page.post("/api/runs", {"sources": ["0"]})
        (folder,) = (tmp_path / "out" / "runs").iterdir()
        assert load_support(str(folder / "support")).labels.shape[0] == 2

    visit(config, journey, Outlining)


def discs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nine discs on a light ground, six purple and below them three green, (224, 224, 3) uint8; the number of the disc
    at each pixel, and their middles (9, 2)."""
    rng = np.random.default_rng(seed)
    middles = np.array([(row, col) for row in (40, 112, 184) for col in (40, 112, 184)])
    middles += rng.integers(-8, 9, middles.shape)
    rows, cols = np.mgrid[:224, :224]
    apart = np.hypot(rows[..., None] - middles[:, 0], cols[..., None] - middles[:, 1])
    numbers = np.where(apart.min(2) <= RADIUS, apart.argmin(2) + 1, 0)
    colours = np.array([(226, 200, 214), *[(90, 60, 140)] * 6, *[(60, 140, 70)] * 3])
    image = colours[numbers] + rng.normal(0, 8, (224, 224, 3))
    return image.clip(0, 255).astype(np.uint8), numbers, middles


def marked(seeds: list[int], n: int = 9) -> tuple[SupportSet, np.ndarray]:
    """A support set of such patches with a point on each of the first discs, and all discs."""
    drawn = [discs(seed) for seed in seeds]
    rows, cols = np.mgrid[:224, :224]
    numbers = np.zeros((len(seeds), 224, 224), np.int32)
    for k, (_, _, middles) in enumerate(drawn):
        for number, (row, col) in enumerate(middles[:n], start=1):
            numbers[k][np.hypot(rows - row, cols - col) <= 3] = number
    labels = (numbers > 0).astype(np.uint8)
    support = SupportSet(
        np.stack([image for image, _, _ in drawn]), labels, numbers, tuple(map(str, seeds)), 0.5, ("cell",),
        rough=labels * np.uint8(POINT),
    )  # fmt: skip
    return support, np.stack([inside > 0 for _, inside, _ in drawn])


class Dark(ColourSettled):
    """What is dark is an object; counts what it learned."""

    def answer(self, maps: Any, pack: Any) -> np.ndarray:
        return 1 - super().answer(maps, pack)


def test_outlines_are_inferred_once_and_again_where_points_change():
    support, truth = marked([0, 1])
    network = Dark()
    network.open.set()
    inferred = InferredOutlines()
    found = inferred.of(support, network)  # type: ignore[arg-type]
    assert found.rough is None
    known = found.labels != 255
    assert ((found.labels == 1) & known)[truth & known].mean() > 0.95
    assert (found.labels == 1).sum() > 0.8 * truth.sum() > 5 * (support.labels == 1).sum()
    assert len(np.unique(found.instances[0])) == 10
    n_packs = len(network.packed)

    outlined = np.zeros((1, 224, 224), np.int32)
    outlined[:, 20:40, 30:50] = 1
    more = replace(  # a third patch, in which an object is outlined
        support,
        images=np.concatenate([support.images, support.images[:1]]),
        labels=np.concatenate([support.labels, outlined.astype(np.uint8)]),
        instances=np.concatenate([support.instances, outlined]),
        rough=np.concatenate([support.rough, np.zeros((1, 224, 224), np.uint8)]),
        names=("0", "1", "2"),
    )
    both = inferred.of(more, network)  # type: ignore[arg-type]
    assert len(network.packed) == n_packs, "what was drawn elsewhere does not infer them again"
    assert np.array_equal(both.labels[:2], found.labels)
    assert np.array_equal(both.labels[2], more.labels[2])
    assert both.digest() == more.digest() != found.digest()

    moved, _ = marked([0, 2])
    assert not np.array_equal(inferred.of(moved, network).labels[1], found.labels[1])  # type: ignore[arg-type]
    assert len(network.packed) > n_packs
    assert inferred.of(both, network) is both  # type: ignore[arg-type]


def test_marks_of_a_cut_picture_stay_with_its_patches():
    """A labelled folder lies before or behind regions: which patches have points is of no account."""
    support, _ = marked([0, 1])
    assert support.instances is not None
    assert support.rough is not None
    parts = zip(support.labels, support.instances, support.rough, strict=True)
    marks = [mark for k, part in enumerate(parts) for mark in rough_marks(*part, k)]
    whole = replace(support, marks=tuple(marks))
    network = Dark()
    network.open.set()
    alone = InferredOutlines().of(whole, network)  # type: ignore[arg-type]

    drawn = np.zeros((1, 224, 224), np.int32)
    drawn[:, 20:40, 30:50] = 1
    behind = replace(
        support,
        images=np.concatenate([support.images[:1], support.images]),
        labels=np.concatenate([drawn.astype(np.uint8), support.labels]),
        instances=np.concatenate([drawn, support.instances]),
        rough=np.concatenate([np.zeros((1, 224, 224), np.uint8), support.rough]),
        names=("outlined", *support.names),
        marks=tuple(replace(mark, patch=mark.patch + 1) for mark in marks),
    )
    found = InferredOutlines().of(behind, network)  # type: ignore[arg-type]
    assert np.array_equal(found.labels[0], drawn[0])
    assert np.array_equal(found.labels[1:], alone.labels)
    assert not found.marks


def test_a_given_radius_is_that_of_the_outlines():
    support, truth = marked([0, 1])
    network = Dark()
    network.open.set()
    found = InferredOutlines(object_radius_um=0.5 * RADIUS / 2).of(support, network)  # type: ignore[arg-type]
    assert (found.labels[~truth] != 1).all()
    assert (found.labels == 1)[truth].mean() < 0.75  # nothing beyond 1.6 of these radii is object


def test_the_page_takes_a_radius_of_slides_and_gives_it_to_runs(slide, tmp_path, monkeypatch):
    started: list[Any] = []

    class Done:
        id, command = "001", ""

        def described(self) -> dict[str, Any]:
            return {"id": self.id}

    monkeypatch.setattr(Runs, "start", lambda self, *args: started.append(args) or Done())
    monkeypatch.setattr("fewscope.annotate.app.serve", lambda config: configs.append(config) or 0)
    configs: list[AnnotateConfig] = []
    out = str(tmp_path / "out")
    assert jobs_annotate.main([str(slide), "--out", out, "--object-radius-um", "4.5"]) == 0
    (config,) = configs
    assert config.object_radius_um == 4.5

    async def journey(page: Page) -> None:
        await page.ops(rectangle(10, 10, 234, 234, "region"), rectangle(60, 60, 90, 90))
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        await page.post("/api/runs", {"sources": ["0"]})

    visit(config, journey)
    words = started[0][3]
    assert words[words.index("--object-radius-um") + 1] == "4.5"
    with pytest.raises(ConfigError, match="is a raster"):
        Session(replace(config, kind="raster", out=str(tmp_path / "raster")))
    with pytest.raises(ConfigError, match="not above 0"):
        replace(config, object_radius_um=0.0)


@pytest.mark.slow
def test_the_preview_changes_with_every_click():
    """With the shipped network: discs of another colour are found once they are clicked, too."""
    from fewscope.annotate.preview import Preview
    from tests.helpers.previews import ArraySource, Heard

    image, numbers, _ = discs(5)
    source, heard = ArraySource(np.tile(image, (2, 2, 1))), Heard()
    whole = Window(0, 0, 448, 448)
    discs_there = np.tile(numbers, (2, 2))
    purple, green = (discs_there > 0) & (discs_there <= 6), discs_there > 6
    preview = Preview(load_segmenter(device="cpu", precision="float32"), [source], on_event=heard)
    try:
        preview.look_at(0, whole)
        preview.set_support(marked([0], n=6)[0], revision=1)  # green discs are background
        heard.ready(1)
        found = preview.probability(0, whole, 0)[0] > 127
        assert (found & purple).sum() / (found | purple).sum() > 0.7
        assert found[green].mean() < 0.3
        preview.set_support(marked([0])[0], revision=2)
        heard.ready(2)
        found = preview.probability(0, whole, 0)[0] > 127
        every = purple | green
        assert (found & every).sum() / (found | every).sum() > 0.7
        learned = preview.learned()
        assert learned is not None
        assert learned.support.rough is None
        assert len(np.unique(learned.support.instances)) == 10
    finally:
        preview.close()

"""Corrections by HTTP: what the preview shows becomes labels, and rounds keep what there was before."""

from __future__ import annotations

import asyncio
import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from fewscope.annotate import app as app_module
from fewscope.annotate.round_log import RoundLog
from tests.helpers.pages import DiscPreview, Page, config_of, rectangle, visit

LABELS = (rectangle(500, 10, 724, 234, "region"), rectangle(520, 20, 548, 48), rectangle(600, 80, 628, 108))


async def ready(page: Page) -> None:
    await page.ops(*LABELS)
    await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")


def shape(feature: dict[str, Any]) -> Any:
    return shapely.geometry.shape(feature["geometry"])


def click(x: float, y: float, action: str, **more: Any) -> dict[str, Any]:
    return {
        "source": "0",
        "x": x,
        "y": y,
        "threshold": 0.5,
        "action": action,
        "class": None,
        "line": None,
    } | more


def test_outlines_are_the_objects_in_the_box_whole(slide, tmp_path):
    async def journey(page: Page) -> None:
        await ready(page)
        found = await page.get("/api/outlines?source=0&class=cell&threshold=0.5&x0=0&y0=0&x1=305&y1=200")
        assert found["count"] == len(found["features"]) == 3
        areas = sorted(one["properties"]["area_px"] for one in found["features"])
        assert areas[-1] == pytest.approx(np.pi * 20**2, rel=0.02), "the one that the box cuts is whole"
        assert found["features"][0]["properties"]["probability"] == pytest.approx(230 / 255, abs=0.01)
        wide = await page.get("/api/outlines?source=0&class=none&x0=0&y0=0&x1=305&y1=200")
        assert wide["count"] == 0
        await page.get("/api/outlines?source=0&class=cell&threshold=2&x0=0&y0=0&x1=305&y1=200", status=400)
        await page.get("/api/outlines?source=0&class=cell&x0=0&y0=0&x1=nan&y1=200", status=400)
        await page.get("/api/outlines?source=0&class=cell&x0=5000&y0=0&x1=6000&y1=200", status=400)

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_a_click_accepts_rejects_relabels_and_splits(slide, tmp_path):
    async def journey(page: Page) -> None:
        await ready(page)
        (accepted,) = (await page.post("/api/object", click(300, 120, "accept")))["changed"]
        assert accepted["properties"] == {
            "kind": "object",
            "class": "cell",
            "negative": False,
            "source": "accepted",
        }
        assert shape(accepted).area == pytest.approx(np.pi * 400, rel=0.03)
        again = await page.post("/api/object", click(300, 120, "reject"))
        assert again["removed"] == [accepted["id"]], "a second thought replaces the first"
        assert again["changed"][0]["properties"]["kind"] == "not"
        (other,) = (await page.post("/api/object", click(310, 400, "relabel", **{"class": "gland"})))[
            "changed"
        ]
        assert other["properties"]["class"] == "gland"
        halves = (await page.post("/api/object", click(700, 500, "split", line=[[670, 500], [730, 500]])))[
            "changed"
        ]
        assert [shape(one).area for one in halves] == pytest.approx([np.pi * 17**2 / 2] * 2, rel=0.1)
        assert "no object here" in (await page.post("/api/object", click(50, 600, "accept"), 400))["error"]
        await page.post("/api/object", click(300, 120, "explode"), 400)
        await page.post("/api/object", click(300, 120, "split", line=[[0, 0], [1, 1]]), 400)
        file = json.loads((tmp_path / "labels.geojson").read_text())
        marks = [one["properties"].get("name") for one in file["features"]]
        assert marks.count("rejected*") == 1
        assert marks.count("accepted*") == 3
        assert (await page.ops({"op": "undo"}))["undo"]

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_the_batch_job_counts_what_was_corrected(slide, tmp_path):
    from fewscope.connectors.open import open_source
    from fewscope.connectors.support.load import load_support
    from fewscope.pipeline.report.builder import outside_regions

    async def journey(page: Page) -> None:
        await ready(page)
        await page.post("/api/object", click(300, 120, "accept"))
        await page.post("/api/object", click(310, 400, "accept"))
        await page.post("/api/object", click(700, 500, "reject"))

    visit(config_of(slide, tmp_path), journey, DiscPreview)
    source = open_source(str(slide))
    support = load_support(str(tmp_path / "labels.geojson"), source=source)
    source.close()
    assert support.corrected == (2, 1)
    said = outside_regions(support)["corrected by hand"]
    assert said == "3 objects of the preview: 2 accepted, 1 rejected"


def test_a_proposed_region_holds_the_preview_s_objects_but_those_that_are_labelled(slide, tmp_path):
    async def journey(page: Page) -> None:
        await ready(page)
        before = await page.get("/api/labels?source=0")
        found = (await page.post("/api/propose", {"source": "0", "x": 250, "y": 112}))["features"]
        region, *objects = found
        assert region["properties"]["kind"] == "region"
        assert shape(region).bounds == (138, 0, 362, 224)
        assert [round(shape(one).centroid.x) for one in objects] == [300]
        assert await page.get("/api/labels?source=0") == before, "nothing is added"
        await page.post("/api/object", click(300, 120, "reject"))
        found = (await page.post("/api/propose", {"source": "0", "box": [138, 0, 362, 224]}))["features"]
        assert len(found) == 1, "what was rejected is not proposed again"
        await page.post("/api/propose", {"source": "0", "box": [0, 0, 5000, 5000]}, 400)

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_the_wand_proposes_and_adds_nothing(slide, tmp_path):
    async def journey(page: Page) -> None:
        await ready(page)
        found = (await page.post("/api/wand", {"source": "0", "x": 300, "y": 120, "class": "cell"}))[
            "feature"
        ]
        assert found["properties"]["source"] == "wand"
        assert shape(found).area == pytest.approx(np.pi * 400, rel=0.03)
        outside = {"source": "0", "x": -50, "y": 120, "class": "cell"}
        assert (await page.post("/api/wand", outside))["feature"] is None
        assert len((await page.get("/api/labels?source=0"))["features"]) == len(LABELS)

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_windows_to_look_at_have_pictures_with_outlines(slide, tmp_path):
    async def journey(page: Page) -> None:
        await ready(page)
        found = await page.get("/api/suggest?source=0")
        assert found
        region = shapely.box(500, 10, 724, 234)
        assert not any(shapely.box(w["x0"], w["y0"], w["x1"], w["y1"]).intersects(region) for w in found)
        image = np.asarray(Image.open(io.BytesIO(await page.get(found[0]["image"]))))
        assert image.shape == (448, 448, 4)
        plain = await page.get("/api/window?source=0&x0=250&y0=50&x1=350&y1=150&class=none")
        drawn = await page.get("/api/window?source=0&x0=250&y0=50&x1=350&y1=150&class=cell")
        changed = (pixels(plain) != pixels(drawn)).any(2)
        ring = np.hypot(*(np.mgrid[:200, :200] - 140 + np.array([0, 40])[:, None, None]) / 2)
        assert changed.sum() > 150
        assert np.abs(ring[changed] - 20).max() < 2.5
        await page.get("/api/window?source=0&x0=0&y0=0&x1=1e9&y1=1e9&class=cell", status=200)

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))[..., :3]


def test_rounds_are_scored_compared_and_put_back(slide, tmp_path, monkeypatch):
    ious = iter([0.6, 0.5, 0.59])

    def score(preview: Any, support: Any) -> Any:
        return SimpleNamespace(
            iou=next(ious), iou_by_class=(0.5,), counts=(SimpleNamespace(drawn=2, found=3),), n_patches=2
        )

    monkeypatch.setattr(app_module, "_score_round", score)
    monkeypatch.setattr(RoundLog.__init__, "__defaults__", (0.05,))

    async def journey(page: Page) -> None:
        await ready(page)
        await asyncio.sleep(0.3)
        assert await page.get("/api/rounds") == [], "a single region cannot be left out"
        filled = rectangle(10, 400, 234, 624, "region")
        filled["feature"]["properties"]["source"] = "preview"
        await page.ops(filled, rectangle(20, 420, 60, 460))
        (first,) = await page.until("/api/rounds", lambda rounds: rounds and rounds[-1]["state"] == "done")
        assert (first["iou"], first["worse"], first["n_regions"]) == (0.6, False, 2)
        assert first["n_prefilled"] == 1, "the preview is scored on what it has drawn itself"
        assert first["counts"] == [{"class": "cell", "drawn": 2, "found": 3}]
        kept = await page.get("/api/labels?source=0")
        await page.ops(rectangle(100, 420, 160, 460), {"op": "delete", "ids": [kept["features"][1]["id"]]})
        rounds = await page.until("/api/rounds", lambda now: len(now) == 2 and now[-1]["state"] == "done")
        assert (rounds[-1]["worse"], rounds[-1]["before"]) == (True, 1)
        await page.post("/api/rounds/1/restore", {})
        now = await page.get("/api/labels?source=0")
        content = lambda labels: sorted(json.dumps(one) for one in labels["features"])  # noqa: E731
        assert content(now) == content(kept)
        assert now["undo"], "putting back can be undone"
        assert len((await page.ops({"op": "undo"}))["changed"]) == 1
        await page.post("/api/rounds/9/restore", {}, 400)

    visit(config_of(slide, tmp_path), journey, DiscPreview)

    async def later(page: Page) -> None:
        rounds = await page.get("/api/rounds")
        assert [one["iou"] for one in rounds[:2]] == [0.6, 0.5]
        await page.post("/api/rounds/1/restore", {})

    visit(config_of(slide, tmp_path), later, DiscPreview)

"""`fewscope annotate --encoder`: in the preview, in the commands of runs, in the rounds, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rasterio.windows import Window

from fewscope.annotate import app as app_module
from fewscope.annotate.app import network_preview
from fewscope.annotate.cells import CellKey
from fewscope.annotate.preview import Preview
from fewscope.annotate.round_log import RoundLog
from fewscope.annotate.runs import Runs
from fewscope.jobs import annotate as job
from fewscope.jobs import segment_raster, segment_wsi
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration.model_selection import ENCODER_SHARE
from tests.helpers.pages import DiscPreview, Page, config_of, rectangle, visit
from tests.helpers.previews import ArraySource, Heard, support_of

LITE = "efficientnet-lite0"
REGIONS = (
    rectangle(10, 10, 234, 234, "region"),
    rectangle(20, 20, 60, 60),
    rectangle(300, 10, 524, 234, "region"),
    rectangle(320, 20, 360, 60),
)


@pytest.fixture
def page_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "static").mkdir()
    for name in ("app.js", "index.html"):
        (tmp_path / "static" / name).write_text("")
    monkeypatch.setattr(app_module, "STATIC", tmp_path / "static")


@pytest.mark.slow
def test_the_preview_is_that_of_a_segmenter_with_the_encoder_and_encodes_squares_once() -> None:
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 256, (28, 28, 3)), np.ones((16, 16, 1), int)).astype(np.uint8)
    segmenter = load_segmenter(encoder=LITE, device="cpu", dtype=torch.float32)
    encoded: list[int] = []
    assert segmenter._encoder is not None
    segmenter._encoder.register_forward_hook(lambda _module, given, _found: encoded.append(len(given[0])))
    source, heard, whole = ArraySource(image), Heard(), Window(0, 0, 448, 448)
    preview = Preview(segmenter, [source], on_event=heard)
    try:
        preview.look_at(0, whole)
        preview.set_support(support_of(1), revision=1)
        heard.ready(1)
        assert sorted(encoded) == [1, 4], "the patch, and the four tiles of the square"
        support = support_of(2)  # two patches of the same pixels
        support.images[1] = rng.integers(0, 256, (224, 224, 3))
        preview.set_support(support, revision=2)
        heard.ready(2)
        assert sorted(encoded) == [1, 1, 4], "the new patch alone"
        found, known = preview.probability(0, whole, 0)
        assert known.all()

        tile = source.read(CellKey(0, 0, 0).read)[0][None]
        network = preview.settled()
        assert network is not None
        expected = network.answer(network.maps(tile), network.pack(support.images, support.labels))
        assert np.abs(found / 255 - expected[0, 0, 32:-32, 32:-32]).max() <= 0.5 / 255 + 1e-6
        plain = load_segmenter(device="cpu", dtype=torch.float32).settled(image[None, :224, :224])
        without = plain.answer(plain.maps(tile), plain.pack(support.images, support.labels))
        assert np.abs(found / 255 - without[0, 0, 32:-32, 32:-32]).max() > 0.05
    finally:
        preview.close()


def test_it_has_the_share_of_a_job_that_does_not_search() -> None:
    asked: list[tuple[Any, ...]] = []

    class Settles:
        def settled(self, *arguments: Any) -> None:
            asked.append(arguments)

    heard = Heard()
    preview = Preview(Settles(), [ArraySource(np.zeros((300, 300, 3), np.uint8))], on_event=heard)  # type: ignore[arg-type]
    try:
        preview.look_at(0, Window(0, 0, 300, 300))
        for _ in range(1000):
            if asked:
                break
            preview.settled(0.02)
    finally:
        preview.close()
    assert asked[0][1:] == (128, ENCODER_SHARE)


@pytest.mark.parametrize(
    ("typed", "encoder", "words"),
    [
        ([], None, ()),
        (["--encoder", LITE], LITE, ("--encoder", LITE)),
        (["--encoder", "none"], "", ("--encoder", "none")),
    ],
)
def test_a_run_gets_the_encoder_of_the_preview(
    typed: list[str],
    encoder: str | None,
    words: tuple[str, ...],
    slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(app_module, "serve", lambda config: configs.append(config) or 0)
    assert job.main([str(slide), "--out", str(tmp_path / "out"), *typed]) == 0
    (config,) = configs
    assert config.encoder == encoder
    assert config.slide_arguments == config.raster_arguments == words
    for module in (segment_wsi, segment_raster):
        args = module.parse(["a", "--support", "s", "--out", "o", *config.slide_arguments])
        assert args.encoder == encoder

    started: list[Any] = []
    found = SimpleNamespace(id="1", command="", described=lambda: {"id": "1"})
    monkeypatch.setattr(Runs, "start", lambda self, *args: started.append(args) or found)

    async def journey(page: Page) -> None:
        await page.ops(*REGIONS)
        await page.post("/api/runs", {"sources": ["0"], "adapt_s": 0})

    visit(config, journey)
    given = started[0][3]
    assert tuple(given[len(given) - len(words) :]) == words
    assert ("--encoder" in given) == bool(words)


@pytest.mark.parametrize(
    "typed",
    [
        ["--encoder", "no-such-encoder"],
        ["--encoder", "timm/vit_small_patch14_dinov2"],
        ["--encoder", __file__],
        ["--encoder", LITE, "--model", "prototype-compact"],
    ],
)
@pytest.mark.usefixtures("page_is_built")
def test_an_encoder_that_cannot_be_used_is_refused_as_by_segment_before_the_page_is_there(
    typed: list[str], slide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert job.main([str(slide), "--no-browser", "--out", str(out), *typed]) == 2
    said, error = capfd.readouterr()
    assert "http://" not in said
    assert not out.exists()
    (support := tmp_path / "s.geojson").touch()
    job_line = [str(slide), "--support", str(support), "--out", str(out), "--local", *typed]
    assert segment_wsi.main(job_line) == 2
    assert error == capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_without_an_encoder_nothing_is_loaded_before_the_page_is_there(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr("fewscope.model.segmenter.load_segmenter", lambda *args: loaded.append(args))
    for encoder in (None, ""):
        network_preview(config_of(slide, tmp_path, encoder=encoder))
    assert loaded == []
    network_preview(config_of(slide, tmp_path, encoder=LITE))
    assert loaded == [("compact", None, LITE)]


def test_rounds_of_another_encoder_are_not_compared(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same labels are scored again when the page was started with another encoder."""
    ious = iter([0.6, 0.3])

    def score(preview: Any, support: Any) -> Any:
        return SimpleNamespace(iou=next(ious), iou_by_class=(0.5,), counts=(None,), n_patches=2)

    monkeypatch.setattr(app_module, "_score_round", score)
    monkeypatch.setattr(RoundLog.__init__, "__defaults__", (0.05,))

    def journey(n_rounds: int, *operations: Any) -> Any:
        async def go(page: Page) -> None:
            if operations:
                await page.ops(*operations)
            is_scored = lambda now: len(now) == n_rounds and now[-1]["state"] == "done"  # noqa: E731
            rounds = await page.until("/api/rounds", is_scored)
            assert (rounds[-1]["worse"], rounds[-1]["before"]) == (False, None)
            await asyncio.sleep(0.3)
            assert len(await page.get("/api/rounds")) == n_rounds

        return go

    visit(config_of(slide, tmp_path), journey(1, *REGIONS), DiscPreview)
    visit(config_of(slide, tmp_path), journey(1), DiscPreview)
    # its preview is given: the encoder itself is not opened
    visit(config_of(slide, tmp_path, encoder="another"), journey(2), DiscPreview)
    kept = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [(one["encoder"], one["iou"]) for one in kept] == [("", 0.6), ("another", 0.3)]

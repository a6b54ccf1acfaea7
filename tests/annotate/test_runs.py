"""Runs from the page: the command that is shown, progress, cancelling, and the same bytes as on a command line."""

from __future__ import annotations

import asyncio
import errno
import json
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fewscope import cli
from fewscope.annotate.runs import Request, Runs, RunSource
from fewscope.connectors.results.reader import open_result
from fewscope.errors import PageRunError
from fewscope.jobs import annotate as job
from fewscope.jobs import segment_raster, segment_wsi
from tests.helpers.pages import Page, config_of, rectangle, visit

LABELS = (
    rectangle(10, 10, 234, 234, "region"),
    rectangle(20, 20, 60, 60),
    rectangle(90, 80, 130, 120),
    rectangle(300, 10, 524, 234, "region"),
    rectangle(320, 20, 360, 60),
)


def words_of(commands: list[str]) -> list[str]:
    (command,) = commands
    words = shlex.split(command)
    assert words[0] == "fewscope"
    return words[1:]


@pytest.mark.slow
def test_the_result_is_byte_for_byte_that_of_the_command_line(slide, tmp_path):
    """Everything but the times in the report."""
    shown: list[str] = []
    stages: list[str] = []

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        started = await page.post(
            "/api/runs", {"sources": ["0"], "workers": None, "address": None, "adapt_s": 0}
        )
        shown.extend(started["commands"])
        run = f"/api/runs/{started['id']}"
        while (now := await page.get(run))["state"] == "running":
            stages.append(now["stage"] or "")
            await asyncio.sleep(0.05)
        assert now["state"] == "done", now
        (result,) = now["results"]
        count = open_result(str(tmp_path / "page" / "runs" / "001" / "slide")).count
        assert result["count"] == now["count"] == count
        folder = tmp_path / "page/runs/001/slide"
        assert result["warnings"] == json.loads((folder / "report.json").read_text())["notes"]
        report = await page.client.get(result["report_url"])
        assert (await report.text()).startswith("<!doctype html>")
        assert "script-src" not in report.headers["Content-Security-Policy"]
        assert "default-src 'none'" in report.headers["Content-Security-Policy"]
        table = await page.get(f"{run}/table?source=0&limit=3")
        assert table["total"] == count
        await page.get(f"{run}/report/0/instances.parquet", status=404)
        await page.get(f"{run}/report/9/report.html", status=400)

    visit(config_of(slide, tmp_path / "page"), journey)
    assert "segment" in stages
    words = words_of(shown)
    again = tmp_path / "again"
    words[words.index("--out") + 1] = str(again)
    assert cli.main(words) == 0
    page_out = tmp_path / "page" / "runs" / "001" / "slide"
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(page_out) for path in page_out.rglob("*") if path.is_file())
    same = [f for f in files if (again / f).read_bytes() == (page_out / f).read_bytes()]
    others = {str(f) for f in files} - {str(f) for f in same}
    assert others <= {"report.json", "report.html"} | {str(f) for f in files if f.parts[0] == ".fewscope"}
    reports = [json.loads((folder / "report.json").read_text()) for folder in (again, page_out)]
    for report in reports:
        del report["timings"], report["run"]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_a_run_can_be_cancelled_and_drawing_goes_on(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        body = {"sources": ["0"], "workers": None, "address": None, "adapt_s": 0}
        own = (await page.post("/api/runs", body))["id"]
        assert "another run" in (await page.post("/api/runs", body, status=400))["error"]
        await page.ops(rectangle(600, 10, 640, 50))
        response = await page.client.delete(f"/api/runs/{own}", headers=page.headers)
        assert response.status == 204
        now = await page.until(f"/api/runs/{own}", lambda run: run["state"] != "running")
        assert now["state"] == "cancelled"
        assert now["results"] == []
        copied = tmp_path / "runs" / "001" / "labels.geojson"
        assert len(json.loads(copied.read_text())["features"]) == len(LABELS), "the labels of the start"

    visit(config_of(slide, tmp_path), journey)

    async def later(page: Page) -> None:
        (run,) = await page.get("/api/runs")
        assert run["state"] == "cancelled"

    visit(config_of(slide, tmp_path), later)


@pytest.mark.slow
def test_a_run_that_fails_says_why(slide, tmp_path):
    runs = Runs(tmp_path, lambda _: None, {})
    source = RunSource("0", "slide", str(slide), tmp_path / "out")
    arguments = [str(slide), "--support", str(tmp_path / "none.geojson"), "--out", str(tmp_path / "out")]
    run = runs.start(runs.new_folder(), "segment", [source], arguments, Request())
    assert run.process is not None
    run.process.wait()
    runs.close()
    assert run.state == "failed"
    assert "none.geojson" in run.message
    assert "\n" not in run.message


def test_without_labels_no_run_starts(slide, tmp_path):
    async def journey(page: Page) -> None:
        body = {"sources": ["0"], "workers": None, "address": None, "adapt_s": 0}
        assert "no labels yet" in (await page.post("/api/runs", body, status=400))["error"]
        await page.ops(rectangle(10, 10, 200, 200, "region"))
        assert "no object" in (await page.post("/api/runs", body, status=400))["error"]
        await page.post("/api/runs", body | {"sources": ["../0"]}, status=400)
        await page.get("/api/runs/001", status=400)

    visit(config_of(slide, tmp_path), journey)


def test_on_a_full_disk_the_page_says_so_and_no_run_learns_from_old_labels(slide, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def journey(page: Page) -> None:
        told: list[dict[str, Any]] = []
        await page.ops(*LABELS[:2])
        monkeypatch.setattr(page.session.hub, "publish", told.append)
        with monkeypatch.context() as patched:
            patched.setattr("fewscope.connectors.storage.atomic.atomic_file", full)
            await page.ops(LABELS[2])
            await page.ops(LABELS[3])
            said = [one["error"] for one in told if "error" in one]
            assert len(said) == 1, "once"
            assert "labels.geojson: cannot be written (No space left on device); free some space." in said[0]
            assert (await page.get("/api/info"))["sources"][0]["notes"] == said
            answer = await page.post("/api/runs", {"sources": ["0"]}, status=400)
            assert answer["error"] == said[0]
        with monkeypatch.context() as patched:
            patched.setattr("fewscope.annotate.journal.os.fsync", full)
            answer = await page.ops(LABELS[4], status=507)  # which may succeed another time, as 400 may not
            assert "labels.journal.jsonl: cannot be written" in answer["error"]
        with monkeypatch.context() as patched:
            patched.setattr("fewscope.annotate.run_routes.copy_labels", full)
            answer = await page.post("/api/runs", {"sources": ["0"]}, status=400)
            assert "001: cannot be written (No space left on device); free some space" in answer["error"]
        assert (await page.get("/api/info"))["sources"][0]["notes"] == []
        assert await page.get("/api/runs") == []

    visit(config_of(slide, tmp_path), journey)


@pytest.mark.parametrize(
    "body",
    [
        {"address": "host:6379; rm -rf /"},
        {"address": "--out=/tmp"},
        {"address": "a b"},
        {"address": 5},
        {"workers": 0},
        {"workers": True},
        {"workers": "2"},
        {"adapt_s": -1},
        {"adapt_s": float("nan")},
        {"adapt_s": "60"},
    ],
)
def test_what_is_no_request_is_refused(body):
    with pytest.raises(PageRunError):
        Request.of(body)


def test_the_arguments_are_options_of_the_command():
    """Each word that the page adds is one that the jobs know; none is a path that the page has sent."""
    for request, words in (
        (Request(), ["--local"]),
        (Request(workers=3, adapt_s=30.5), ["--adapt", "30.5", "--workers", "3"]),
        (Request(address="ray://head:10001"), []),
    ):
        assert request.arguments == words
        for module in (segment_wsi, segment_raster):
            args = module.parse(["a", "--support", "s", "--out", "o", *words, "--progress-json", "p"])
            assert args.progress_json == "p"


def test_options_of_the_page_s_command_line_go_to_the_run():
    line = "a.tif --bands 4,3,2 --scale 0 3000 --nodata nan --res 20 --mpp 1 --cell-part cell --weights w.safetensors"
    args = job.parse(line.split())
    rasters = job.given(args, job.RASTER_OPTIONS + job.BOTH_OPTIONS)
    parsed = segment_raster.parse(["a.tif", "--support", "s", "--out", "o", *rasters])
    assert (parsed.bands, parsed.scale, parsed.res) == ((4, 3, 2), [0, 3000], 20)
    assert parsed.weights == "w.safetensors"
    slides = job.given(args, job.SLIDE_OPTIONS + job.BOTH_OPTIONS)
    parsed = segment_wsi.parse(["a.svs", "--support", "s", "--out", "o", *slides])
    assert (parsed.mpp, parsed.cell_part) == (1, "cell")
    assert job.given(job.parse(["a.svs"]), job.SLIDE_OPTIONS + job.RASTER_OPTIONS + job.BOTH_OPTIONS) == ()


def test_several_images_run_with_one_support_set(slide, tmp_path, monkeypatch):
    """The labels of all are written as one folder of patches; the command names all images."""
    from fewscope.annotate.config import AnnotateConfig
    from fewscope.connectors.support.load import load_support

    started: list[Any] = []
    monkeypatch.setattr(Runs, "start", lambda self, *args: started.append(args) or _NoRun(args))
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    config = AnnotateConfig((str(slide), str(other)), ("slide", "other"), str(tmp_path / "out"))

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.post("/api/runs", {"sources": ["1"], "adapt_s": 0})
        await page.ops(rectangle(10, 10, 234, 234, "region"), rectangle(20, 20, 99, 60), source="1")
        await page.post("/api/runs", {"sources": ["0", "1"]})
        learning = next(value for value in page.client.app.values() if hasattr(value, "labels_changed"))
        await page.until("/api/preview?source=0", lambda now: now["revision"] == 3)
        folder = tmp_path / "out" / "runs" / "002" / "support"
        assert load_support(str(folder)).digest() == learning.support.digest()

    visit(config, journey)
    (one_folder, job_name, _, one, _), (folder, _, sources, both, _) = started
    assert job_name == "segment"
    assert one[:5] == [
        str(other),
        "--support",
        str(one_folder / "labels.geojson"),
        "--support-slide",
        str(slide),
    ]
    assert both[:6] == [str(slide), str(other), "--support", str(folder / "support"), "--out", str(folder)]
    assert both[6:] == one[7:] == ["--mpp", "0.5"]
    assert [source.out for source in sources] == [folder / "slide", folder / "other"]


class _NoRun:
    def __init__(self, args: Any) -> None:
        self.id, self.command, self.state = args[0].name, "", "done"

    def described(self) -> dict[str, Any]:
        return {"id": self.id}


def test_progress_is_written_for_programs_that_watch(tmp_path):
    from fewscope.errors import ConfigError
    from fewscope.jobs.run_progress import ProgressFile
    from fewscope.pipeline.execution.progress import ProgressEvent

    path = tmp_path / "progress.jsonl"
    file = ProgressFile(str(path))
    for done in range(1001):
        file.event("a.svs", ProgressEvent("segment", done, 1000, "tile"))
    file.done("a.svs", {"count": 7, "count_interval": [5, 9], "notes": ["All of it was analysed."]})
    file.failed("b.svs", ConfigError("b.svs: no"))
    file.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"source": "a.svs", "stage": "segment", "done": 0, "total": 1000, "unit": "tile"}
    assert lines[-3]["done"] == 1000
    assert len(lines) < 100, "not a line for each tile"
    assert lines[-2:] == [
        {
            "source": "a.svs",
            "state": "done",
            "count": 7,
            "interval": [5, 9],
            "warnings": ["All of it was analysed."],
        },
        {"source": "b.svs", "state": "failed", "error": "b.svs: no"},
    ]
    ProgressFile(None).event("a.svs", ProgressEvent("segment"))


def test_stopping_is_asked_for_as_the_jobs_expect(tmp_path, monkeypatch):
    """SIGTERM, upon which a job keeps what it has finished; SIGKILL only for one that does not end."""
    script = "from signal import *; signal(SIGTERM, SIG_IGN); print('up', flush=True); pause()"
    monkeypatch.setattr("fewscope.annotate.runs.STOP_S", 0.2)
    monkeypatch.setattr("fewscope.annotate.runs.LOOK_S", 0.05)
    monkeypatch.setattr("fewscope.annotate.runs.module_words", lambda words: ["-c", script])
    runs = Runs(tmp_path, lambda _: None, {})
    folder = runs.new_folder()
    run = runs.start(folder, "segment", [RunSource("0", "a", "a.svs", tmp_path)], [], Request())
    while not (folder / "log.txt").read_bytes():
        time.sleep(0.01)
    runs.cancel(run)
    runs.close()
    assert run.process is not None
    assert run.process.returncode == -signal.SIGKILL
    assert run.state == "cancelled"
    assert Path(folder / "run.json").is_file()

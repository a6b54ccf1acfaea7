"""How long a correction takes until the new picture is there: measured at the real server, as the page asks it.

    python examples/make_demo_slide.py build/ihc.tif
    python benchmarks/loop.py build/ihc.tif --support examples/ihc_nuclei.geojson

A server is started in a process of its own. The script shows it a view, as the page does, and then draws strokes, one
after the other, each somewhere else in the view, beside the labels of `--support`. The clock starts when a stroke is
sent; it stops when the server has said that every square in view is up to date with it and all probability tiles of the
view have arrived. One JSON line for each view: ratio to the target first (median of the strokes over the target), then
medians and extremes. `server_cpu_s` is the processor time of the server for one stroke, which a busy machine changes
less; `new_place_s` is the time from looking at a place that was never looked at to its picture. `--encoder` has the
preview use a frozen encoder, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import aiohttp
import torch
from aiohttp import web

from benchmarks.records import emit
from fewscope.annotate.app import make_app
from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.security import WRITE_HEADER, Gate
from fewscope.annotate.session import Session

VIEWS = {"screen": (1000, 800), "square": (2048, 2048)}
"""Width and height, px of the working grid."""

TARGETS_S = {"AVX512": {"screen": 1.0, "square": 2.5}, "AVX2": {"screen": 3.0, "square": 6.0}}
TILE = 256
TIMEOUT_S = 120


def serve(args: argparse.Namespace) -> None:
    """The server, until it is ended; prints its address."""

    async def run() -> None:
        config = AnnotateConfig(
            (args.source,), ("source",), args.out, args.support, mpp=args.mpp, encoder=args.encoder
        )
        session, gate = Session(config), Gate.new(config.host)
        runner = web.AppRunner(make_app(session, gate), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, config.host, 0).start()
        print(f"http://{config.host}:{runner.addresses[0][1]}/?token={gate.token}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def server(args: argparse.Namespace) -> AsyncIterator[tuple[str, int]]:
    """A server in a process of its own; its address and process id."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--serve", "--out", out, args.source]
        command += ["--support", args.support] if args.support else []
        command += ["--mpp", str(args.mpp)] if args.mpp else []
        command += ["--encoder", args.encoder] if args.encoder else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = await asyncio.to_thread(process.stdout.readline)
            if not url.startswith("http"):
                raise SystemExit("the server did not start; its message is above")
            yield url.strip(), process.pid
        finally:
            process.terminate()
            process.wait()


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken, seconds; 0 where Linux does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Page:
    """Asks the server as the page does."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url
        self.origin = url.partition("/?")[0]
        self.status: dict[str, Any] = {}
        self.changed = asyncio.Condition()
        self.info: dict[str, Any] = {}
        self.source: dict[str, Any] = {}
        self.labels: dict[str, Any] = {}

    async def open(self) -> asyncio.Task[None]:
        """Enter with the token, read what there is, and listen."""
        async with self.http.get(self.url) as answer:
            answer.raise_for_status() if answer.status != 404 else None  # the page itself may not be built
        self.info = await self.get("/api/info")
        self.source = self.info["sources"][0]
        self.labels = await self.get(f"/api/labels?source={self.source['id']}")
        return asyncio.create_task(self._listen())

    async def get(self, path: str) -> Any:
        """JSON of an address."""
        async with self.http.get(self.origin + path) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send JSON; the answer's, if it has any."""
        headers = {WRITE_HEADER: "1", "Origin": self.origin}
        async with self.http.post(self.origin + path, json=body, headers=headers) as answer:
            if answer.status >= 400:
                raise SystemExit(f"{path}: {answer.status} {await answer.text()}")
            return None if answer.status == 204 else await answer.json()

    async def _listen(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.http.get(self.origin + "/api/events", timeout=timeout) as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    if event.get("type") == "preview":
                        async with self.changed:
                            self.status = event
                            self.changed.notify_all()

    async def look(self, box: tuple[float, float, float, float]) -> None:
        """Show a box, image px."""
        middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        await self.post("/api/view", {"source": self.source["id"], "box": list(box), "pointer": middle})

    async def ready(self, after: int) -> int:
        """Wait until all in view is of a revision after this one; the revision."""
        began = time.monotonic()
        while not (self.status.get("state") == "ready" and self.status["revision"] > after):
            # the state may have been said before this page listened
            self.status = await self.get(f"/api/preview?source={self.source['id']}")
            if self.status["state"] == "ready" and self.status["revision"] > after:
                break
            if time.monotonic() - began > TIMEOUT_S:
                raise SystemExit(f"the preview is not ready after {TIMEOUT_S} s: {self.status}")
            async with self.changed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 1.0)
        return int(self.status["revision"])

    async def tiles(self, box: tuple[float, float, float, float], revision: int, name: str) -> int:
        """Fetch all probability tiles of a box at one screen px for one image px; how many there are."""
        zoom, own = self.source["max_zoom"], self.source["id"]
        where = [
            (x, y)
            for y in range(int(box[1]) // TILE, -(-int(box[3]) // TILE))
            for x in range(int(box[0]) // TILE, -(-int(box[2]) // TILE))
        ]

        async def fetch(x: int, y: int) -> None:
            path = f"/tile/probability/{own}/{revision}/{name}/{zoom}/{x}/{y}.png"
            async with self.http.get(self.origin + path) as answer:
                answer.raise_for_status()
                await answer.read()

        await asyncio.gather(*(fetch(x, y) for x, y in where))
        return len(where)

    async def stroke(self, x: float, y: float, name: str) -> None:
        """Paint a short stroke of a class."""
        line = [[x, y], [x + 6, y + 4]]
        brush = {"op": "brush", "line": line, "radius": 5, "class": name, "kind": "object", "target": None}
        self.labels |= await self.post(
            "/api/labels/ops",
            {"source": self.source["id"], "revision": self.labels["revision"], "ops": [brush]},
        )


async def measure(args: argparse.Namespace, view: str) -> dict[str, Any]:
    """Strokes in a view of a fresh server."""
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of an address in numbers
    async with server(args) as (url, pid), aiohttp.ClientSession(cookie_jar=jar) as http:
        page = Page(http, url)
        listening = await page.open()
        scale = page.source["work_scale"]
        width, height = (side * scale for side in VIEWS[view])
        if page.source["width"] < width or page.source["height"] < height:
            raise SystemExit(f"{args.source} is smaller than the view of {VIEWS[view]} px")
        name = args.class_name or page.labels["classes"][0]["name"]
        left, top = (page.source["width"] - width) / 2, (page.source["height"] - height) / 2
        box = (left, top, left + width, top + height)
        while (await page.get(f"/api/preview?source={page.source['id']}"))["revision"] < 1:
            await page.look((0, 0, TILE, TILE))  # anywhere else, until the network is loaded and has learned
            await asyncio.sleep(0.5)
        began = time.monotonic()
        await page.look(box)
        page.status = {}
        revision = await page.ready(0)
        n_tiles = await page.tiles(box, revision, name)
        new_place = time.monotonic() - began
        answered, painted, taken = [], [], []
        for i in range(args.strokes):
            x = left + width * (0.15 + 0.7 * (i * 0.618 % 1))
            y = top + height * (0.15 + 0.7 * (i * 0.382 % 1))
            began, taken_before = time.monotonic(), cpu_s(pid)
            await page.stroke(x, y, name)
            revision = await page.ready(revision)
            answered.append(time.monotonic() - began)
            await page.tiles(box, revision, name)
            painted.append(time.monotonic() - began)
            taken.append(cpu_s(pid) - taken_before)
            await asyncio.sleep(args.rest)
        listening.cancel()
    kind = "AVX512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else "AVX2"
    target = TARGETS_S[kind][view]
    return {
        "ratio": statistics.median(painted) / target,
        "view": "x".join(map(str, VIEWS[view])),
        "encoder": args.encoder,
        "target_s": target,
        "painted_s": statistics.median(painted),
        "painted_s_slowest": max(painted),
        "painted_s_fastest": min(painted),
        "answered_s": statistics.median(answered),
        "server_cpu_s": statistics.median(taken),
        "new_place_s": new_place,
        "strokes": args.strokes,
        "tiles": n_tiles,
        "cells": page.status["cells_total"],
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="slide or raster")
    add("--support", help="annotations of it to start from")
    add("--class", dest="class_name", help="class of the strokes (default: the first)")
    add("--mpp", type=float, help="working resolution of a slide")
    add("--encoder", help="frozen encoder, as `fewscope annotate` takes it (default: none)")
    add("--views", nargs="+", choices=tuple(VIEWS), default=list(VIEWS), help="default: all")
    add("--strokes", type=int, default=9, help="in each view (default 9)")
    add("--rest", type=float, default=1.0, help="seconds between two strokes (default 1)")
    add("--serve", action="store_true", help=argparse.SUPPRESS)
    add("--out", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """One line per view."""
    args = parse(argv)
    if args.serve:
        serve(args)
        return 0
    for view in args.views:
        emit("loop", asyncio.run(measure(args, view)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

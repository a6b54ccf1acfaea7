"""Requests to the server of ``fewscope annotate``: every route, with odd ids, numbers, queries and bodies."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import yarl
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import strategies as st

from tests.fuzz.documents import odd_json
from tests.fuzz.harness import MAX_MESSAGE, Case
from tests.fuzz.workplace import Options, workplace
from tests.helpers.pages import DiscPreview, Page, config_of, picture, rectangle

LINE = [[20, 20], [60, 25], [90, 40]]
FEATURE = rectangle(30, 30, 70, 60)["feature"] | {"id": "b"}
OPERATIONS = (
    rectangle(30, 30, 70, 60),
    rectangle(10, 10, 234, 234, "region"),
    {"op": "replace", "id": "a", "feature": FEATURE},
    {"op": "brush", "line": LINE, "radius": 8, "class": "cell", "kind": "object", "target": "a"},
    {"op": "erase", "line": LINE, "radius": 8, "ids": None},
    {"op": "split", "id": "a", "line": [[20, 25], [90, 25]]},
    {"op": "merge", "ids": ["a", "b"]},
    {"op": "relabel", "ids": ["a"], "class": "gland"},
    {"op": "delete", "ids": ["a"]},
    {"op": "class", "name": "gland", "colour": "#ff8800", "rename_from": "cell"},
    {"op": "undo"},
    {"op": "redo"},
)
CLICK = {"source": "0", "x": 300, "y": 120, "threshold": 0.5, "class": None, "line": LINE}
RUN = {"sources": ["0"], "workers": 2, "address": None, "adapt_s": 0}
BOX = "x0=0&y0=0&x1=300&y1=200"

RIGHT: tuple[tuple[str, str, Any], ...] = (
    *(("POST", "/api/labels/ops", {"source": "0", "revision": 1, "ops": [one]}) for one in OPERATIONS),
    *(("POST", "/api/object", CLICK | {"action": one}) for one in ("accept", "reject", "relabel", "split")),
    ("POST", "/api/view", {"source": "0", "box": [0, 0, 300, 200], "pointer": [10, 10]}),
    ("POST", "/api/propose", {"source": "0", "x": 250, "y": 112, "box": None}),
    ("POST", "/api/propose", {"source": "0", "box": [138, 0, 362, 224]}),
    ("POST", "/api/wand", {"source": "0", "x": 300, "y": 120, "class": "cell"}),
    ("POST", "/api/rounds/1/restore", {}),
    ("POST", "/api/resolution", {"factor": 1}),
    ("POST", "/api/runs", RUN),
    ("DELETE", "/api/runs/001", None),
    ("GET", "/api/info", None),
    ("GET", "/api/resolution", None),
    ("GET", "/api/labels?source=0", None),
    ("GET", "/api/preview?source=0", None),
    ("GET", "/api/rounds", None),
    ("GET", "/api/runs", None),
    ("GET", "/api/runs/001", None),
    ("GET", "/api/runs/001/table?source=0&sort=id&descending=1&offset=0&limit=10&min_area=5", None),
    ("GET", "/api/runs/001/histogram?source=0&column=area_px&bins=40&class=cell", None),
    ("GET", "/api/runs/001/at?source=0&x=10&y=10", None),
    ("GET", "/api/runs/001/export?source=0&format=csv&max_probability=1", None),
    ("GET", "/api/runs/001/report/0/report.html", None),
    ("GET", "/api/suggest?source=0", None),
    ("GET", "/api/lonlat?source=0&x=10&y=10", None),
    ("GET", f"/api/outlines?source=0&class=cell&threshold=0.5&{BOX}", None),
    ("GET", f"/api/window?source=0&class=cell&threshold=0.5&{BOX}", None),
    ("GET", "/tile/image/0/2/1/1.jpg", None),
    ("GET", "/tile/thumbnail/0.jpg", None),
    ("GET", "/tile/probability/0/1/cell/2/0/0.png?paint=ff8000&threshold=0.5", None),
    ("GET", "/tile/probability/0/1/cell/2/0/1.png?paint=ff8000&threshold=0.5&unsure=1", None),
    ("GET", "/tile/instances/001/0/2/0/0.png?paint=1&min_area=5", None),
    ("GET", "/static/index.html", None),
    ("GET", "/", None),
)
"""A right request to every route but that of events, which does not end."""

ODD = (
    *("", " ", "..", "0", "-1", "1", "9", "99999999", "1e308", "1e999", "-1e9", "nan", "inf", "0x1", "1" * 400),
    *("../../etc/passwd", "\0", "\n", "\r\n\r\n", "\u202e", "ä", "a" * 3000, "__class__", "=1+1", "true", "[]"),
    *("%2e%2e%2f", "ff8000", "①"),
)  # fmt: skip


@st.composite
def page_requests(draw: st.DrawFn) -> Case:
    """One to five requests, one after another to the same server."""
    asked = []
    for _ in range(draw(st.integers(1, 5))):
        method, path, body = draw(st.sampled_from(RIGHT))
        for _ in range(draw(st.integers(0, 2))):
            path = draw(odd_path(path))
        if draw(st.integers(0, 19)) == 0:
            method = draw(st.sampled_from(("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")))
        data = b"" if body is None else json.dumps(body).encode()
        if body and draw(st.integers(0, 3)):
            data = draw(odd_json(body))
        asked.append([method, path, data.decode("latin-1")])
    return Case({"requests.json": json.dumps(asked).encode()}, "requests.json")


@st.composite
def odd_path(draw: st.DrawFn, path: str) -> str:
    """A path with one segment, or one value of the query, replaced."""
    parts = re.split(r"([/?&=.])", path)
    places = list(range(2, len(parts), 2))
    if not places:
        return path
    parts[draw(st.sampled_from(places))] = quote(draw(st.sampled_from(ODD)), safe="%")
    return "".join(parts)


class _Server:
    """The page's server in a thread of this process, with a preview that knows at once."""

    def __init__(self, folder: Path) -> None:
        import fewscope.annotate.app as app
        import fewscope.annotate.runs as runs
        from fewscope.annotate.security import Gate
        from fewscope.annotate.session import Session
        from fewscope.connectors.slides.pyramid_tiff import write_pyramid

        folder.mkdir()
        write_pyramid(folder / "slide.tif", picture(), mpp=0.5)
        app._score_round = _no_score
        runs.module_words = lambda words: ["-c", "pass"]  # a run ends at once, and leaves nothing
        self.session = Session(config_of(folder / "slide.tif", folder / "out"))
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        gate = Gate.new("127.0.0.1")
        made = app.make_app(self.session, gate, DiscPreview)

        async def started() -> Page:
            client: TestClient[Any, Any] = TestClient(TestServer(made))
            await client.start_server()
            await client.get(f"/?token={gate.token}", allow_redirects=False)
            return Page(client, self.session, gate)

        self.page = self.wait(started())

    def wait(self, coroutine: Any) -> Any:
        """What a coroutine returns, from the loop of the server."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def begin(self) -> None:
        """The same labels for each case: a region with two objects."""
        from fewscope.annotate.shapes import label_of

        region = rectangle(10, 10, 234, 234, "region")["feature"]
        other = rectangle(90, 80, 130, 110)["feature"] | {"id": "a"}
        labels = [label_of(one) for one in (region | {"id": "r"}, FEATURE, other)]
        self.session.sources[0].labels.replace(labels, "start", {"cell": (0, 100, 200)})

    async def ask(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Status, type and content of an answer."""
        client = self.page.client
        url = yarl.URL(f"http://127.0.0.1:{client.port}{path}", encoded=True)
        headers = {**self.page.headers, "Content-Type": "application/json"}
        cookies = client.session.cookie_jar.filter_cookies(yarl.URL(f"http://127.0.0.1:{client.port}/"))
        async with client.session.request(
            method, url, data=body or None, headers=headers, cookies=cookies, allow_redirects=False
        ) as answer:
            return answer.status, answer.content_type, await answer.read()


def _no_score(_preview: Any, support: Any) -> Any:
    nothing = (None,) * len(support.class_names)
    return SimpleNamespace(iou=0.5, iou_by_class=nothing, counts=nothing)


@functools.cache
def server() -> _Server:
    """One server for all cases of this process."""
    return _Server(workplace() / "page")


def use_page_requests(path: Path, _options: Options) -> None:
    """Ask; an answer is right, or a refusal of one line."""
    running = server()
    running.begin()
    for method, where, body in json.loads(path.read_text()):
        status, kind, data = running.wait(running.ask(method, where, body.encode("latin-1")))
        if status < 400:
            continue
        what = f"{method} {where[:100]} is answered with {status}"
        assert status < 500, f"{what}: {data[:300]!r}"
        is_json = kind == "application/json" and method != "HEAD"
        text = json.loads(data)["error"] if is_json else data.decode().rstrip("\n")
        is_one_line = len(text.splitlines()) == 1 or (not text and method == "HEAD")
        is_plain = text.isprintable() and len(text) <= MAX_MESSAGE and "Traceback" not in text
        assert is_one_line, f"{what}: {text[:300]!r}"
        assert is_plain, f"{what}: {text[:300]!r}"

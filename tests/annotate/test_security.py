"""Who may reach the page: a test for each refusal."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.run_routes import read_report_file
from fewscope.annotate.security import Gate
from fewscope.annotate.shapes import MAX_VERTICES
from fewscope.errors import ConfigError
from fewscope.jobs import annotate as job
from tests.helpers.pages import Page, config_of, rectangle, visit

STROKE = {"op": "brush", "line": [[100, 100], [200, 100]], "radius": 10, "class": "cell"}
BODY = {"source": "0", "revision": 0, "ops": [STROKE]}


def raw(
    page: Page, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, str]:
    """A request as any program may send it."""
    link = http.client.HTTPConnection("127.0.0.1", page.client.port, timeout=30)
    link.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        link.putheader(name, value)
    if body is not None:
        link.putheader("Content-Length", str(len(body)))
    link.endheaders(body)
    response = link.getresponse()
    text = response.read().decode()
    link.close()
    return response.status, text


def allowed(page: Page, **more: str) -> dict[str, str]:
    port = page.client.port
    return {
        "Host": f"127.0.0.1:{port}",
        "Cookie": f"fewscope-{port}={page.gate.cookie}",
        "Origin": f"http://127.0.0.1:{port}",
        "X-Fewscope": "1",
        "Content-Type": "application/json",
    } | {name.replace("_", "-"): value for name, value in more.items()}


def refused(
    slide: Any, out: Any, method: str, path: str, change: Any, status: int = 403, body: Any = None
) -> str:
    """The answer to a request that is allowed but for `change` of its headers; it must be refused."""
    answers: list[tuple[int, str]] = []

    async def journey(page: Page) -> None:
        import asyncio

        headers = allowed(page)
        change(headers, page)
        headers = {name: value for name, value in headers.items() if value is not None}
        data = None if body is None else json.dumps(body).encode()
        answers.append(await asyncio.to_thread(raw, page, method, path, headers, data))
        assert not page.session.sources[0].labels.all()

    visit(config_of(slide, out), journey)
    ((code, text),) = answers
    assert code == status, text
    return text


def test_the_same_request_is_allowed_unchanged(slide, tmp_path):
    async def journey(page: Page) -> None:
        import asyncio

        data = json.dumps(BODY).encode()
        status, _ = await asyncio.to_thread(raw, page, "POST", "/api/labels/ops", allowed(page), data)
        assert status == 200
        assert page.session.sources[0].labels.all()

    visit(config_of(slide, tmp_path), journey)


@pytest.mark.parametrize(
    "path", ["/", "/api/info", "/api/labels?source=0", "/tile/image/0/0/0/0.jpg", "/api/events", "/x"]
)
def test_without_the_cookie_nothing_is_shown(slide, tmp_path, path):
    text = refused(slide, tmp_path, "GET", path, lambda headers, _: headers.update(Cookie=None))
    assert "needs the token" in text


def test_a_wrong_cookie_and_a_wrong_token_are_refused(slide, tmp_path):
    def wrong(headers: Any, page: Page) -> None:
        headers["Cookie"] = f"fewscope-{page.client.port}={page.gate.token}"

    refused(slide, tmp_path / "a", "GET", "/api/info", wrong)
    refused(slide, tmp_path / "b", "GET", "/?token=guess", lambda headers, _: headers.update(Cookie=None))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None]
)
def test_another_host_is_refused(slide, tmp_path, host):
    """DNS rebinding: a page of another name that resolves to loopback."""

    def change(headers: Any, page: Page) -> None:
        headers["Host"] = None if host is None else host.format(port=page.client.port)

    status = 403 if host is not None else 400  # without one, aiohttp itself refuses
    refused(slide, tmp_path, "GET", "/api/info", change, status)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", None])
def test_a_write_from_another_origin_is_refused(slide, tmp_path, origin):
    def change(headers: Any, _: Page) -> None:
        headers["Origin"] = origin

    assert "Origin" in refused(slide, tmp_path, "POST", "/api/labels/ops", change, body=BODY)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_write_without_the_header_that_forms_cannot_set_is_refused(slide, tmp_path, method):
    path = "/api/labels/ops" if method == "POST" else "/api/runs/001"
    text = refused(slide, tmp_path, method, path, lambda headers, _: headers.pop("X-Fewscope"), body=BODY)
    assert "X-Fewscope" in text


def test_a_form_cannot_write(slide, tmp_path):
    change = lambda headers, _: headers.update({"Content-Type": "text/plain"})  # noqa: E731
    refused(slide, tmp_path, "POST", "/api/labels/ops", change, status=400, body=BODY)


def test_a_request_that_another_site_made_is_refused(slide, tmp_path):
    change = lambda headers, _: headers.update({"Sec-Fetch-Site": "cross-site"})  # noqa: E731
    refused(slide, tmp_path, "GET", "/tile/image/0/0/0/0.jpg", change)


def test_a_body_that_is_too_large_is_refused(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("fewscope.annotate.app.MAX_BODY", 10_000)
    body = {"source": "0", "revision": 0, "ops": [STROKE], "more": "x" * 20_000}
    refused(slide, tmp_path, "POST", "/api/labels/ops", lambda *_: None, status=413, body=body)


@pytest.mark.parametrize(
    "operation",
    [
        {
            "op": "brush",
            "line": [[float(i % 500), 1.0] for i in range(MAX_VERTICES + 1)],
            "radius": 5,
            "class": "cell",
        },
        {"op": "brush", "line": [["a", 1]], "radius": 5, "class": "cell"},
        {"op": "brush", "line": [[1, 1e999]], "radius": 5, "class": "cell"},
        {"op": "brush", "line": [[1, 1]], "radius": -5, "class": "cell"},
        {"op": "brush", "line": [[1, 1]], "radius": 5, "class": "x" * 101},
        {"op": "brush", "line": [[1, 1]], "radius": 5, "class": "Region*"},
        {
            "op": "add",
            "feature": {"type": "Feature", "geometry": {"type": "Polygon"}, "properties": {"kind": "region"}},
        },
        {"op": "add", "feature": None},
        rectangle(5000, 5000, 5010, 5010),
        {"op": "class", "name": "a", "colour": "javascript:"},
        {"op": "class", "name": "a", "rename_from": ["b"]},
        *({"op": op, "ids": [[[0, 0]]]} for op in ("merge", "delete", "erase", "relabel")),
        {"op": "__class__"},
        {"op": ["add"]},
        "undo",
    ],
)
def test_operations_that_make_no_sense_are_refused_in_one_line(slide, tmp_path, operation):
    body = {"source": "0", "revision": 0, "ops": [operation]}
    answer = json.loads(refused(slide, tmp_path, "POST", "/api/labels/ops", lambda *_: None, 400, body))
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../config.py",
        "/static/..%2Fconfig.py",
        "/static/%2e%2e/config.py",
        "/static//etc/passwd",
        "/static/.",
        "/../app.py",
    ],
)
def test_no_path_leads_out_of_the_page_s_files(slide, tmp_path, path):
    refused(slide, tmp_path, "GET", path, lambda *_: None, status=404)


def test_a_report_is_served_from_its_folder_alone(tmp_path):
    folder = tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    (folder / "report.html").write_text("<p>")
    (folder / "below" / "report.html").write_text("secret")
    (tmp_path / "secret.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "secret.html")
    (folder / "labels.geojson").write_text("{}")
    assert read_report_file(folder, "report.html") == b"<p>"
    for name in (
        "../secret.html",
        "below/report.html",
        "link.html",
        "below",
        ".",
        "..",
        "labels.geojson",
        ".x.html",
    ):
        assert read_report_file(folder, name) is None, name


def test_every_answer_has_the_policies(slide, tmp_path):
    async def journey(page: Page) -> None:
        for path in ("/api/info", "/tile/image/0/0/0/0.jpg", "/static/none.js", "/nothing"):
            response = await page.client.get(path)
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in response.headers
        cookie = (await page.client.get(f"/?token={page.gate.token}", allow_redirects=False)).headers[
            "Set-Cookie"
        ]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert page.gate.token not in cookie

    visit(config_of(slide, tmp_path), journey)


def test_a_fault_of_the_server_is_one_line_with_the_policies(slide, tmp_path, monkeypatch, caplog):
    def fail(self: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("fewscope.annotate.session.Session.described", fail)

    async def journey(page: Page) -> None:
        response = await page.client.get("/api/info")
        assert response.status == 500
        assert "ZeroDivisionError" in (await response.json())["error"]
        assert "secret" not in await response.text()
        assert "Content-Security-Policy" in response.headers

    visit(config_of(slide, tmp_path), journey)
    assert "secret" in caplog.text


def test_others_in_the_network_need_a_secret_and_are_told_of_ssh(tmp_path, capsys):
    for host in ("0.0.0.0", "gpu-server", "192.168.1.5"):
        with pytest.raises(ConfigError, match=r"ssh -L 8000:127.0.0.1:8000 .*--token-file"):
            AnnotateConfig(("a.svs",), ("a",), "out", host=host, port=8000)
    secret = tmp_path / "secret"
    secret.write_text("short\n")
    assert job.main(["a.svs", "--host", "0.0.0.0", "--token-file", str(secret)]) == 2
    assert "at least 16" in capsys.readouterr().err
    AnnotateConfig(("a.svs",), ("a",), "out", host="0.0.0.0", token="a-secret-of-24-characters")


def test_a_named_host_is_known_by_its_name_alone():
    gate = Gate("t", "c", "gpu-server")
    assert gate.knows_host("gpu-server:80", 80)
    assert gate.knows_host("127.0.0.1:80", 80)
    assert not gate.knows_host("gpu-server.evil.example:80", 80)
    assert not Gate("t", "c", "127.0.0.1").knows_host("gpu-server:80", 80)

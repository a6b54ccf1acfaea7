"""Routes of labels: read all, and change them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import pyproj
from aiohttp import web

from fewscope.annotate.session import OpenSource, shown_area, shown_changes, shown_classes
from fewscope.annotate.web_keys import SESSION
from fewscope.errors import LabelConflict, LabelError

routes = web.RouteTableDef()


async def body_of(request: web.Request) -> Mapping[str, Any]:
    """The JSON object that a request holds.

    Raises
    ------
    LabelError
        It holds something else.
    """
    if request.content_type != "application/json":
        raise LabelError(f"the request is {request.content_type}, expected application/json")
    try:
        parsed = await request.json()
    except (
        ValueError,
        LookupError,
        RecursionError,
    ):  # no JSON, no text, no such charset, or nested too deeply
        raise LabelError("the request is not JSON") from None
    if not isinstance(parsed, Mapping):
        raise LabelError("the request is no JSON object")
    return parsed


def source_of(request: web.Request) -> OpenSource:
    """The source that a query names."""
    return request.app[SESSION].source(request.query.get("source"))


def number_of(values: Mapping[str, Any], name: str) -> float:
    """A finite number of a query or body.

    Raises
    ------
    LabelError
        It is missing, or none.
    """
    try:
        value = float(values[name])
    except (KeyError, TypeError, ValueError):
        raise LabelError(f"{name} is missing, or no number") from None
    if not math.isfinite(value):
        raise LabelError(f"{name} is not finite")
    return value


@routes.get("/api/labels")
async def labels(request: web.Request) -> web.Response:
    """All labels of a source."""
    return web.json_response(await asyncio.to_thread(_all, request, source_of(request)))


def _all(request: web.Request, one: OpenSource) -> dict[str, Any]:
    found = one.labels.snapshot()
    return {
        "revision": found.revision,
        "features": [label.feature() for label in found.changed],
        "undo": found.undo,
        "redo": found.redo,
        "classes": shown_classes(request.app[SESSION].classes),
        "area": shown_area(found.area),
    }


@routes.post("/api/labels/ops")
async def operations(request: web.Request) -> web.Response:
    """Change labels; answered when the change is on the disk."""
    session, body = request.app[SESSION], await body_of(request)
    one = session.source(body.get("source"))
    revision = body.get("revision")
    if isinstance(revision, bool) or not isinstance(revision, int):
        raise LabelError("revision is missing, or no whole number")
    asked = body.get("ops")
    session.folders.check_names(asked)
    loop = asyncio.get_running_loop()
    try:
        changes = await loop.run_in_executor(session.writer, one.labels.apply, asked, revision)
    except LabelConflict as error:
        now = await asyncio.to_thread(_all, request, one)
        return web.json_response({"error": str(error), **now}, status=409)
    session.tell(one)
    return web.json_response(shown_changes(changes, session.classes))


@routes.get("/api/lonlat")
async def lonlat(request: web.Request) -> web.Response:
    """Longitude and latitude of a place; null where the source states no CRS."""
    one = source_of(request)
    x, y = number_of(request.query, "x"), number_of(request.query, "y")
    info = one.source.info
    if info.kind != "raster" or not info.crs:
        return web.json_response(None)
    to_degrees = pyproj.Transformer.from_crs(info.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(*(one.to_file @ (x, y)))
    if not (math.isfinite(lon) and math.isfinite(lat)):
        return web.json_response(None)
    return web.json_response({"lon": lon, "lat": lat})

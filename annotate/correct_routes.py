"""Routes of corrections: outlines, proposals, objects, rounds, windows to look at next."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from aiohttp import web

from fewscope.annotate import correcting, windows
from fewscope.annotate.label_routes import body_of, number_of, source_of
from fewscope.annotate.preview_routes import numbers_of, preview_of, window_of
from fewscope.annotate.session import shown_changes
from fewscope.annotate.shapes import class_name
from fewscope.annotate.tile_routes import in_readers
from fewscope.annotate.web_keys import LEARNING, ROUNDS, SESSION
from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.errors import LabelError

routes = web.RouteTableDef()


def _threshold(request: web.Request) -> float:
    value = number_of(request.query, "threshold") if "threshold" in request.query else 0.5
    if not 0 <= value <= 1:
        raise LabelError("threshold is not in 0..1")
    return value


def _box(request: web.Request) -> list[float]:
    return numbers_of([number_of(request.query, name) for name in ("x0", "y0", "x1", "y1")], 4, "the box")


@routes.get("/api/outlines")
async def outlines(request: web.Request) -> web.Response:
    """Outlines of the preview's objects in a box."""
    one, preview = source_of(request), preview_of(request)
    window = window_of(one, _box(request))
    learning, name = request.app[LEARNING], request.query.get("class", "")
    found = await asyncio.to_thread(
        correcting.outlines, learning, preview, one, window, name, _threshold(request)
    )
    return web.json_response(found)


@routes.post("/api/wand")
async def wand(request: web.Request) -> web.Response:
    """What the wand proposes at a click."""
    body = await body_of(request)
    one, preview = request.app[SESSION].source(body.get("source")), preview_of(request)
    x, y = numbers_of([body.get("x"), body.get("y")], 2, "the place")
    name = class_name(body.get("class"))
    if name is None:
        raise LabelError("no class is given; choose one")
    feature = await asyncio.to_thread(correcting.wand, request.app[LEARNING], preview, one, x, y, name)
    return web.json_response({"feature": feature})


@routes.post("/api/propose")
async def propose(request: web.Request) -> web.Response:
    """A region filled by the preview, not added: a box, or the patch around a place."""
    body = await body_of(request)
    one, preview = request.app[SESSION].source(body.get("source")), preview_of(request)
    if body.get("box") is not None:
        x0, y0, x1, y1 = numbers_of(body["box"], 4, "box")
        box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
    else:
        x, y = numbers_of([body.get("x"), body.get("y")], 2, "the place")
        half = PATCH_SIZE * one.scale / 2
        box = [x - half, y - half, x + half, y + half]
    limit = 4 * PATCH_SIZE * one.scale
    if box[2] - box[0] > limit or box[3] - box[1] > limit:
        raise LabelError(f"the region is larger than {limit:.0f} px; draw a smaller one")
    features = await asyncio.to_thread(correcting.propose, request.app[LEARNING], preview, one, box)
    return web.json_response({"features": features})


@routes.post("/api/object")
async def correct(request: web.Request) -> web.Response:
    """Accept, reject, relabel or split an object of the preview."""
    body = await body_of(request)
    session, learning = request.app[SESSION], request.app[LEARNING]
    one, preview = session.source(body.get("source")), preview_of(request)
    x, y = numbers_of([body.get("x"), body.get("y")], 2, "the place")
    make = functools.partial(correcting.correct_object, learning, preview, one, body, x, y)
    changes = await asyncio.get_running_loop().run_in_executor(session.writer, make)
    session.tell(one)
    return web.json_response(shown_changes(changes, session.classes))


@routes.get("/api/rounds")
async def rounds(request: web.Request) -> web.Response:
    """All rounds."""
    return web.json_response(request.app[ROUNDS].described())


@routes.post(r"/api/rounds/{number:\d{1,9}}/restore")
async def restore(request: web.Request) -> web.Response:
    """Put the labels of a round back."""
    session, log = request.app[SESSION], request.app[ROUNDS]
    number = int(request.match_info["number"])
    _, changes = await asyncio.get_running_loop().run_in_executor(session.writer, log.restore, number)
    return web.json_response(shown_changes(changes, session.classes))


@routes.get("/api/suggest")
async def suggest(request: web.Request) -> web.Response:
    """Windows to look at next."""
    one, preview = source_of(request), preview_of(request)
    found: list[dict[str, Any]] = await asyncio.to_thread(
        windows.suggest, request.app[LEARNING], preview, one
    )
    return web.json_response(found)


@routes.get("/api/window")
async def window(request: web.Request) -> web.Response:
    """The picture of a window with the preview's outlines."""
    one, session, learning = source_of(request), request.app[SESSION], request.app[LEARNING]
    name = request.query.get("class", "")
    make = functools.partial(
        windows.window_picture,
        learning,
        learning.preview,
        one,
        window_of(one, _box(request)),
        name,
        _threshold(request),
        session.classes.get(name, (230, 85, 13)),
    )
    data = await in_readers(request, make)
    return web.Response(body=data, content_type="image/png", headers={"Cache-Control": "private, max-age=60"})

"""Routes of runs and their results."""

from __future__ import annotations

import asyncio
import functools
import mimetypes
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from aiohttp import web
from shapely.geometry.base import BaseGeometry

from fewscope.annotate.label_routes import body_of, number_of
from fewscope.annotate.labels import AREA
from fewscope.annotate.learning import Learning
from fewscope.annotate.resolution import side_of
from fewscope.annotate.results import MAX_ROWS, Filters, ResultTable
from fewscope.annotate.runs import Request, Run, Runs, RunSource, copy_labels
from fewscope.annotate.security import REPORT_POLICY, add_headers
from fewscope.annotate.session import OpenSource, Session
from fewscope.annotate.tile_routes import ADDRESS, address_of, in_readers
from fewscope.annotate.tiles import png
from fewscope.annotate.web_keys import LEARNING, RUNS, SESSION, TABLES
from fewscope.connectors.support.several import load_several, write_folder
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import PageRunError

routes = web.RouteTableDef()
REPORT_FILES = (".html", ".json", ".png", ".jpg", ".svg", ".css")


def start_run(session: Session, runs: Runs, learning: Learning, body: Any) -> Run:
    """Start a run that the page asks for: labels are copied, then the command is started.

    Raises
    ------
    PageRunError, SupportError, LabelError
        The request makes no sense, another run is going on, there are no labels to learn from, or the disk is full.
    """
    ids = body.get("sources")
    if not isinstance(ids, list) or not ids or len(set(map(str, ids))) < len(ids):
        raise PageRunError("no image is chosen; choose at least one")
    chosen = [session.source(own) for own in ids]
    request, config = Request.of(body), session.config
    labelled = [one for one in session.sources if one.labels.has_any]
    sets = session.folders.used()
    if not labelled and not sets:
        raise PageRunError("there are no labels yet; draw a region and the objects in it")
    for one in labelled:
        one.labels.write_again()  # a run learns from the files
    options = SupportOptions((), config.cell_part, config.geojson_origin)
    files = [(str(one.labels.path), one.source) for one in labelled]
    support = load_several(files, options, sets)  # refused here, if at all
    kind = chosen[0].source.info.kind
    areas = [one.labels.area for one in chosen]
    _check_areas(chosen, areas)
    is_file = len(labelled) <= 1
    if is_file and labelled:  # in the range of values of the first one all are shown
        is_file = labelled[0] is session.sources[0] or not labelled[0].source.info.ranges
    outlined = support if is_file else learning.with_outlines(support)
    folder = runs.new_folder()
    try:
        if is_file:
            arguments = [word for uri, _ in sets for word in ("--support", uri)]
            for one in labelled:
                arguments += ["--support", str(copy_labels(one.labels.path, folder))]
                if one.uri != chosen[0].uri:
                    arguments += ["--support-slide" if kind == "slide" else "--support-raster", one.uri]
        else:
            write_folder(str(folder / "support"), outlined)
            arguments = ["--support", str(folder / "support")]
        arguments += area_arguments(chosen, areas, folder)
    except OSError as error:
        raise PageRunError(f"{folder}: cannot be written ({error.strerror}); free some space") from error
    uris = [one.uri for one in chosen]
    if len(chosen) == 1:
        names, out = [chosen[0].name], folder / chosen[0].name
    else:
        names, out = (config.name_folders or (lambda _: [one.name for one in chosen]))(uris), folder
    extra = config.slide_arguments if kind == "slide" else config.raster_arguments
    shown = [one.source.info.time for one in chosen]
    extra = at_resolution(extra, chosen[0], session.choice.factor)
    if "--time" not in extra and any(shown):  # a run takes all of them
        extra = (*extra, "--time", "1")
    sources = [
        RunSource(one.id, name, one.uri, folder / name) for one, name in zip(chosen, names, strict=True)
    ]
    job = "segment" if kind == "slide" else "map"
    return runs.start(folder, job, sources, [*uris, *arguments, "--out", str(out), *extra], request)


def at_resolution(words: Sequence[str], one: OpenSource, factor: float) -> tuple[str, ...]:
    """Options of a command with the resolution of the page: a run of its own may choose another."""
    info = one.source.info
    option, side = ("--mpp", info.mpp) if info.kind == "slide" else ("--res", side_of(info))
    if not side or (factor == 1 and (option in words or info.kind == "raster")):
        return tuple(words)
    kept = list(words)
    if option in kept:
        at = kept.index(option)
        del kept[at : at + 2]
    return (option, f"{side:.10g}", *kept)


def _check_areas(chosen: Sequence[OpenSource], areas: Sequence[BaseGeometry | None]) -> None:
    """Raise PageRunError where areas leave nothing to segment, or cannot be given to one command."""
    for one, area in zip(chosen, areas, strict=True):
        if area is not None and area.is_empty:
            raise PageRunError(f"nothing is left of the area of {one.name}; delete what takes it away")
    if len(chosen) > 1 and any(areas) and chosen[0].source.info.kind == "raster":
        raise PageRunError("each of several rasters has an area of its own; run one at a time")
    names = [_file_name(one) for one in chosen]
    if any(area is not None for area in areas) and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PageRunError(
            f"{names.count(twice)} images are called {twice}, and areas are told apart by names; run one at a time"
        )


def area_arguments(
    chosen: Sequence[OpenSource], areas: Sequence[BaseGeometry | None], folder: Path
) -> list[str]:
    """Options of the command that limit a run to the areas, of which copies are written into its folder."""
    if not any(area is not None for area in areas):
        return []
    if len(chosen) == 1:
        path = folder / AREA
        path.write_bytes(chosen[0].labels.area_text(areas[0]))
        return ["--aoi", str(path)]
    (folder / "areas").mkdir()
    for one, area in zip(chosen, areas, strict=True):  # a folder has one for each
        text = one.labels.area_text(one.frame if area is None else area)
        (folder / "areas" / f"{_file_name(one)}.geojson").write_bytes(text)
    return ["--aoi", str(folder / "areas")]


def _file_name(one: OpenSource) -> str:
    """The last part of a source's address."""
    return PurePath(one.uri.rstrip("/")).name


@routes.post("/api/runs")
async def start(request: web.Request) -> web.Response:
    """Start a run."""
    body = await body_of(request)
    loop = asyncio.get_running_loop()
    session, runs, learning = request.app[SESSION], request.app[RUNS], request.app[LEARNING]
    run = await loop.run_in_executor(session.writer, start_run, session, runs, learning, body)
    session.hub.publish({"type": "run", "source": None, **run.described()})
    return web.json_response({"id": run.id, "commands": [run.command]})


@routes.get("/api/runs")
async def all_runs(request: web.Request) -> web.Response:
    """All runs."""
    return web.json_response([run.described() for run in request.app[RUNS].runs.values()])


def _run(request: web.Request) -> Run:
    return request.app[RUNS].get(request.match_info["run"])


@routes.get("/api/runs/{run}")
async def one_run(request: web.Request) -> web.Response:
    """One run."""
    return web.json_response(_run(request).described())


@routes.delete("/api/runs/{run}")
async def cancel(request: web.Request) -> web.Response:
    """Cancel a run."""
    request.app[RUNS].cancel(_run(request))
    return web.Response(status=204)


@routes.get("/api/runs/{run}/report/{source}/{name}")
async def report(request: web.Request) -> web.Response:
    """A file of a report, from its folder alone: none below it, none that a link leads out to."""
    folder, name = _run(request).result_of(request.match_info["source"]), request.match_info["name"]
    data = await asyncio.to_thread(read_report_file, folder, name)
    if data is None:
        raise web.HTTPNotFound(text="there is no such file\n")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {"Content-Security-Policy": REPORT_POLICY, "Content-Type": kind}
    if kind.startswith("text/"):
        headers["Content-Type"] += "; charset=utf-8"
    return web.Response(body=data, headers=headers)


def read_report_file(folder: Path, name: str) -> bytes | None:
    """Content of a file that lies in a folder itself; None for anything else."""
    path = folder / name
    is_plain = name == path.name and not name.startswith(".") and path.suffix in REPORT_FILES
    if not is_plain or path.is_symlink() or not path.is_file() or path.resolve().parent != folder.resolve():
        return None
    return path.read_bytes()


def _chosen(request: web.Request) -> tuple[OpenSource, Path]:
    source = request.match_info.get("source") or request.query.get("source")
    return request.app[SESSION].source(source), _run(request).result_of(source)


async def _table(request: web.Request) -> tuple[OpenSource, ResultTable]:
    one, out = _chosen(request)
    return one, await asyncio.to_thread(request.app[TABLES].of, out, one.scale, one.info)


def _count(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise PageRunError(f"{name} is {text[:40]!r}, expected a whole number")
    return min(int(text), most)


@routes.get("/api/runs/{run}/table")
async def table(request: web.Request) -> web.Response:
    """Rows of the table."""
    _, found = await _table(request)
    filters, query = Filters.of(request.query), request.query
    offset, limit = _count(request, "offset", 0, 2**31), _count(request, "limit", 100, MAX_ROWS)
    descending = query.get("descending", "") in ("1", "true")

    def make() -> dict[str, Any]:
        rows = found.view(filters, query.get("sort") or None, descending)
        shown = rows[offset : offset + limit]
        return {"total": len(rows), "columns": found.columns, "rows": found.rows(shown)}

    return web.json_response(await asyncio.to_thread(make))


@routes.get("/api/runs/{run}/histogram")
async def histogram(request: web.Request) -> web.Response:
    """Histogram of a column."""
    _, found = await _table(request)
    make = functools.partial(
        found.histogram,
        request.query.get("column") or found.area,
        _count(request, "bins", 40, 10**6),
        Filters.of(request.query),
    )
    return web.json_response(await asyncio.to_thread(make))


@routes.get("/api/runs/{run}/at")
async def at(request: web.Request) -> web.Response:
    """The instance at a place."""
    _, found = await _table(request)
    x, y = number_of(request.query, "x"), number_of(request.query, "y")
    return web.json_response(await asyncio.to_thread(found.at, x, y))


@routes.get("/api/runs/{run}/export")
async def export(request: web.Request) -> web.StreamResponse:
    """Download what passes the filters."""
    one, found = await _table(request)
    filters, kind = Filters.of(request.query), request.query.get("format")
    pieces: Iterator[bytes]
    if kind == "csv":
        pieces = found.csv(filters)
    elif kind == "geojson":
        pieces = found.geojson(filters, one.to_file)
    else:
        raise PageRunError(f"format {str(kind)[:20]!r} is neither geojson nor csv")
    name = f"run-{request.match_info['run']}-source-{one.id}.{kind}"
    first = await asyncio.to_thread(next, pieces)  # an error before the first byte is answered as one
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8" if kind == "csv" else "application/geo+json",
            "Content-Disposition": f'attachment; filename="{name}"',
        }
    )
    add_headers(response)
    await response.prepare(request)
    await response.write(first)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        await response.write(piece)
    return response


@routes.get("/tile/instances/{run}/{source}/" + ADDRESS + ".png")
async def instances(request: web.Request) -> web.Response:
    """Instances of a result."""
    one, found = await _table(request)
    address, filters = address_of(request), Filters.of(request.query)
    if not one.grid.holds(address):
        raise web.HTTPNotFound(text="there is no such tile\n")
    paint, colours = request.query.get("paint") == "1", request.app[SESSION].classes
    data = await in_readers(request, lambda: png(found.tile(one.grid, address, paint, filters, colours)))
    return web.Response(
        body=data, content_type="image/png", headers={"Cache-Control": "private, max-age=3600"}
    )

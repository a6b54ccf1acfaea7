"""The server of ``fewscope annotate``: one aiohttp application, one loop, blocking work in threads."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from fewscope.annotate import (
    correct_routes,
    folder_routes,
    label_routes,
    preview_routes,
    resolution_routes,
    run_routes,
    tile_routes,
)
from fewscope.annotate.config import LOOPBACK, AnnotateConfig, ssh_line
from fewscope.annotate.kept_files import Stamp
from fewscope.annotate.learning import Learning, MakePreview
from fewscope.annotate.results import Tables
from fewscope.annotate.round_log import RoundLog
from fewscope.annotate.runs import Run, Runs
from fewscope.annotate.security import MAX_BODY, Gate, add_headers
from fewscope.annotate.session import Session
from fewscope.annotate.switching import Resolution
from fewscope.annotate.web_keys import LEARNING, RESOLUTION, ROUNDS, RUNS, SESSION, TABLES
from fewscope.connectors.source import Source
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import ConfigError, FewscopeError, LabelConflict, LabelError

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
BUNDLE = "app.js"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
WATCH_S = 1.5
"""Between two looks at whether another program has written to the labels."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(session: Session, gate: Gate, make_preview: MakePreview | None = None) -> web.Application:
    """The application: routes, checks, and what runs beside them.

    Parameters
    ----------
    session : Session
        What is annotated.
    gate : Gate
        Who may reach it.
    make_preview : MakePreview or None
        Makes the preview; None: with the network of the session's configuration.
    """
    app = web.Application(middlewares=[gate.middleware, errors_as_json], client_max_size=MAX_BODY)
    app[SESSION] = session
    options = SupportOptions((), session.config.cell_part, session.config.geojson_origin)
    app[LEARNING] = Learning(
        session.sources,
        options,
        make_preview or network_preview(session.config),
        session.hub.publish,
        session.folders.used,
        lambda: session.at(1),
    )
    session.on_labels.append(app[LEARNING].labels_changed)
    app[RESOLUTION] = Resolution(session, app[LEARNING])
    app[ROUNDS] = RoundLog(session, app[LEARNING], _score_round)
    ids = {one.uri: one.id for one in session.sources}
    app[RUNS], app[TABLES] = Runs(session.out, lambda run: _tell_run(session, run), ids), Tables()
    app.router.add_get("/", _index)
    app.router.add_get("/static/{name}", _static)
    app.router.add_get("/api/info", _info)
    app.router.add_get("/api/events", _events)
    app.router.add_routes(tile_routes.routes)
    app.router.add_routes(label_routes.routes)
    app.router.add_routes(folder_routes.routes)
    app.router.add_routes(preview_routes.routes)
    app.router.add_routes(resolution_routes.routes)
    app.router.add_routes(run_routes.routes)
    app.router.add_routes(correct_routes.routes)
    app.cleanup_ctx.append(_beside)
    app.on_shutdown.append(_end_events)
    return app


def network_preview(config: AnnotateConfig) -> MakePreview:
    """Makes the preview with the network of a configuration; torch is imported in that call, not before.

    An encoder is opened here instead, before the page is: one that cannot be used must not be found out while drawing.

    Raises
    ------
    FewscopeError
        The encoder cannot be used.
    """

    def load() -> Any:
        from fewscope.model.segmenter import load_segmenter

        return load_segmenter(config.model, config.weights, config.encoder)

    network = [load()] if config.encoder else []

    def make(sources: Sequence[Source], on_event: Callable[[Any], None]) -> Any:
        from fewscope.annotate.preview import Preview

        if not network:
            network.append(load())
        return Preview(
            network[0],
            sources,
            on_event=on_event,
            fine=config.fine,
            object_radius_um=config.object_radius_um,
        )

    return make


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors that are meant for people, as JSON with one line."""
    try:
        return await handler(request)
    except LabelConflict as error:
        return web.json_response({"error": str(error)}, status=409)
    except FewscopeError as error:
        is_full = isinstance(error, LabelError) and isinstance(error.__cause__, OSError)
        return web.json_response({"error": str(error)}, status=507 if is_full else 400)
    except web.HTTPException:
        raise
    except Exception as error:  # a fault of ours: the page says so, and the log has the rest
        log.exception("%s %s", request.method, request.path)
        text = f"the server has failed ({type(error).__name__}); its terminal says more"
        return web.json_response({"error": text}, status=500)


async def _index(request: web.Request) -> web.StreamResponse:
    return await _file(STATIC / "index.html")


async def _static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    known = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES and path.is_file()}
    if name not in known:
        raise web.HTTPNotFound(text="there is no such file\n")
    return await _file(known[name])


async def _file(path: Path) -> web.Response:
    try:
        data = await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        raise web.HTTPNotFound(text=MISSING + "\n") from None
    return web.Response(
        body=data, content_type=TYPES[path.suffix], charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def _info(request: web.Request) -> web.Response:
    session = request.app[SESSION]
    return web.json_response(await asyncio.to_thread(session.described))


async def _events(request: web.Request) -> web.StreamResponse:
    hub = request.app[SESSION].hub
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    add_headers(response)
    await response.prepare(request)
    with suppress(ConnectionResetError):
        async for message in hub.subscribe():
            await response.write(message)
    return response


async def _beside(app: web.Application) -> Any:
    """The hub's loop, and the watch for files that others change."""
    session = app[SESSION]
    session.hub.start(asyncio.get_running_loop())
    app[LEARNING].start()
    app[ROUNDS].start()
    watch = asyncio.create_task(_watch(session))
    yield
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    await asyncio.to_thread(app[ROUNDS].close)
    await asyncio.gather(asyncio.to_thread(app[LEARNING].close), asyncio.to_thread(app[RUNS].close))


def _score_round(preview: Any, support: Any) -> Any:
    from fewscope.annotate.rounds import score_round  # imports the network

    return score_round(preview, support)


def _tell_run(session: Session, run: Run) -> None:
    session.hub.publish({"type": "run", "source": None, **run.described()})


async def _watch(session: Session) -> None:
    loop = asyncio.get_running_loop()
    seen: dict[str, tuple[Stamp, Stamp]] = {}
    while True:
        await asyncio.sleep(WATCH_S)
        for one in session.sources:
            now = await asyncio.to_thread(lambda labels: labels.stamps, one.labels)
            if now == seen.get(one.id, ()):
                continue
            seen[one.id], notes = now, one.labels.notes
            try:
                changes = await loop.run_in_executor(session.writer, one.labels.reload)
            except FewscopeError as error:
                session.hub.publish({"type": "labels", "source": one.id, "error": str(error)})
                continue
            if changes is not None:
                log.info("%s: labels or area were changed by another program: read again", one.folder)
            for note in one.labels.notes if one.labels.notes is not notes else ():
                session.hub.publish({"type": "labels", "source": one.id, "error": note})
            session.tell(one)  # it may have been read before an edit that was then refused


async def _end_events(app: web.Application) -> None:
    app[SESSION].hub.close()


MISSING = "the page is not built: run `make web` (in a checkout), or install a wheel of Fewscope"


def serve(config: AnnotateConfig) -> int:
    """Open the sources, serve the page, and return when it is stopped.

    Raises
    ------
    FewscopeError
        A source, folder or encoder cannot be used, the port is taken, or the page is not built.
    """
    if not (STATIC / BUNDLE).is_file() or not (STATIC / "index.html").is_file():
        raise ConfigError(MISSING)
    gate, make_preview = Gate.new(config.host, config.token), network_preview(config)
    session = Session(config)
    try:
        asyncio.run(_serve(session, gate, make_preview))
    finally:
        session.close()
    return 0


async def _serve(session: Session, gate: Gate, make_preview: MakePreview) -> None:
    config = session.config
    runner = web.AppRunner(make_app(session, gate, make_preview), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"--host {config.host} --port {config.port}: cannot be listened on ({error.strerror}); leave out "
                "--port for one that is free"
            ) from error
        port = int(runner.addresses[0][1])
        shown = f"[{config.host}]" if ":" in config.host else config.host
        if config.host not in LOOPBACK:
            print(
                f"anyone in the network who has the token can draw here; safer is {ssh_line(port)}, without --host",
                flush=True,
            )
        url = f"http://{shown}:{port}/?token={gate.token}"
        print(f"annotate: {url}\n  labels: {session.out}\n  stop with Ctrl-C", flush=True)
        if config.open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        await _asked_to_stop()
        print("stopping; run the same command to continue", flush=True)
    finally:
        await runner.cleanup()


async def _asked_to_stop() -> None:
    """Until Ctrl-C or SIGTERM. They are waited for in the loop: an exception in the midst of it would skip clean-up."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
    try:
        for one in signals:
            loop.add_signal_handler(one, stop.set)
    except (
        NotImplementedError,
        ValueError,
        RuntimeError,
    ):  # Windows, or a thread: as the caller handles them
        pass
    await stop.wait()

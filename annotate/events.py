"""Server-sent events: what has changed, told to every open page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

MAX_WAITING = 1000
"""Events that wait for a page that does not read; it is then cut off, and reconnects by itself."""

KEEP_ALIVE_S = 20.0


class EventHub:
    """Sends events to all subscribers. `publish` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str | None]] = set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that serves; events before are for nobody."""
        self._loop = loop

    def publish(self, event: Mapping[str, Any]) -> None:
        """Send an event, JSON values by name with at least ``type``."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        text = json.dumps(event, separators=(",", ":"))
        loop.call_soon_threadsafe(self._send, text)

    def in_loop(self, do: Callable[[], None]) -> None:
        """Do something in the loop, between two requests, and wait for it; here, where nothing is served.

        Not to be called in the loop. What it raises is raised here.
        """
        loop = self._loop
        if loop is None or not loop.is_running():
            do()
            return

        async def act() -> None:
            do()

        asyncio.run_coroutine_threadsafe(act(), loop).result()

    def _send(self, text: str | None) -> None:
        for queue in list(self._queues):
            if queue.qsize() >= MAX_WAITING:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(text)

    def close(self) -> None:
        """End all subscriptions; called in the loop."""
        self._send(None)

    async def subscribe(self) -> AsyncIterator[bytes]:
        """Messages for one page, as they go over the wire; a comment now and then keeps the connection."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield b"retry: 1000\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if text is None:
                    return
                yield f"data: {text}\n\n".encode()
        finally:
            self._queues.discard(queue)

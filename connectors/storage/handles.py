"""Open files that threads take turns with: each takes an idle one for itself, and gives it back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Handle = TypeVar("Handle")


class IdleHandles(Generic[Handle]):
    """Open files by a key, of which any number may have the same.

    Parameters
    ----------
    close
        Closes one.
    n_idle
        Most that are kept open while nobody uses them.
    """

    def __init__(self, close: Callable[[Handle], None], n_idle: int) -> None:
        self._close_one, self._n_idle = close, n_idle
        self._lock = threading.Lock()
        self._idle: list[tuple[Hashable, Handle]] = []
        self._closed = False

    @contextmanager
    def take(self, key: Hashable, open_one: Callable[[], Handle], uri: str) -> Iterator[Handle]:
        """A handle for this thread alone; one that was in use when an error passed is closed, as it may fail again.

        Parameters
        ----------
        key
            What ``open_one`` opens.
        uri
            For the ValueError after `close`.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"{uri}: is closed")
            at = next((i for i, (kept, _) in enumerate(self._idle) if kept == key), None)
            handle = None if at is None else self._idle.pop(at)[1]
        handle = open_one() if handle is None else handle
        try:
            yield handle
        except BaseException:
            self._close_one(handle)
            raise
        surplus = []
        with self._lock:
            self._idle.append((key, handle))
            while self._idle and (self._closed or len(self._idle) > self._n_idle):
                surplus.append(self._idle.pop(0)[1])
        for old in surplus:
            self._close_one(old)

    def close(self) -> None:
        """Close all of them; those in use are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, handle in idle:
            self._close_one(handle)

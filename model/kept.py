"""What is kept of things that can be computed again, within a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, within a number of bytes: what was asked for longest ago goes first. Safe with several threads.

    Parameters
    ----------
    most_bytes : int
        Bound on the sum of sizes; the newest value stays whatever its size.
    size : Callable[[V], int]
        Bytes of a value.
    """

    def __init__(self, most_bytes: int, size: Callable[[V], int]) -> None:
        self.most_bytes = most_bytes
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which counts as asked for; None if there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def made(self, key: K, make: Callable[[], V]) -> V:
        """The value, made now if there is none. Two threads may make the same at once."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def peek(self, key: K) -> V | None:
        """The value, without effect on what goes first."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, in place of an earlier one of the same key."""
        with self._lock:
            if key in self._values:
                self._bytes -= self._size(self._values.pop(key))
            self._values[key] = value
            self._bytes += self._size(value)
            while self._bytes > self.most_bytes and len(self._values) > 1:
                self._bytes -= self._size(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._values.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[K]:
        with self._lock:
            return iter(list(self._values))

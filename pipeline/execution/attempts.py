"""Which call goes to which worker, and what becomes of the calls of a worker that dies. No Ray here.

A worker that dies takes all its calls with it, and only one of them can have killed it. From then on they are suspects,
and each is tried alone on a worker: so no call is blamed for another one's deaths more than once. A call that has
killed `MAX_DEATHS` workers is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fewscope.pipeline.tiling.grid import Unit

MAX_DEATHS = 3
"""Workers that a call may take with it. Memory that runs out or a machine that is taken away hit a call once by chance,
three times in a row rarely."""


@dataclass(eq=False, slots=True)
class Call:
    """Something that a worker is to do.

    Attributes
    ----------
    method, arguments : str, tuple[Any, ...]
        Method of the actor to call, and its arguments.
    unit : Unit | None
        That it is about; None for a task of a dask graph.
    future : Future[Any] | None
        Future of a task of a dask graph.
    n_deaths : int
        Workers that died with it.
    """

    method: str
    arguments: tuple[Any, ...]
    unit: Unit | None = None
    future: Future[Any] | None = None
    n_deaths: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.unit.name if self.unit else "a shard of a pyramid"


W = TypeVar("W", bound=Hashable)


@dataclass(slots=True)
class Attempts(Generic[W]):
    """The calls that are not done yet.

    Attributes
    ----------
    per_worker : int
        Calls that a worker has at a time.
    waiting, suspects : deque[Call]
        Calls that no worker has.
    running : dict[W, list[Call]]
        Calls of each worker.
    """

    per_worker: int
    waiting: deque[Call] = field(default_factory=deque)
    suspects: deque[Call] = field(default_factory=deque)
    running: dict[W, list[Call]] = field(default_factory=dict)

    @property
    def n_left(self) -> int:
        """Calls that are not done."""
        return len(self.waiting) + len(self.suspects) + sum(map(len, self.running.values()))

    def take(self, worker: W) -> Call | None:
        """The next call for a worker; None if it has enough to do."""
        mine = self.running.setdefault(worker, [])
        if any(call.n_deaths for call in mine) or (mine and self.suspects):
            return None  # a suspect is alone on its worker, and gets one soon
        if self.suspects:
            call = self.suspects.popleft()
        elif self.waiting and len(mine) < self.per_worker:
            call = self.waiting.popleft()
        else:
            return None
        mine.append(call)
        return call

    def done(self, worker: W, call: Call) -> None:
        """A call has come to its end."""
        self.running[worker].remove(call)

    def died(self, worker: W) -> list[Call]:
        """A worker is gone: its calls are tried again. Returns those that are given up."""
        lost = self.running.pop(worker, [])
        for call in lost:
            call.n_deaths += 1
        self.suspects.extend(call for call in lost if call.n_deaths < MAX_DEATHS)
        return [call for call in lost if call.n_deaths >= MAX_DEATHS]

"""The interface of a pool of workers, and the pool of this process. Does not import Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.worker import UnitWorker
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.grid import Unit

UNITS_IN_FLIGHT = 2
"""Units per worker at a time: while one is predicted, the other is read or written. More would only take memory."""

Row = dict[str, Any]
Task = Callable[..., Any]
Item = tuple[Unit, tuple[Any, ...]]
"""A unit, and further arguments of a task."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Instead of the row of a unit that killed every worker that tried it: why the last one died."""

    reason: str


class Pool(Protocol):
    """Runs units (with a model) and tasks (without one), in any order, each at least once."""

    n_workers: int

    def start(self) -> None:
        """Start the workers without waiting for them. Idempotent."""
        ...

    def run(self, job: Job, units: Iterable[Unit]) -> Generator[tuple[Unit, Row | SetAside], None, None]:
        """Segment units; yields each with its row when it is done, or with the reason why it is given up."""
        ...

    def map(self, task: Task, job: Job, items: Iterable[Item]) -> Iterator[tuple[Unit, Any]]:
        """Call ``task(job, unit, *arguments)`` for each item; yields each unit with the result when it is done.

        Items are consumed lazily, as workers become free.
        """
        ...

    def native_precision(self) -> str | None:
        """The fastest precision that the workers compute in natively; None: as this process does."""
        ...

    @property
    def dask_scheduler(self) -> Any:
        """Value of dask's ``scheduler=``."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalPool:
    """One worker in this process, without Ray: for debugging, tests and small machines."""

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self.n_workers = 1
        self._load_model = load_model
        self._worker: UnitWorker | None = None
        self._threads = ThreadPoolExecutor(UNITS_IN_FLIGHT, thread_name_prefix="unit")

    def start(self) -> None:
        if self._worker is None:
            self._worker = UnitWorker(self._load_model)

    def run(self, job: Job, units: Iterable[Unit]) -> Generator[tuple[Unit, Row | SetAside], None, None]:
        self.start()
        return self._each((unit, (self._worker, job, unit)) for unit in units)

    def map(self, task: Task, job: Job, items: Iterable[Item]) -> Iterator[tuple[Unit, Any]]:
        return self._each((unit, (task, job, unit, *arguments)) for unit, arguments in items)

    def _each(self, calls: Iterator[tuple[Unit, tuple[Any, ...]]]) -> Generator[tuple[Unit, Any], None, None]:
        """Calls ``call[0](*call[1:])``, at most `UNITS_IN_FLIGHT` at a time, results as they come."""
        running: dict[Future[Any], Unit] = {}
        try:
            for unit, call in calls:
                running[self._threads.submit(*call)] = unit
                if len(running) >= UNITS_IN_FLIGHT:
                    yield from _collect(running)
            while running:
                yield from _collect(running)
        finally:
            for future in running:
                future.cancel()
            wait(running)  # none may still write when another run takes the folder

    def native_precision(self) -> str | None:
        return None

    @property
    def dask_scheduler(self) -> Any:
        return "threads"

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def _collect(running: dict[Future[Any], Unit]) -> Iterator[tuple[Unit, Any]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()

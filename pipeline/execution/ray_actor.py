"""The Ray actor that holds a worker."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import ray

from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Row, Task
from fewscope.pipeline.execution.worker import UnitWorker
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.grid import Unit


class Actor:
    """A `UnitWorker` on a node of the cluster; its threads run `UNITS_IN_FLIGHT` units at once."""

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self._load_model = load_model
        self._worker: UnitWorker | None = None
        self._job: Job | None = None
        self._loading = threading.Lock()

    def ready(self) -> UnitWorker:
        """Load the model here, not in ``__init__``: the driver then gets the original exception."""
        with self._loading:
            if self._worker is None:
                self._worker = UnitWorker(self._load_model)
            return self._worker

    def is_ready(self) -> tuple[str, int, tuple[str, ...]]:
        """Returns when the model is loaded: host, process, and the precisions that it computes in."""
        return socket.gethostname(), os.getpid(), self.ready().precisions

    def _get(self, key: str, job: list[ray.ObjectRef]) -> Job:
        with self._loading:  # fetched once per actor and job, not once per unit
            if self._job is None or self._job.key != key:
                self._job = ray.get(job[0])
            return self._job

    def run(self, key: str, job: list[ray.ObjectRef], unit: Unit) -> Row:
        """Segment one unit."""
        return self.ready()(self._get(key, job), unit)

    def task(
        self, key: str, job: list[ray.ObjectRef], unit: Unit, task: Task, arguments: tuple[Any, ...]
    ) -> Any:
        """Run one task."""
        return task(self._get(key, job), unit, *arguments)

    def call(self, function: Task, *arguments: Any) -> Any:
        """Run one task of a dask graph."""
        return function(*arguments)

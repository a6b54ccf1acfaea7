"""Workers as Ray actors. With `ray_training`, the only module that imports Ray.

Pixels do not pass through here: only units (coordinates), lookup tables and small rows are sent.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dask.local
import ray
from ray.exceptions import RayError, RayTaskError

from fewscope import _version
from fewscope.errors import WorkerError
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import UNITS_IN_FLIGHT, Item, Row, Task
from fewscope.pipeline.execution.worker import UnitWorker
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.grid import Unit

log = logging.getLogger(__name__)

WORKER_BYTES = 2e9
"""Memory reserved for a CPU worker: 0.7 GB for torch and a model, the rest for two units of 4096 px."""

RETRIES = 3
"""Times that a unit is retried after its worker died, before the job fails."""

LOG_EVERY_S = 30.0
"""Interval of the log line while Ray has started no worker."""


class _Actor:
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

    def is_ready(self) -> bool:
        """Return when the model is loaded."""
        return self.ready() is not None

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


class RayPool:
    """Ray actors, on the cluster of ``RAY_ADDRESS`` (set by ``ray job submit``) or else on this machine.

    Parameters
    ----------
    load_model : loads the model, in each actor
    workers : number of actors; None: one per GPU of the cluster, or without GPUs one per CPU, limited by memory
    gpus_per_worker : GPUs per actor, which may be a fraction; None: 1 if the cluster has a GPU. On a cluster whose GPU
        nodes scale from zero, give both

    Raises
    ------
    WorkerError
        From any method: Ray cannot be reached, or the worker of a unit died more than `RETRIES` times.
    """

    def __init__(
        self,
        load_model: Callable[[], Model],
        workers: int | None = None,
        gpus_per_worker: float | None = None,
    ) -> None:
        self.n_workers = workers or 1  # until `start` has asked Ray
        self._load_model, self._workers, self._gpus = load_model, workers, gpus_per_worker
        self._actors: list[Any] = []
        self._shared: tuple[str, list[ray.ObjectRef]] | None = None
        self._started_here = False

    def start(self) -> None:
        if self._actors:
            return
        self._started_here = not ray.is_initialized()
        if self._started_here:
            start_ray()
        resources = ray.cluster_resources()
        n_cpus, n_gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        gpus = self._gpus if self._gpus is not None else float(n_gpus >= 1)
        on_gpus = int(n_gpus / gpus) if gpus else 0
        in_memory = int(resources.get("memory", n_cpus * WORKER_BYTES) / WORKER_BYTES)
        self.n_workers = max(1, self._workers or on_gpus or min(int(n_cpus), in_memory))
        crowded = not gpus and self.n_workers > n_cpus  # more workers than CPUs: each gets a fraction of one
        actor = ray.remote(_Actor).options(
            num_cpus=int(1000 * n_cpus / self.n_workers) / 1000 if crowded else 1,
            num_gpus=gpus,
            max_concurrency=UNITS_IN_FLIGHT + 1,  # and `is_ready`
            max_restarts=-1,  # machines may come and go; only the retries of one unit end a job
            max_task_retries=RETRIES,
        )
        self._actors = [actor.remote(self._load_model) for _ in range(self.n_workers)]
        log.info(
            "%d workers requested from Ray (%s)", self.n_workers, f"{gpus:g} GPU each" if gpus else "CPU"
        )

    def run(self, job: Job, units: Iterable[Unit]) -> Generator[tuple[Unit, Row], None, None]:
        return self._each(job, ((unit, "run", ()) for unit in units))

    def map(self, task: Task, job: Job, items: Iterable[Item]) -> Iterator[tuple[Unit, Any]]:
        return self._each(job, ((unit, "task", (task, arguments)) for unit, arguments in items))

    def _each(
        self, job: Job, calls: Iterator[tuple[Unit, str, tuple[Any, ...]]]
    ) -> Generator[tuple[Unit, Any], None, None]:
        """Send calls to actors that are ready, at most `UNITS_IN_FLIGHT` to each; yield results as they come."""
        self.start()
        if self._shared is None or self._shared[0] != job.key:
            self._shared = job.key, [ray.put(job)]  # in a list: actors fetch it once, not with every call
        starting = {actor.is_ready.remote(): actor for actor in self._actors}
        running: dict[ray.ObjectRef, tuple[Unit, Any]] = {}
        room: list[Any] = []
        waiting = next(calls, None)
        while waiting is not None or running:
            while waiting is not None and room:
                unit, method, arguments = waiting
                actor = room.pop(0)
                running[getattr(actor, method).remote(*self._shared, unit, *arguments)] = (unit, actor)
                waiting = next(calls, None)
            done, _ = ray.wait([*running, *starting], num_returns=1, timeout=LOG_EVERY_S)
            if not done and len(starting) == self.n_workers:
                log.info("waiting for Ray to start a worker; it may have to start a machine first")
            for ref in done:
                if ref in starting:
                    _result(ref)
                    room += [starting.pop(ref)] * UNITS_IN_FLIGHT
                else:
                    unit, actor = running.pop(ref)
                    room.append(actor)
                    yield unit, _result(ref)

    @property
    def dask_scheduler(self) -> Any:
        """A ``get`` function that runs the tasks of dask graphs on the actors.

        `ray.util.dask.ray_dask_get` would submit Ray tasks, which wait forever for the CPUs that the actors hold, or,
        if they request none, start a process for every shard at once.
        """
        self.start()
        idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for actor in self._actors:
            idle.put(actor)

        def submit(function: Task, *arguments: Any) -> Future[Any]:
            actor = idle.get()  # never waits: dask submits no more tasks at a time than there are actors
            future: Future[Any] = actor.call.remote(function, *arguments).future()
            future.add_done_callback(lambda _: idle.put(actor))
            return future

        def get(graph: Any, keys: Any, **options: Any) -> Any:
            try:
                return dask.local.get_async(submit, self.n_workers, graph, keys, **options)
            except RayError as error:
                raise _as_worker_error(error) from error

        return get

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._shared = [], None
        if self._started_here:
            ray.shutdown()


def _result(ref: ray.ObjectRef) -> Any:
    """Return value of a call; raises the exception of the call."""
    try:
        return ray.get(ref)
    except RayError as error:
        raise _as_worker_error(error) from error


def _as_worker_error(error: RayError) -> Exception:
    """The exception of the worker's code, or a `WorkerError` about the worker's death."""
    if isinstance(error, RayTaskError):
        cause: Exception = error.cause
        return cause
    reason = str(error).strip().partition("\n")[0]
    return WorkerError(
        f"a worker died {RETRIES + 1} times ({reason}); its machine may be short of memory: use fewer --workers. The "
        "same command resumes the run"
    )


def start_ray(*, worker_logs: bool = False) -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine if that is not set.

    Parameters
    ----------
    worker_logs : also print here what the workers print

    Raises
    ------
    WorkerError
        Ray cannot be reached or started.
    """
    # silences a warning about a future default for actors without GPU
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(address="auto", log_to_driver=worker_logs, logging_level=logging.WARNING)
            return
        # workers must find these packages whether or not they are installed
        root = str(Path(_version.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=worker_logs,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
        )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())
        raise WorkerError(f"Ray cannot be started or reached ({reason}); --local runs without Ray") from error

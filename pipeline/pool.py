"""Workers: Ray actors, or threads of this process. The same units, the same bytes.

The only file that imports Ray. Pixels never pass through here: what travels is units (coordinates), lookup tables and
small rows.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import ray

from pipeline.calibrate import Model
from pipeline.grid import Unit
from pipeline.worker import Job, UnitWorker

log = logging.getLogger(__name__)

UNITS_IN_FLIGHT = 2
"""Per worker: one has the model, the other is read or written meanwhile. More would only take memory."""

RETRIES = 3
"""Times that a unit is done again after its worker died, before the job gives up."""

Row = dict[str, Any]
Task = Callable[..., Any]


class Pool(Protocol):
    """Something that does units (with a model) and tasks (without one), in any order, each at least once."""

    n_workers: int

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Row]]:
        """Do units; yields each with its row when it is done."""
        ...

    def map(self, task: Task, job: Job, items: Mapping[Unit, tuple[Any, ...]]) -> Iterator[tuple[Unit, Any]]:
        """``task(job, unit, *arguments)`` for each item; yields each unit with the result when it is done."""
        ...

    @property
    def dask_scheduler(self) -> Any:
        """What to give dask as ``scheduler=``."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalPool:
    """One worker in this process, without Ray: for debugging, tests, and small machines."""

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self.n_workers = 1
        self._worker = UnitWorker(load_model)
        self._threads = ThreadPoolExecutor(UNITS_IN_FLIGHT, thread_name_prefix="unit")

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Row]]:
        return self._each((unit, (self._worker, job, unit)) for unit in units)

    def map(self, task: Task, job: Job, items: Mapping[Unit, tuple[Any, ...]]) -> Iterator[tuple[Unit, Any]]:
        return self._each((unit, (task, job, unit, *arguments)) for unit, arguments in items.items())

    def _each(self, calls: Iterator[tuple[Unit, tuple[Any, ...]]]) -> Iterator[tuple[Unit, Any]]:
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


class _Actor:
    """A `UnitWorker` on a node of the cluster. Threads: `UNITS_IN_FLIGHT` units at once."""

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self._worker = UnitWorker(load_model)
        self._job: Job | None = None
        self._loading = threading.Lock()

    def ready(self) -> str:
        """The node's address: returns when the model is loaded."""
        return ray.util.get_node_ip_address()

    def _get(self, key: str, job: list[ray.ObjectRef]) -> Job:
        with self._loading:  # fetched once per actor and job (and again after a restart), not once per unit
            if self._job is None or self._job.key != key:
                self._job = ray.get(job[0])
            return self._job

    def run(self, key: str, job: list[ray.ObjectRef], unit: Unit) -> Row:
        """Do one unit."""
        return self._worker(self._get(key, job), unit)

    def task(
        self, key: str, job: list[ray.ObjectRef], task: Task, unit: Unit, arguments: tuple[Any, ...]
    ) -> Any:
        """Do one task."""
        return task(self._get(key, job), unit, *arguments)


class RayPool:
    """Ray actors: of a cluster when there is one (``RAY_ADDRESS``, ``ray job submit``), of this machine otherwise.

    Parameters
    ----------
    load_model : makes the model, in each actor
    workers : number of actors; None for one per GPU of the cluster, or one per CPU where there is no GPU
    gpus_per_worker : GPUs that an actor asks for (a fraction puts several on one); None for 1 where there is a GPU.
        On a cluster whose GPU nodes scale from zero, give both.
    """

    def __init__(
        self,
        load_model: Callable[[], Model],
        workers: int | None = None,
        gpus_per_worker: float | None = None,
    ) -> None:
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _start_ray()
        resources = ray.cluster_resources()
        n_gpus = int(resources.get("GPU", 0))
        if gpus_per_worker is None:
            gpus_per_worker = 1.0 if n_gpus else 0.0
        if workers is None:
            on_gpus = int(n_gpus / gpus_per_worker) if gpus_per_worker else 0
            workers = on_gpus or int(resources.get("CPU", 1))
        self.n_workers = max(1, workers)
        n_cpus = 0 if self.n_workers > resources.get("CPU", 1) and not gpus_per_worker else 1
        actor = ray.remote(_Actor).options(
            num_cpus=n_cpus,
            num_gpus=gpus_per_worker,
            max_concurrency=UNITS_IN_FLIGHT + 1,  # and `ready`
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
        self._actors: list[Any] = [actor.remote(load_model) for _ in range(self.n_workers)]
        log.info("%d workers asked of Ray (%s)", self.n_workers, "GPU" if gpus_per_worker else "CPU")

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Row]]:
        shared = [ray.put(job)]  # in a list: actors fetch it once, not with every call
        return self._each((unit, ("run", job.key, shared, unit)) for unit in units)

    def map(self, task: Task, job: Job, items: Mapping[Unit, tuple[Any, ...]]) -> Iterator[tuple[Unit, Any]]:
        shared = [ray.put(job)]
        return self._each(
            (unit, ("task", job.key, shared, task, unit, arguments)) for unit, arguments in items.items()
        )

    def _each(self, calls: Iterator[tuple[Unit, tuple[Any, ...]]]) -> Iterator[tuple[Unit, Any]]:
        """Calls go to actors that are ready, at most `UNITS_IN_FLIGHT` to each; results as they come."""
        starting = {actor.ready.remote(): actor for actor in self._actors}
        running: dict[ray.ObjectRef, tuple[Unit, Any]] = {}
        room: list[Any] = []
        left = True
        while left or running:
            while left and room:
                call = next(calls, None)
                if call is None:
                    left = False
                    break
                unit, (method, *arguments) = call
                actor = room.pop(0)
                running[getattr(actor, method).remote(*arguments)] = (unit, actor)
            if not left and not running:
                break
            done, _ = ray.wait([*running, *starting], num_returns=1)
            for ref in done:
                if ref in starting:
                    ray.get(ref)  # raises here what the model's loading raised there
                    room += [starting.pop(ref)] * UNITS_IN_FLIGHT
                else:
                    unit, actor = running.pop(ref)
                    room.append(actor)
                    yield unit, ray.get(ref)

    @property
    def dask_scheduler(self) -> Any:
        from ray.util.dask import ray_dask_get

        return ray_dask_get

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._started_here:
            ray.shutdown()


def _start_ray() -> None:
    """Connect to the cluster of ``RAY_ADDRESS`` or of the running job; start Ray on this machine if there is none."""
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"):
        ray.init(address="auto", log_to_driver=False)
        return
    # workers must find these packages whether or not they are installed, and one thread per actor is fastest on CPUs
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )

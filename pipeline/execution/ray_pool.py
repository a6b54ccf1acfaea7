"""Workers as Ray actors: assigning units to them, and trying again what was lost with one.

Pixels do not pass through here: only units (coordinates), lookup tables and small rows are sent.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import dask.local
import ray
from ray.exceptions import RayError, RayTaskError

from fewscope.errors import WorkerError
from fewscope.pipeline.execution.attempts import MAX_DEATHS, Attempts, Call
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import UNITS_IN_FLIGHT, Item, Row, SetAside, Task
from fewscope.pipeline.execution.ray_actor import Actor
from fewscope.pipeline.execution.ray_start import ASK_EVERY_S, Head, first_line, lost_ray, start_ray
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.grid import Unit

log = logging.getLogger(__name__)

WORKER_BYTES = 2e9
"""Memory reserved for a CPU worker: 0.7 GB for torch and a model, the rest for two units of 4096 px."""

UNIT_TIMEOUT_S = 1800.0
"""For a unit, after which its worker is taken to hang: generous, as one that is merely slow would never get done."""

MAX_GIVEN_UP = 8
"""Units given up in a row after which it is not the units."""

NO_MACHINE_S = 300.0
"""Without any machine that could hold a worker: clouds replace one within a few minutes."""

PUMP_EVERY_S = 0.05
"""While tasks of dask run, how often new ones are looked for."""

LOG_EVERY_S = 30.0
"""Interval of the log line while Ray has started no worker."""


@dataclass(eq=False, slots=True)
class _Worker:
    """An actor, as the driver sees it.

    Attributes
    ----------
    host, pid : str, int
        Where it runs; "" and 0 until it is ready.
    precisions : tuple[str, ...]
        That it computes in natively.
    """

    actor: Any
    host: str = ""
    pid: int = 0
    precisions: tuple[str, ...] = ()


class RayPool:
    """Ray actors, on the cluster of ``RAY_ADDRESS`` (set by ``ray job submit``) or else on this machine.

    A worker that dies, or that takes longer than `unit_timeout_s` for a unit, is replaced, and what it had to do goes
    to others (`attempts`). Ray's own retries are not used: they are spent within a second, before Ray knows that a
    machine is gone.

    Parameters
    ----------
    load_model : Callable[[], Model]
        Loads the model, in each actor.
    workers : int | None
        Number of actors; None: one per GPU of the cluster, or without GPUs one per CPU, limited by memory.
    gpus_per_worker : float | None
        GPUs per actor, which may be a fraction; None: 1 if the cluster has a GPU. On a cluster whose GPU nodes
        scale from zero, give both.
    unit_timeout_s : float
        Seconds after which a worker is taken to hang, and is killed.

    Raises
    ------
    WorkerError
        From any method: Ray cannot be reached, no worker is left, workers cannot be started, or die whatever they do.
    """

    def __init__(
        self,
        load_model: Callable[[], Model],
        workers: int | None = None,
        gpus_per_worker: float | None = None,
        unit_timeout_s: float = UNIT_TIMEOUT_S,
    ) -> None:
        self.n_workers = workers or 1  # until `start` has asked Ray
        self.unit_timeout_s = unit_timeout_s
        self._load_model, self._n_asked, self._gpus = load_model, workers, gpus_per_worker
        self._options: dict[str, Any] = {}
        self._starting: dict[ray.ObjectRef, _Worker] = {}
        self._ready: list[_Worker] = []
        self._n_failed_starts = 0
        self._alone_since: float | None = None  # since when no worker has been ready, after one was
        self._shared: tuple[str, list[ray.ObjectRef]] | None = None
        self._started_here = False
        self._head: Head | None = None

    def start(self) -> None:
        if not self._options:
            self._started_here = not ray.is_initialized()
            if self._started_here:
                start_ray()
            self._head = Head(ray.get_runtime_context().gcs_address)
            self._size()
        assert self._head is not None
        for _ in range(self.n_workers - len(self._starting) - len(self._ready)):
            actor: Any = self._head.ask(
                lambda: ray.remote(Actor).options(**self._options).remote(self._load_model)
            )
            if actor is None:
                return  # tried again while calls are waited for
            self._starting[actor.is_ready.remote()] = _Worker(actor)

    def _size(self) -> None:
        """How many workers, and what each asks Ray for."""
        resources = ray.cluster_resources()
        n_cpus, n_gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
        gpus = self._gpus if self._gpus is not None else float(n_gpus >= 1)
        on_gpus = int(n_gpus / gpus) if gpus else 0
        in_memory = int(resources.get("memory", n_cpus * WORKER_BYTES) / WORKER_BYTES)
        self.n_workers = max(1, self._n_asked or on_gpus or min(int(n_cpus), in_memory))
        crowded = not gpus and self.n_workers > n_cpus  # more workers than CPUs: each gets a fraction of one
        self._options = {
            "num_cpus": int(1000 * n_cpus / self.n_workers) / 1000 if crowded else 1,
            "num_gpus": gpus,
            "max_concurrency": UNITS_IN_FLIGHT + 1,  # and `is_ready`
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        log.info(
            "%d workers requested from Ray (%s)", self.n_workers, f"{gpus:g} GPU each" if gpus else "CPU"
        )

    def native_precision(self) -> str | None:
        self.start()
        if not self._options["num_gpus"]:
            return None
        while not self._ready:  # this process may have no GPU, and only they know theirs
            self._wait([], LOG_EVERY_S)
        return next(iter(self._ready[0].precisions[-1:]), None)

    def run(self, job: Job, units: Iterable[Unit]) -> Generator[tuple[Unit, Row | SetAside], None, None]:
        n_done = n_given_up = 0
        with closing(self._each(job, (Call("run", (unit,), unit) for unit in units))) as ended:
            for call, outcome in ended:
                assert call.unit is not None
                if isinstance(outcome, SetAside):
                    n_given_up += 1
                    if n_given_up >= (MAX_GIVEN_UP if n_done else 2):
                        raise WorkerError(
                            f"workers die whatever they do ({outcome.reason}); their machines may be short of memory: "
                            "use fewer --workers. The same command resumes the run"
                        )
                    log.info("%s is set aside: %d workers died with it", call.name, MAX_DEATHS)
                else:
                    n_done, n_given_up = n_done + 1, 0
                yield call.unit, outcome

    def map(self, task: Task, job: Job, items: Iterable[Item]) -> Iterator[tuple[Unit, Any]]:
        calls = (Call("task", (unit, task, arguments), unit) for unit, arguments in items)
        with closing(self._each(job, calls)) as ended:
            for call, outcome in ended:
                assert call.unit is not None
                yield call.unit, _result(call, outcome)

    def _each(self, job: Job, calls: Iterator[Call]) -> Generator[tuple[Call, Any], None, None]:
        """Calls go to workers that are ready, at most `UNITS_IN_FLIGHT` to each; results as they come."""
        self.start()
        if self._shared is None or self._shared[0] != job.key:
            self._shared = job.key, [ray.put(job)]  # in a list: actors fetch it once, not with every call
        at_work = _AtWork(self, UNITS_IN_FLIGHT)
        following = next(calls, None)
        try:
            while following is not None or at_work.attempts.n_left:
                while following is not None and at_work.has_room:
                    at_work.attempts.waiting.append(following)
                    at_work.assign()
                    following = next(calls, None)
                yield from at_work.step(LOG_EVERY_S)
        finally:
            at_work.stop()

    @property
    def dask_scheduler(self) -> Any:
        """A ``get`` function that runs the tasks of dask graphs on the actors.

        `ray.util.dask.ray_dask_get` would submit Ray tasks, which wait forever for the CPUs that the actors hold, or,
        if they request none, start a process for every shard at once.
        """
        self.start()

        def get(graph: Any, keys: Any, **options: Any) -> Any:
            submitted: queue.SimpleQueue[Call | None] = queue.SimpleQueue()

            def submit(function: Task, *arguments: Any) -> Future[Any]:
                future: Future[Any] = Future()
                submitted.put(Call("call", (function, *arguments), future=future))
                return future

            pump = threading.Thread(target=self._pump, args=(submitted,), name="dask tasks", daemon=True)
            pump.start()
            try:
                return dask.local.get_async(submit, self.n_workers, graph, keys, **options)
            finally:
                submitted.put(None)
                pump.join()

        return get

    def _pump(self, submitted: queue.SimpleQueue[Call | None]) -> None:
        """Have calls done that another thread submits, until it submits None; results go to their futures."""
        at_work = _AtWork(self, 1)
        running: set[Future[Any]] = set()
        try:
            while True:
                try:
                    call = submitted.get(timeout=None if not at_work.attempts.n_left else 0.0)
                    if call is None:
                        return
                    assert call.future is not None
                    running.add(call.future)
                    at_work.attempts.waiting.append(call)
                    continue
                except queue.Empty:
                    pass
                for done, outcome in at_work.step(PUMP_EVERY_S):
                    assert done.future is not None
                    running.discard(done.future)
                    try:
                        done.future.set_result(_result(done, outcome))
                    except Exception as error:
                        done.future.set_exception(error)
        except BaseException as error:
            for future in running:
                future.set_exception(error)
            while (call := submitted.get()) is not None:
                assert call.future is not None
                call.future.set_exception(error)
        finally:
            at_work.stop()

    def _wait(self, running: Iterable[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
        """Which of some calls have ended; notices workers that have become ready, and that none is left."""
        running, until = list(running), time.monotonic() + timeout_s
        done: list[ray.ObjectRef] = []
        try:
            while True:
                if self._head is None or self._head.answers():
                    self.start()  # in the place of workers that died
                if refs := [*running, *self._starting]:
                    left_s = max(0.0, until - time.monotonic())
                    done, _ = ray.wait(refs, num_returns=1, timeout=min(left_s, ASK_EVERY_S))
                else:  # nothing runs and nothing starts: the head does not answer
                    time.sleep(min(timeout_s, 1.0))
                if done or not refs or time.monotonic() >= until:
                    break
            for ref in done:
                if worker := self._starting.pop(ref, None):
                    self._admit(worker, ref)
        except RayError as error:
            raise lost_ray(first_line(error)) from error
        if self._ready:
            self._alone_since = None
        elif self._alone_since is not None:
            self._check_machines()
        elif not done and timeout_s >= LOG_EVERY_S:
            log.info("waiting for Ray to start a worker: it may have to start a machine first")
        return [ref for ref in done if ref in set(running)]

    def _admit(self, worker: _Worker, ref: ray.ObjectRef) -> None:
        """A worker is ready, or could not become so."""
        try:
            worker.host, worker.pid, worker.precisions = ray.get(ref)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            self._n_failed_starts += 1
            reason = first_line(error)
            log.info("a worker died while it was started (%s); another one is started", reason)
            if not self._ready and self._n_failed_starts >= MAX_DEATHS * self.n_workers:
                raise WorkerError(
                    f"workers die while they are started ({reason}); their machines may be short of memory: try fewer "
                    "--workers. The same command resumes the run"
                ) from error
            self._remove(worker)
        else:
            self._n_failed_starts = 0
            self._ready.append(worker)

    def _remove(self, worker: _Worker) -> None:
        """Have a worker killed, should it still live, and another one started in its place."""
        if worker.pid and worker.host == socket.gethostname():
            with suppress(OSError):  # one that is stopped does not hear what Ray says
                os.kill(worker.pid, signal.SIGKILL)
        if worker in self._ready:
            self._ready.remove(worker)
            if not self._ready:
                self._alone_since = time.monotonic()
        self._kill(worker.actor)
        self.start()

    def _kill(self, actor: Any) -> None:
        """Have Ray kill an actor, if it can."""
        assert self._head is not None
        with suppress(Exception):  # of a Ray that is gone
            self._head.ask(lambda: ray.kill(actor))

    def _check_machines(self) -> None:
        """While no worker is left: whether any machine could hold one."""
        assert self._alone_since is not None
        needed = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
        nodes = self._head.ask(ray.nodes) if self._head else None
        if nodes is None:
            return
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        if any(all(of.get(kind, 0) >= n for kind, n in needed.items()) for of in machines):
            return  # Ray starts one there, as soon as others let it
        alone_s = time.monotonic() - self._alone_since
        if alone_s >= NO_MACHINE_S:
            raise WorkerError(
                f"no worker is left, and for {alone_s:.0f} s no machine that could hold one: start machines (ray "
                "status shows which there are), then run the same command again, which resumes the run"
            )

    @property
    def _actors(self) -> list[Any]:
        """All actors, ready or not."""
        return [worker.actor for worker in (*self._ready, *self._starting.values())]

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._kill(actor)
        self._ready, self._starting, self._options, self._shared = [], {}, {}, None
        if self._started_here:
            ray.shutdown()


class _AtWork:
    """Calls that the workers of a pool are at, each with `per_worker` at most."""

    def __init__(self, pool: RayPool, per_worker: int) -> None:
        self.attempts: Attempts[_Worker] = Attempts(per_worker)
        self._pool = pool
        self._sent: dict[ray.ObjectRef, tuple[_Worker, Call, float]] = {}

    @property
    def has_room(self) -> bool:
        """Whether a further call would go to a worker at once."""
        n_places = self.attempts.per_worker * len(self._pool._ready)
        return n_places > self.attempts.n_left

    def assign(self) -> None:
        """Send calls to workers that have room."""
        for worker in self._pool._ready:
            while call := self.attempts.take(worker):
                shared = () if call.method == "call" else self._pool._shared or ()
                ref = getattr(worker.actor, call.method).remote(*shared, *call.arguments)
                self._sent[ref] = worker, call, time.monotonic()

    def step(self, timeout_s: float) -> list[tuple[Call, Any]]:
        """Wait until something happens, not longer than a time; calls that ended, with results or `SetAside`.

        Raises
        ------
        Exception
            As the code of a call raised it.
        """
        self.assign()
        ended: list[tuple[Call, Any]] = []
        for ref in self._pool._wait(self._sent, min(timeout_s, self._until_overdue())):
            if ref not in self._sent:  # of a worker whose death was noticed a moment ago
                continue
            worker, call, _ = self._sent[ref]
            try:
                result = ray.get(ref)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if not isinstance(cause, RayError):
                    raise cause from error
                ended += self._lost(worker, first_line(cause))
            else:
                del self._sent[ref]
                self.attempts.done(worker, call)
                ended.append((call, result))
        limit = self._pool.unit_timeout_s
        overdue = {w for w, _, since in self._sent.values() if time.monotonic() - since >= limit}
        for worker in overdue:
            ended += self._lost(worker, f"no answer for {limit:.0f} s")
        return ended

    def _until_overdue(self) -> float:
        """Seconds until the next call has taken too long."""
        oldest = min((since for _, _, since in self._sent.values()), default=time.monotonic())
        return max(0.0, oldest + self._pool.unit_timeout_s - time.monotonic())

    def _lost(self, worker: _Worker, reason: str) -> list[tuple[Call, Any]]:
        """A worker is gone: its calls go to others, or are given up."""
        names = ", ".join(call.name for call in self.attempts.running.get(worker, []))
        log.info("a worker on %s died (%s); others do what it had: %s", worker.host, reason, names)
        self._sent = {ref: sent for ref, sent in self._sent.items() if sent[0] is not worker}
        given_up = self.attempts.died(worker)
        self._pool._remove(worker)
        return [(call, SetAside(reason)) for call in given_up]

    def stop(self) -> None:
        """Kill the workers that are still at work: none may go on writing when another run takes the folder."""
        for worker in {worker for worker, _, _ in self._sent.values()}:
            with suppress(WorkerError):
                self._pool._remove(worker)
        self._sent = {}


def _result(call: Call, outcome: Any) -> Any:
    """The outcome of a call that the run cannot do without."""
    if isinstance(outcome, SetAside):
        raise WorkerError(
            f"{MAX_DEATHS} workers died with {call.name} ({outcome.reason}); their machines may be short of memory: "
            "use fewer --workers. The same command resumes the run"
        )
    return outcome

"""Connecting to Ray, or starting it; what its errors say."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import ray

from fewscope import _version
from fewscope.errors import WorkerError

T = TypeVar("T")

ANSWER_S = 15.0
"""For the head to do what it is asked for."""

HEAD_GONE_S = 30.0
"""Without an answer of the head, after which it is gone: Ray's own control service needs seconds to be started again
where that is set up."""

ASK_EVERY_S, ASK_AGAIN_S = 5.0, 1.0
"""How often it is seen whether the head answers: while it does, and once it did not."""

CONNECT_S = 3.0
"""For the head to accept a connection."""

RECONNECT_S = 600
"""That Ray shall wait for a head before it ends this process: longer than anything that this process does alone."""


def first_line(error: BaseException) -> str:
    """First line of the message of a Ray error that is not boilerplate."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    kept = [
        line for line in lines if line and not line.startswith(("class_name:", "actor_id:", "pid:", "name"))
    ]
    return (kept[0] if kept else type(error).__name__).rstrip(".")


def lost_ray(reason: str) -> WorkerError:
    """The error to raise where Ray's head, or the raylet of this machine, has gone."""
    return WorkerError(
        f"Ray is gone ({reason}): its head, or the machine of this program, has stopped. Start Ray again, then run the "
        "same command again, which resumes the run"
    )


class Head:
    """Ray's head, as far as it can be seen from this process.

    Ray itself waits for a head that is gone, and then ends the process without an exception. Calls that need the head
    wait that long, so they are to be made only while it answers.

    Parameters
    ----------
    address : str
        Host and port of its control service.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._asked = self._answered = time.monotonic()

    def answers(self, *, now: bool = False) -> bool:
        """Whether it accepts connections, which is looked at every few seconds, or now.

        Raises
        ------
        WorkerError
            It has not for `HEAD_GONE_S`.
        """
        moment = time.monotonic()
        if not now and moment - self._asked < (ASK_EVERY_S if self._asked == self._answered else ASK_AGAIN_S):
            return self._asked == self._answered
        host, _, port = self.address.rpartition(":")
        self._asked = moment
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except OSError as error:
            if moment - self._answered >= HEAD_GONE_S:
                raise lost_ray(
                    f"{self.address} has not answered for {moment - self._answered:.0f} s"
                ) from error
            return False
        self._answered = moment
        return True

    def ask(self, call: Callable[[], T]) -> T | None:
        """Make a call that needs the head; None if it does not answer in time.

        Raises
        ------
        WorkerError
            As `answers`.
        Exception
            As the call raised it.
        """
        if not self.answers(now=True):
            return None
        outcome: Future[T] = Future()

        def make() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:
                outcome.set_exception(error)

        # a thread that nothing waits for: Ray may keep it for as long as `RECONNECT_S`
        threading.Thread(target=make, name="asks Ray's head", daemon=True).start()
        try:
            return outcome.result(ANSWER_S)
        except TimeoutError:
            return None


def start_ray(*, worker_logs: bool = False) -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, or start Ray on this machine if that is not set.

    Parameters
    ----------
    worker_logs : bool
        Also print here what the workers print.

    Raises
    ------
    WorkerError
        Ray cannot be reached or started.
    """
    # silences a warning about a future default for actors without GPU
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(RECONNECT_S))
    with _sigterm_kept():
        _start_ray(worker_logs)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Have the program's handler of SIGTERM again after Ray has put its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _start_ray(worker_logs: bool) -> None:
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
    except Exception as error:  # Ray raises plain ones too, of a start that takes too long for instance
        reason = " ".join(str(error).split())
        raise WorkerError(f"Ray cannot be started or reached ({reason}); --local runs without Ray") from error

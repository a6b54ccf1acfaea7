"""Connecting to Ray, or starting it; what its errors say."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from fewscope import _version
from fewscope.errors import WorkerError


def first_line(error: BaseException) -> str:
    """First line of the message of a Ray error that is not boilerplate."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    kept = [
        line for line in lines if line and not line.startswith(("class_name:", "actor_id:", "pid:", "name"))
    ]
    return (kept[0] if kept else type(error).__name__).rstrip(".")


def lost_ray(error: BaseException) -> WorkerError:
    """The error to raise where Ray's head, or the raylet of this machine, has gone."""
    return WorkerError(
        f"Ray is gone ({first_line(error)}): its head, or the machine of this program, has stopped. Start Ray again, "
        "then run the same command, which resumes the run"
    )


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

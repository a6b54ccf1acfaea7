"""Progress: events for the caller of a run; for people a bar on a terminal, or lines in a log (``ray job logs``)."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

from fewscope.errors import Cancelled

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a run is.

    Attributes
    ----------
    stage : str
        Name of the stage, as in the timings of the report: "prepare", "decide", "segment", ...
    done : int
        Units of work done in this stage.
    total : int or None
        Units of work of this stage; None if they are not counted.
    unit : str
        The unit of `done` and `total`, "tile"; empty if nothing is counted.
    """

    stage: str
    done: int = 0
    total: int | None = None
    unit: str = ""


class Monitor:
    """Reports progress to the caller of a run, and stops the run when the caller cancels it.

    Parameters
    ----------
    progress : callable or None
        Called in the driver's thread with each `ProgressEvent`: at the start of a stage, and after each unit.
    cancel : callable, threading.Event or None
        Stops the run once the function returns True or the event is set; checked before each `ProgressEvent`.
    """

    def __init__(
        self,
        progress: Callable[[ProgressEvent], None] | None = None,
        cancel: Callable[[], bool] | threading.Event | None = None,
    ) -> None:
        self._progress = progress
        self._cancelled = cancel.is_set if isinstance(cancel, threading.Event) else cancel

    def report(self, stage: str, done: int = 0, total: int | None = None, unit: str = "") -> None:
        """Report progress.

        Raises
        ------
        Cancelled
            The caller has cancelled the run.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled(
                f"cancelled in the stage {stage!r}; finished units are kept, and the same call resumes"
            )
        if self._progress is not None:
            self._progress(ProgressEvent(stage, done, total, unit))


class Progress:
    """Shows the tiles done of `n_tiles`, their rate, the time left, and how busy the models are.

    Parameters
    ----------
    name : str
        Name of the task, as shown.
    n_tiles : int
        Number of tiles to process.
    n_workers : int
        Number of workers, by which the models' busy seconds are divided.
    """

    def __init__(self, name: str, n_tiles: int, n_workers: int) -> None:
        self.name, self.n_tiles, self.n_workers = name, n_tiles, n_workers
        self.done = 0
        self.model_s = 0.0
        self.began = self.logged = time.perf_counter()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=n_tiles, desc=name, unit="tile", smoothing=0.1, dynamic_ncols=True)

    def advance(self, n_tiles: int, row: Mapping[str, Any]) -> None:
        """A unit of so many tiles is done; `row` is its row."""
        self.done += n_tiles
        self.model_s += row["model_s"]
        if self._bar is not None:
            self._bar.set_postfix_str(f"model busy {self.busy:.0%}", refresh=False)
            self._bar.update(n_tiles)
        elif time.perf_counter() - self.logged >= LINE_EVERY_S or self.done >= self.n_tiles:
            self.logged = time.perf_counter()
            log.info("%s", self.line())

    @property
    def busy(self) -> float:
        """Part of the workers' time so far that their models worked."""
        wall = (time.perf_counter() - self.began) * self.n_workers
        return min(1.0, self.model_s / wall) if wall else 0.0

    def line(self) -> str:
        """The state in one line."""
        seconds = time.perf_counter() - self.began
        speed = self.done / seconds if seconds else 0.0
        left = (self.n_tiles - self.done) / speed if speed else float("inf")
        part = self.done / self.n_tiles if self.n_tiles else 1.0
        eta = f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"
        return (
            f"{self.name}: {self.done} of {self.n_tiles} tiles ({part:.0%}), {speed:.1f} tiles/s, {eta}, "
            f"model busy {self.busy:.0%}"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

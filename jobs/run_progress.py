"""Progress of a run as lines of JSON in a file, for programs that started it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import IO, Any

from fewscope.errors import OutputError
from fewscope.pipeline.execution.progress import ProgressEvent

EVERY_S = 0.25
"""Between two lines of one stage; its first and last are always written."""


class ProgressFile:
    """Appends to a file what a job does; one JSON object a line.

    ``{"source", "stage", "done", "total", "unit"}`` while a source is worked on, and one line with ``"state"`` at its
    end: "done" with ``count``, ``interval`` and ``warnings``, or "failed" with ``error``. Of one of several time points
    they have ``time_point``, too.

    Parameters
    ----------
    path : str or None
        The file, which is made anew; None: nothing is written.

    Raises
    ------
    OutputError
        It cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._file: IO[str] | None = None
        self._last: tuple[str, float] = ("", 0.0)
        if path is not None:
            try:
                self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  # held for the whole job
            except OSError as error:
                raise OutputError(f"--progress-json {path}: cannot be written ({error.strerror})") from error

    def event(self, source: str, event: ProgressEvent, time_point: int | None = None) -> None:
        """Write how far a source is."""
        now = time.monotonic()
        is_middle = event.stage == self._last[0] and event.done not in (0, event.total)
        if is_middle and now - self._last[1] < EVERY_S:
            return
        self._last = (event.stage, now)
        self.write(
            **_of(source, time_point), stage=event.stage, done=event.done, total=event.total, unit=event.unit
        )

    def done(self, source: str, report: Mapping[str, Any], time_point: int | None = None) -> None:
        """Write that a source is finished, with its count and the warnings of its report."""
        count, interval = report.get("count"), report.get("count_interval")
        self.write(
            **_of(source, time_point),
            state="done",
            count=count,
            interval=interval,
            warnings=list(report.get("notes", ())),
        )

    def failed(self, source: str, error: BaseException, time_point: int | None = None) -> None:
        """Write that a source has failed."""
        self.write(**_of(source, time_point), state="failed", error=str(error))

    def write(self, **values: Any) -> None:
        """Write a line, at once."""
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _of(source: str, time_point: int | None) -> dict[str, Any]:
    return {"source": source} | ({} if time_point is None else {"time_point": time_point})

"""A job with a model that costs nothing, in a child that is killed or hindered at a chosen moment.

`run` is called in processes that the fork server makes, which has imported everything: a case then takes a second.
What a job does to the files in its output folder is counted in each of its stages: a file opened for writing, renamed,
linked, synced or removed, a folder made or removed. At one of these events the process is killed, or the operating
system seems to refuse. What libraries in C write is not seen: a limit of the size of files meets that.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas  # and what follows, once for all children
import numpy as np
import openslide

import fewscope.jobs.segmenting
import fewscope.pipeline.report.builder
import fewscope.pipeline.run
from fewscope.connectors.results import store_layout
from fewscope.jobs import segment_raster, segment_wsi
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.report.builder import Clock
from fewscope.pipeline.report.drawing import picture
from tests.helpers import fakes

__all__ = ["Fault", "LocalPool", "geopandas", "openslide", "run"]

SHARD = 128
"""Side of the units, px: a dozen of them in a small picture."""

LAST_STAGE = "report"
"""What comes after the last stage that the pipeline times."""

REFUSED = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


@dataclass(frozen=True)
class Fault:
    """What happens to a job, and when.

    Attributes
    ----------
    what
        "none"; "kill" or "terminate" (SIGTERM) the process; the disk is "full", "read-only" or "broken" from then on.
    stage
        In which it happens; "": in any.
    event
        At which event of the disk in that stage, from 0; None: not by events.
    after_s
        Seconds after the stage began; None: not by time.
    max_bytes
        Size of files above which it happens; None: not by size. A kill comes in the middle of the write then.
    """

    what: Literal["none", "kill", "terminate", "full", "read-only", "broken"] = "none"
    stage: str = ""
    event: int | None = None
    after_s: float | None = None
    max_bytes: int | None = None


class Watch:
    """Counts what happens to the files in an output folder, and does the fault."""

    def __init__(self, out: str, fault: Fault) -> None:
        self.out, self.fault = os.path.abspath(out), fault
        self.stage = "start"
        self.events: Counter[str] = Counter()
        self.refusing = False
        self._busy = threading.local()
        sys.addaudithook(self._audit)
        fsync = os.fsync

        def synced(file: Any) -> None:
            self.event(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
            fsync(file)

        os.fsync = synced

    def enter(self, stage: str) -> None:
        """A stage begins."""
        self.stage = stage
        fault = self.fault
        if fault.after_s is not None and fault.stage in ("", stage):
            number = signal.SIGTERM if fault.what == "terminate" else signal.SIGKILL
            timer = threading.Timer(fault.after_s, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()

    def event(self, path: Any, *, frees: bool = False) -> None:
        """Something is about to happen to a file; ``frees``: a full disk allows it."""
        if isinstance(path, int) or path is None:
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.out):
            return
        number, fault = self.events[self.stage], self.fault
        self.events[self.stage] += 1
        if fault.event is not None and fault.stage in ("", self.stage) and number == fault.event:
            if fault.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault.what == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            self.refusing = fault.what in REFUSED
        if self.refusing and not (frees and fault.what == "full"):
            code = REFUSED[fault.what]
            raise OSError(code, os.strerror(code), os.fsdecode(path))

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            if name == "open":
                path, _, flags = arguments
                if flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    self.event(path)
            elif name in ("os.remove", "os.mkdir", "os.rmdir"):
                folder = arguments[-1]
                path = os.fsdecode(arguments[0])
                path = path if folder == -1 else f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}"
                self.event(path, frees=name != "os.mkdir")
            elif name in ("os.rename", "os.link", "os.truncate"):
                self.event(arguments[0])
        finally:
            self._busy.now = False


WATCH: Watch | None = None


class WatchedClock(Clock):
    """The clock of the pipeline, which tells the stages."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        assert WATCH is not None
        WATCH.enter(name)
        with super().stage(name):
            yield
        if name == "outlines and pictures":
            WATCH.enter(LAST_STAGE)


def run(
    kind: str,
    arguments: list[str],
    result: Path,
    fault: Fault = Fault(),
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a job in this process, which is a child of its own; how it ends is written to `result` (JSON).

    Parameters
    ----------
    kind
        "slide" or "raster".
    arguments
        Of the job's command line.
    variables
        Of the environment.
    """
    global WATCH
    os.environ.update(variables or {})
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(writing, 2)
    sys.stdout, sys.stderr = io.StringIO(), os.fdopen(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()
    WATCH = Watch(arguments[arguments.index("--out") + 1], fault)
    WATCH.enter("start")
    if fault.max_bytes is not None:
        sys.dont_write_bytecode = True  # Python would keep what was cut short, for every later process
        if fault.what == "kill":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.max_bytes, resource.RLIM_INFINITY))
    job = segment_wsi if kind == "slide" else segment_raster
    try:
        code: Any = job.main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        import traceback

        traceback.print_exc()
        code = f"{type(error).__name__}: {error}"
    WATCH.fault, WATCH.refusing = Fault(), False
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.stderr.flush()
    os.dup2(nothing, 2)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        errors = pipe.read().decode(errors="replace")
    found = {"code": code, "errors": errors, "events": dict(WATCH.events), "seconds": STAGES_OF_LAST}
    result.write_text(json.dumps(found))


STAGES_OF_LAST: dict[str, float] = {}


def prepare() -> None:
    """Put stand-ins in the place of the model and the pictures, and small units in that of large ones."""
    segment = fewscope.pipeline.run.segment

    def segment_small(config: SegmentConfig, *more: Any, **options: Any) -> dict[str, Any]:
        report = segment(dataclasses.replace(config, shard=SHARD), *more, **options)
        STAGES_OF_LAST.update(report["timings"]["stages"])
        return report

    fewscope.jobs.segmenting.segment = segment_small
    fewscope.jobs.segmenting.model_loader = lambda config: fakes.ByColour  # type: ignore[assignment, return-value]
    fewscope.pipeline.report.builder.draw = fakes.no_pictures
    fewscope.pipeline.report.builder.draw_map = lambda *_: picture(np.zeros((8, 8, 3), np.uint8), 8)  # type: ignore[assignment]
    assert hasattr(store_layout, "MAX_TOP_SIDE")
    store_layout.MAX_TOP_SIDE = SHARD  # or there would be no pyramids
    fewscope.pipeline.run.Clock = WatchedClock  # type: ignore[misc]

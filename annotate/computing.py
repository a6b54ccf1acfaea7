"""What a preview computes, and in which order: two threads, the latest support set and the latest view first.

A task is (kind, what). `Computing.next_task` chooses the most urgent one whenever a thread is free, so nothing is ever
queued that is no longer asked for; a task takes a tenth of a second, a support set half of one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.annotate.cells import (
    HALO,
    CellKey,
    cache_bytes,
    cells_of,
    nearest_first,
    ring_around,
)
from fewscope.annotate.inferred import InferredOutlines
from fewscope.annotate.settling import SETTLED_SOURCES, find_foreground_of, unlabelled_tiles
from fewscope.connectors.source import Source
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.devices import use_one_thread
from fewscope.model.kept import Kept
from fewscope.model.segmenter import Segmenter
from fewscope.model.settled import SettledPack, SettledSegmenter, TileMaps
from fewscope.pipeline.calibration.model_selection import ENCODER_SHARE
from fewscope.pipeline.tiling.blending import to_uint8
from fewscope.pipeline.tiling.foreground import Foreground

log = logging.getLogger(__name__)

Task = tuple[str, Any]

ANSWER_BYTES = 256 * 2**20
"""For probabilities: a cell takes 200 kB for each class."""

ASSUMED_BYTES = 16 * 2**20
"""Of a cell's maps, before there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What was asked for last: `serial` counts the calls, `revision` is the caller's."""

    serial: int = 0
    revision: int = 0
    support: SupportSet | None = None
    since: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What the support set of a request was compiled to, and the set, with outlines of all its objects."""

    serial: int
    revision: int
    pack: SettledPack
    support: SupportSet


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A cell in the encoder's maps, and which pixels of its core are valid, (CELL, CELL) bool."""

    maps: TileMaps
    valid: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Probabilities of a cell, (C, CELL, CELL) uint8, from the support set of a request."""

    serial: int
    probability: NDArray[np.uint8]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at of a source: a window and a pointer (x, y), working px."""

    window: Window
    pointer: tuple[float, float] | None
    since: float


@dataclass(slots=True, eq=False)
class View:
    """The cells of a look, in their order; those around them; how many there would be; when it was asked and done."""

    cells: list[CellKey]
    ring: list[CellKey]
    n_all: int
    since: float
    until: float | None = None


class Computing:
    """Threads, what they share, and what they have computed.

    Attributes are read and written under `now`, but for the caches, which have locks of their own.

    Parameters
    ----------
    segmenter : Segmenter
    sources : Sequence[Source]
    side : int
        px to which 224 px are resized.
    n_threads : int
    tell : Callable[[int, CellKey | None], None]
        Called after something of a source has changed: a cell, or None for its state alone.
    outlines : InferredOutlines
        Of objects that are marked by points.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        sources: Sequence[Source],
        side: int,
        n_threads: int,
        tell: Callable[[int, CellKey | None], None],
        outlines: InferredOutlines,
    ) -> None:
        self.sources = tuple(sources)
        self.now = threading.Condition()
        self.request = Request()
        self.cleared = 0
        """Serial of the last request without a support set: what was learned before is not shown again."""
        self.learned: Learned | None = None
        self.settled: SettledSegmenter | None = None
        self.looks: dict[int, Look] = {}
        """By source; the one looked at last is the last."""
        self.views: dict[int, View] = {}
        self.foregrounds: dict[int, Foreground] = {}
        self.busy: set[Task] = set()
        self.failed: dict[Task, str] = {}
        self.paused = False
        self.closed = False
        self.maps: Kept[CellKey, Encoded] = Kept(cache_bytes(), lambda one: one.maps.nbytes)
        self.outlines = outlines
        self.answers: Kept[CellKey, Answer] = Kept(ANSWER_BYTES, lambda one: one.probability.nbytes)
        self._segmenter, self._side, self._tell = segmenter, side, tell
        self._wanted: set[int] = set(range(min(len(self.sources), SETTLED_SOURCES)))
        use_one_thread()
        self._threads = [
            threading.Thread(target=self._run, name=f"preview-{i}", daemon=True) for i in range(n_threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the threads, once they have done what they are doing."""
        with self.now:
            self.closed = True
            self.now.notify_all()
        for thread in self._threads:
            thread.join()

    # -- under the condition -------------------------------------------------------------------------------------------

    def want_foreground(self, source: int) -> None:
        """Find the foreground of a source, looked at or not."""
        self._wanted.add(source)
        self.now.notify_all()

    def lay_out(self, source: int) -> None:
        """Choose the cells of what is looked at, once the foreground is known."""
        look, foreground = self.looks.get(source), self.foregrounds.get(source)
        if look is None or foreground is None:
            return
        shape = self.shape(source)
        cells = [cell for cell in cells_of(source, look.window, shape) if foreground.touches(cell.core)]
        most = self._capacity()
        chosen = nearest_first(cells, look.window, look.pointer)[:most]
        ring = [cell for cell in ring_around(chosen, shape) if foreground.touches(cell.core)]
        self.views[source] = View(chosen, ring[: most - len(chosen)], len(cells), look.since)

    def next_task(self) -> Task | None:
        """The most urgent task that nobody does."""
        if self.paused:
            return None
        looked_at = list(reversed(self.looks))
        for source in (*looked_at, *sorted(self._wanted)):
            if source not in self.foregrounds and self._is_free(("foreground", source)):
                return "foreground", source
        if self.settled is None:
            waits = any(("foreground", source) in self.busy for source in range(SETTLED_SOURCES))
            return ("settle", 0) if not waits and self._is_free(("settle", 0)) else None
        learned, request = self.learned, self.request
        newest = 0 if learned is None else learned.serial
        if request.support is not None and newest < request.serial and self._is_free(("learn", 0)):
            return "learn", 0
        view = self.views.get(looked_at[0]) if looked_at else None
        if view is None:
            return None
        for cells in (view.cells, view.ring):
            for task in self._tasks_of(cells, learned):
                if self._is_free(task):
                    return task
        return None

    def is_current(self, cell: CellKey, serial: int) -> bool:
        """Whether the answer of a cell is of the request with this serial, or of a later one."""
        answer = self.answers.peek(cell)
        return answer is not None and answer.serial >= serial

    def _tasks_of(self, cells: Sequence[CellKey], learned: Learned | None) -> list[Task]:
        if learned is None:
            return [("encode", cell) for cell in cells if self.maps.peek(cell) is None]
        return [("answer", cell) for cell in cells if not self.is_current(cell, learned.serial)]

    def _is_free(self, task: Task) -> bool:
        if task in self.failed or task in self.busy:
            return False
        # the cell is being encoded or answered: its maps will be there
        return not (isinstance(task[1], CellKey) and any(what == task[1] for _, what in self.busy))

    def _capacity(self) -> int:
        """Cells whose maps can be kept."""
        one = next((self.maps.peek(cell) for cell in self.maps), None)
        return max(4, self.maps.most_bytes // (ASSUMED_BYTES if one is None else one.maps.nbytes))

    # -- in the threads ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        use_one_thread()
        while True:
            with self.now:
                while not self.closed and (task := self.next_task()) is None:
                    self.now.wait()
                if self.closed:
                    return
                assert task is not None
                self.busy.add(task)
            self._do(task)

    def _do(self, task: Task) -> None:
        kind, what = task
        message = ""
        try:
            getattr(self, f"_{kind}")(what)
        except Exception as error:  # a source that cannot be read must not end the thread
            message = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("preview: %s %s: %s", kind, what, message)
        with self.now:
            self.busy.discard(task)
            if message:
                self.failed[task] = message
            self.now.notify_all()
            viewed = list(self.views)
        if isinstance(what, CellKey):
            if message or kind != "encode":
                self._tell(what.source, None if message else what)
        else:
            for source in {what} if kind == "foreground" else viewed:
                self._tell(source, None)

    def _foreground(self, source: int) -> None:
        found = find_foreground_of(self.sources[source])
        with self.now:
            self.foregrounds[source] = found
            self.lay_out(source)

    def _settle(self, _: int) -> None:
        began = time.monotonic()
        foregrounds = {i: self.foregrounds[i] for i in range(SETTLED_SOURCES) if i in self.foregrounds}
        tiles = unlabelled_tiles(self.sources, foregrounds or self.foregrounds)
        settled = self._segmenter.settled(tiles, self._side, ENCODER_SHARE)
        log.info("preview: norms settled on %d tiles in %.1f s", len(tiles), time.monotonic() - began)
        with self.now:
            self.settled = settled

    def _learn(self, _: int) -> None:
        request = self.request
        assert self.settled is not None
        if request.support is None:
            return
        support = self.outlines.of(request.support, self.settled)
        pack = self.settled.pack(support.images, support.labels_by_class)
        with self.now:
            if request.serial > self.cleared:
                self.learned = Learned(request.serial, request.revision, pack, support)

    def _encode(self, cell: CellKey) -> None:
        self.encoded(cell)

    def _answer(self, cell: CellKey) -> None:
        learned = self.learned
        if learned is None or self.settled is None:
            return
        encoded = self.encoded(cell)
        probability = self.settled.answer(encoded.maps, learned.pack)[0, :, HALO:-HALO, HALO:-HALO]
        answer = Answer(learned.serial, to_uint8(probability), encoded.valid)
        with self.now:
            if learned.serial > self.cleared:
                self.answers.put(cell, answer)

    def encoded(self, cell: CellKey) -> Encoded:
        """A cell in the encoder's maps, kept or computed in this thread."""
        encoded = self.maps.get(cell)
        if encoded is None:
            assert self.settled is not None
            image, valid = self.sources[cell.source].read(cell.read)
            encoded = Encoded(self.settled.maps(image[None]), valid[HALO:-HALO, HALO:-HALO].copy())
            self.maps.put(cell, encoded)
        return encoded

    def shape(self, source: int) -> tuple[int, int]:
        """(height, width) of a source, working px."""
        info = self.sources[source].info
        return info.height, info.width

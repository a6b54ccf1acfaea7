"""`Preview`: the answer of the network for what is on the screen, again after every correction.

Nothing here blocks a caller. The support set and the view are handed over, threads compute (`annotate.computing`), and
`on_event` says what is new. The norms of the network are settled once, on unlabelled tiles (`model.settled`); the maps
of a cell, of the network's encoder and of a frozen one, are kept, so that a correction costs one pack of the support
set, and for each cell in view one decoding. The latest support set and the latest view win.

A preview is not the result: a run adapts to its source, may look at other scales, and blends overlapping tiles.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.annotate.cells import CELL, CellKey, cells_of, overlap
from fewscope.annotate.computing import Computing, Learned, Look, Request, View
from fewscope.annotate.inferred import InferredOutlines
from fewscope.connectors.source import Source
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.devices import use_one_thread
from fewscope.model.segmenter import Segmenter
from fewscope.model.settled import SettledSegmenter, TileMaps
from fewscope.pipeline.tiling.foreground import Foreground

log = logging.getLogger(__name__)

State = Literal["empty", "computing", "ready", "stale", "paused"]
Box = tuple[int, int, int, int]

SIDE, FINE_SIDE = 128, 192
"""px to which 224 px are resized; fine: objects of less than 8 px stay apart, in three times the time. A run's 160 px
take 1.5 times as long as 128, for 0.004 IoU on six unseen classes."""

N_THREADS = 2


@dataclass(frozen=True, slots=True)
class PreviewStatus:
    """What a preview shows of a source, and what it is still computing.

    Attributes
    ----------
    revision : int
        Of the labels that the newest answers were computed from; 0 before the first.
    state : str
        "empty": there is nothing to learn from. "stale": labels have changed, and what is shown is of before.
        "computing": cells in view are being computed. "ready": all cells in view are up to date. "paused".
    cells_done, cells_total : int
        Cells in view that are up to date, and all of them.
    seconds : float
        Since the last change of labels or view; once it is ready, from that change to the last cell.
    message : str
        What a person must know, such as why something cannot be computed; "" if there is nothing.
    """

    revision: int
    state: State
    cells_done: int
    cells_total: int
    seconds: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class PreviewEvent:
    """Something new: a state, or cells.

    Attributes
    ----------
    source : int
        Number of the source.
    status : PreviewStatus
        Of this source, now.
    boxes : tuple[Box, ...]
        (x0, y0, x1, y1), working px; empty if only the state has changed.
    """

    source: int
    status: PreviewStatus
    boxes: tuple[Box, ...] = ()


class Preview:
    """Answers for what is on the screen. All methods may be called from any thread.

    From here on torch computes with one thread in each thread of this process: two that share two cores, each with two
    of its own, are slower than one.

    Parameters
    ----------
    segmenter : Segmenter
        A segmenter whose network can be settled (`Segmenter.settled`), with or without a frozen encoder.
    sources : Sequence[Source]
        Slides or rasters, at their working resolution. They are not closed here.
    on_event : Callable[[PreviewEvent], None]
        Called in a thread of its own, one call at a time.
    fine : bool
        Compute at `FINE_SIDE` instead of `SIDE`.
    object_radius_um : float or None
        Typical radius of objects; None to measure it.
    threads : int or None
        Computing threads; None for `N_THREADS`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        sources: Sequence[Source],
        *,
        on_event: Callable[[PreviewEvent], None],
        fine: bool = False,
        object_radius_um: float | None = None,
        threads: int | None = None,
    ) -> None:
        self.sources, self.object_radius_um = tuple(sources), object_radius_um
        self._on_event = on_event
        self._news: queue.SimpleQueue[tuple[int, CellKey | None] | None] = queue.SimpleQueue()
        self._computing = Computing(
            segmenter,
            sources,
            FINE_SIDE if fine else SIDE,
            threads or N_THREADS,
            self._tell,
            InferredOutlines(object_radius_um),
        )
        self._teller = threading.Thread(target=self._tell_all, name="preview-news", daemon=True)
        self._teller.start()
        self._computing.start()

    def set_support(self, support: SupportSet | None, revision: int) -> None:
        """Learn from a support set from now on; None if there is nothing to learn from. The latest call wins.

        Returns at once.
        """
        work = self._computing
        with work.now:
            work.request = Request(work.request.serial + 1, revision, support, time.monotonic())
            work.failed.pop(("learn", 0), None)
            for view in work.views.values():
                view.until = None
            if support is None:
                work.cleared, work.learned = work.request.serial, None
                work.answers.clear()
            work.now.notify_all()
        self._tell_states()

    def look_at(self, source: int, window: Window, pointer: tuple[float, float] | None = None) -> None:
        """Compute this window of a source first, from the pointer (x, y) or the middle outwards; all in working px.

        Returns at once. What failed in this source before is tried again.
        """
        work = self._computing
        with work.now:
            work.looks.pop(source, None)
            work.looks[source] = Look(window, pointer, time.monotonic())
            for task in list(work.failed):
                of_source = task[1].source if isinstance(task[1], CellKey) else task[1]
                if of_source == source or task[0] == "settle":
                    del work.failed[task]
            work.lay_out(source)
            work.now.notify_all()
        self._tell(source)

    def pause(self, paused: bool = True) -> None:
        """Compute nothing, or go on. Returns at once."""
        with self._computing.now:
            self._computing.paused = paused
            self._computing.now.notify_all()
        self._tell_states()

    def status(self, source: int) -> PreviewStatus:
        """What is shown of a source, and what is being computed."""
        work = self._computing
        with work.now:
            view, learned, request = work.views.get(source), work.learned, work.request
            cells = view.cells if view is not None else []
            done = sum(work.is_current(cell, request.serial) for cell in cells)
            failed = sum(("answer", cell) in work.failed or ("encode", cell) in work.failed for cell in cells)
            state: State = "computing"
            if request.support is None:
                state = "empty"
            elif work.paused:
                state = "paused"
            elif learned is not None and learned.serial < request.serial:
                state = "stale"
            elif learned is not None and view is not None and done + failed >= len(cells):
                state = "ready"
            now = time.monotonic()
            since = max(request.since, view.since if view is not None else 0.0)
            if view is not None and state == "ready":
                view.until = now = view.until or now
            return PreviewStatus(
                0 if learned is None else learned.revision,
                state,
                done,
                len(cells),
                0.0 if state == "empty" else round(max(now - since, 0.0), 3),
                self._message(source, view),
            )

    def probability(
        self, source: int, window: Window, class_index: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The newest answer on a window, (h, w), and where there is one.

        Parameters
        ----------
        class_index : int
            0..C-1.

        Returns
        -------
        probability : uint8 (h, w), 255 for 1; 0 where it is not known
        known : bool (h, w)
        """
        work = self._computing
        out = np.zeros((int(window.height), int(window.width)), np.uint8)
        known = np.zeros(out.shape, bool)
        for cell in cells_of(source, window, work.shape(source)):
            answer = work.answers.get(cell)
            if answer is not None and class_index < len(answer.probability):
                there, here = overlap(cell.core, window)
                out[here] = np.where(answer.valid[there], answer.probability[class_index][there], 0)
                known[here] = answer.valid[there]
        return out, known

    def close(self) -> None:
        """Stop the threads, once they have done what they are doing. Closing twice is allowed."""
        self._computing.close()
        self._news.put(None)
        if self._teller is not threading.current_thread():
            self._teller.join()

    # -- for the other modules of this package: these wait, or compute in the caller's thread ------------------------

    def settled(self, timeout: float | None = None) -> SettledSegmenter | None:
        """The settled network; waits for it. None if it cannot be had in time, or at all."""
        work = self._computing
        with work.now:
            work.now.wait_for(
                lambda: work.settled is not None or work.closed or ("settle", 0) in work.failed, timeout
            )
            return work.settled

    def foreground(self, source: int, timeout: float | None = None) -> Foreground | None:
        """The foreground of a source; waits for it. None if it cannot be had in time, or at all."""
        work, task = self._computing, ("foreground", source)
        with work.now:
            work.want_foreground(source)
            work.now.wait_for(
                lambda: source in work.foregrounds or work.closed or task in work.failed, timeout
            )
            return work.foregrounds.get(source)

    def learned(self) -> Learned | None:
        """What the newest support set that was compiled was compiled to; None before the first."""
        return self._computing.learned

    def outlined(self, support: SupportSet) -> SupportSet:
        """A support set with outlines of all its objects, as it is learned from; it must be settled, and may take a
        second."""
        settled = self._computing.settled
        return support if settled is None else self._computing.outlines.of(support, settled)

    def encode(
        self, source: int, window: Window, to_answer: bool = True
    ) -> tuple[TileMaps, NDArray[np.bool_]] | None:
        """Maps of any window, and its valid pixels, computed in this thread; None if the network is not settled yet.

        The sides of the window are multiples of 32; `to_answer` is that of `SettledSegmenter.maps`.

        Raises
        ------
        SourceError
            The window cannot be read.
        """
        settled = self._computing.settled
        if settled is None:
            return None
        image, valid = self.sources[source].read(window)
        use_one_thread()
        return settled.maps(image[None], to_answer=to_answer), valid

    # -- news ----------------------------------------------------------------------------------------------------------

    def _message(self, source: int, view: View | None) -> str:
        failed = self._computing.failed
        for task in (("foreground", source), ("settle", 0), ("learn", 0)):
            if task in failed:
                return failed[task]
        if view is None:
            return ""
        for cell in view.cells:
            for kind in ("answer", "encode"):
                if (kind, cell) in failed:
                    return failed[kind, cell]
        if len(view.cells) < view.n_all:
            return f"{len(view.cells)} of {view.n_all} squares in view are computed: zoom in for the others"
        return "" if view.n_all else "nothing in view is looked at: it is background"

    def _tell_states(self) -> None:
        with self._computing.now:
            viewed = list(self._computing.views)
        for source in viewed:
            self._tell(source)

    def _tell(self, source: int, cell: CellKey | None = None) -> None:
        self._news.put((source, cell))

    def _tell_all(self) -> None:
        while (news := self._news.get()) is not None:
            source, cell = news
            boxes = () if cell is None else (self._box(cell),)
            try:
                self._on_event(PreviewEvent(source, self.status(source), boxes))
            except Exception:  # of a listener: the preview goes on
                log.exception("preview: the listener failed")

    def _box(self, cell: CellKey) -> Box:
        height, width = self._computing.shape(cell.source)
        x, y = cell.col * CELL, cell.row * CELL
        return x, y, min(x + CELL, width), min(y + CELL, height)

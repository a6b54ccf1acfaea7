"""From labels to the preview: after every change the support set is read again from the files, and handed over.

The network is loaded in a thread while the page is already open. The support set is the one that a batch job reads from
the same files, with the same code.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rasterio.windows import Window

from fewscope.annotate.session import OpenSource
from fewscope.connectors.source import Pixels, Source, SourceInfo
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.joined_sets import NamedSet
from fewscope.connectors.support.object_sizes import ReadAhead
from fewscope.connectors.support.several import load_several
from fewscope.connectors.support.support_set import SupportSet
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import FewscopeError, PageRunError, SupportError

if TYPE_CHECKING:
    from fewscope.annotate.preview import Preview, PreviewEvent, PreviewStatus

log = logging.getLogger(__name__)

MAX_WINDOWS = 160
"""Patches whose pixels are kept, 200 kB each: at a correction all but one are the same as before."""

NOTHING_YET = "draw round an object; or paint part of one, and some background"
NEEDS_REGION = "points teach in a region, where every object is marked: draw one around them with R"
LOADING = "the network is being loaded"
CHANGING = "the resolution is being changed"

Drawn = Sequence[tuple[AnnotationFile, SourceInfo]]
"""Annotations, and the source of each file."""

MakePreview = Callable[[Sequence[Source], Callable[["PreviewEvent"], None]], "Preview"]


class KeptWindows:
    """A source that keeps the pixels of the windows that were read last."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: OrderedDict[tuple[float, ...], Pixels] = OrderedDict()

    @property
    def info(self) -> SourceInfo:
        """As of the source."""
        return self._source.info

    def read(self, window: Window) -> Pixels:
        """As of the source."""
        key = window.row_off, window.col_off, window.height, window.width
        pixels = self._kept.get(key)
        if pixels is None:
            pixels = self._kept[key] = self._source.read(window)
            while len(self._kept) > MAX_WINDOWS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return pixels

    def overview(self, max_side: int) -> Pixels:
        """As of the source."""
        return self._source.overview(max_side)

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        """As of the source."""
        return self._source.unreadable(max_side)

    def close(self) -> None:
        """Forget the pixels; the source stays open."""
        self._kept.clear()


class Learning:
    """Keeps the preview up to date with the labels. All methods may be called from any thread.

    Parameters
    ----------
    sources : Sequence[OpenSource]
        What is annotated.
    options : SupportOptions
        How annotations are read.
    make_preview : MakePreview
        Loads the network and makes the preview; called once, in a thread.
    publish : Callable[[dict], None]
        Tells the pages.
    sets : Callable[[], Sequence[NamedSet]]
        Labelled pictures that are learned from as well.
    at_start : Callable[[], Sequence[OpenSource]] or None
        What is annotated, at the resolution of the start; None: it has no other.

    Attributes
    ----------
    on_drawn : Callable
        Called with the annotations that are learned from, the source of each, how they were read, and a function that
        reads the support set of them at the resolution of the start, which takes a moment.
    """

    def __init__(
        self,
        sources: Sequence[OpenSource],
        options: SupportOptions,
        make_preview: MakePreview,
        publish: Callable[[dict[str, Any]], None],
        sets: Callable[[], Sequence[NamedSet]] = tuple,
        at_start: Callable[[], Sequence[OpenSource]] | None = None,
    ) -> None:
        self._sources, self._options, self._publish = sources, options, publish
        self._make_preview, self._sets = make_preview, sets
        self._at_start = at_start or (lambda: sources)
        self._kept: list[KeptWindows] = []
        self._kept_at_start: list[KeptWindows] = []
        self._grid = 0  # how often the sources were opened again
        self._retired: Preview | None = None
        self.on_drawn: Callable[[Drawn, SupportOptions, Callable[[], SupportSet]], None] = (
            lambda drawn, options, read: None
        )
        self._changed = threading.Condition()
        self._revision, self._learned_revision = 1, 0
        self._changed_at = time.monotonic()
        self._closed = False
        self._names: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self.preview: Preview | None = None
        self.support: SupportSet | None = None
        self.message = LOADING
        self.last_source = 0
        self.views: dict[int, list[float]] = {}
        self._thread = threading.Thread(target=self._learn, name="learning", daemon=True)

    def start(self) -> None:
        """Load the network, and learn from the labels that there are."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the preview."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        for preview in (self.preview, self._retired):
            if preview is not None:
                preview.close()

    def reopened(self) -> None:
        """Go on with the sources as they are now, at another resolution. Called between requests; returns at once."""
        with self._changed:
            self._grid += 1
            self._revision += 1
            self._retired, self.preview = self.preview or self._retired, None
            self.support, self.message = None, CHANGING
            self._changed.notify_all()
        self._tell_all()

    def labels_changed(self, source: int) -> None:
        """Learn again: labels of a source have changed. Returns at once."""
        with self._changed:
            self._revision += 1
            self._changed_at = time.monotonic()
            self.last_source = source
            self._changed.notify_all()

    @property
    def rested_s(self) -> float:
        """Seconds since labels were last changed."""
        return time.monotonic() - self._changed_at

    @property
    def revision(self) -> int:
        """Number of changes of labels so far, of all sources."""
        return self._revision

    def looked_at(self, source: int, box: list[float]) -> None:
        """Keep what is on the screen for a preview that is still to be made; the source looked at last is the last."""
        self.views.pop(source, None)
        self.views[source] = box

    def wait_learned(self, timeout_s: float) -> bool:
        """Wait until the newest labels were handed to the preview; whether they were."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or self._learned_revision == self._revision, timeout_s
            )

    def class_index(self, name: str) -> int | None:
        """Index of a class in the newest answers; None if they do not know it."""
        preview = self.preview
        if preview is None:
            return None
        names = self.class_names
        return names.index(name) if name in names else None

    @property
    def outlined(self) -> SupportSet | None:
        """The support set of the newest answers, with outlines of all objects; None before the first."""
        learned = self.preview.learned() if self.preview is not None else None
        return None if learned is None else learned.support

    def with_outlines(self, support: SupportSet) -> SupportSet:
        """A support set with outlines of all its objects, those of points as the preview infers them.

        Raises
        ------
        PageRunError
            The network is not loaded yet.
        """
        if support.rough is None:
            return support
        found = None if self.preview is None else self.preview.outlined(support)
        if found is None or found.rough is not None:
            raise PageRunError(
                "outlines of the points are inferred by the preview, which is not ready; start the run again when it is"
            )
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the newest answers."""
        learned = self.preview.learned() if self.preview is not None else None
        return () if learned is None else self._names.get(learned.revision, ())

    def status(self, source: int) -> dict[str, Any]:
        """What the page shows of the preview."""
        preview = self.preview
        if preview is None:
            return {
                "revision": 0,
                "state": "empty",
                "cells_done": 0,
                "cells_total": 0,
                "seconds": 0.0,
                "message": self.message,
            }
        return self._described(preview.status(source))

    def _described(self, status: PreviewStatus) -> dict[str, Any]:
        return {
            "revision": status.revision,
            "state": status.state,
            "cells_done": status.cells_done,
            "cells_total": status.cells_total,
            "seconds": status.seconds,
            "message": self.message or status.message,
        }

    def _learn(self) -> None:
        try:
            self._keep_learning()
        except Exception as error:  # of any library that the network needs: drawing goes on without it
            log.exception("there is no preview any more")
            self.message = (
                f"no preview: {error}" if isinstance(error, FewscopeError) else f"no preview: {error!r}"
            )
            self._tell_all()

    def _keep_learning(self) -> None:
        """Load the network, and learn from the labels whenever they have changed, until `close`."""
        grid = self._open_preview()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._learned_revision != self._revision)
                if self._closed:
                    return
                revision, is_same = self._revision, grid == self._grid
            if not is_same:
                grid = self._open_preview()
            support, message = self._read(grid)
            with self._changed:
                if grid != self._grid:
                    continue
                preview, self.support, self.message = self.preview, support, message
                if support is not None:
                    self._names[revision] = support.class_names
                    while len(self._names) > 64:
                        self._names.popitem(last=False)
            assert preview is not None
            preview.set_support(support, revision)
            with self._changed:
                self._learned_revision = revision
                self._changed.notify_all()
            if support is None:
                self._tell_all()

    def _open_preview(self) -> int:
        """Make the preview of the sources as they are now, in place of the one before; which they are."""
        while True:
            with self._changed:
                grid, retired, self._retired = self._grid, self._retired, None
                sources = [one.source for one in self._sources]
            if retired is not None:
                retired.close()
            del retired  # its memory is for the next one
            self._kept = [KeptWindows(one) for one in sources]
            preview = self._make_preview(sources, functools.partial(self._tell, grid))
            with self._changed:
                if grid == self._grid:
                    self.preview, self.message = preview, ""
                    break
            preview.close()
        self._look_again()
        return grid

    def _look_again(self) -> None:
        """Look at what pages have shown while the network was loaded."""
        preview = self.preview
        for source, box in list(self.views.items()):
            info, scale = self._sources[source].source.info, self._sources[source].scale
            left, top = max(0, int(box[0] / scale)), max(0, int(box[1] / scale))
            right, bottom = min(info.width, int(box[2] / scale)), min(info.height, int(box[3] / scale))
            if preview is not None and left < right and top < bottom:
                preview.look_at(source, Window(left, top, right - left, bottom - top))

    def _read(self, grid: int) -> tuple[SupportSet | None, str]:
        """The support set of all labels, or None and why: too little is labelled, or the resolution changes."""
        labelled = [k for k, one in enumerate(self._sources) if one.labels.has_any]
        files = [(str(self._sources[k].labels.path), self._kept[k]) for k in labelled]
        sets, ahead, options = self._sets(), ReadAhead(), self._options
        found: list[SupportSet] = []
        try:
            drawn = {uri: (ahead.ahead(uri, kept, options), kept.info) for uri, kept in files}

            def read(uri: str, source: Source, options: SupportOptions) -> AnnotationFile:
                return drawn[uri][0].copy()

            def at_start() -> SupportSet:
                kept = self._opened_at_start()
                support = load_several(
                    [(uri, kept[k]) for k, (uri, _) in zip(labelled, files, strict=True)], options, sets, read
                )
                if kept is self._kept:
                    found.append(support)
                return support

            self.on_drawn(list(drawn.values()), options, at_start)
            if grid != self._grid:
                return None, CHANGING
            if not files and not sets:
                return None, NOTHING_YET
            return found[0] if found else load_several(files, options, sets, read), ""
        except SupportError as error:
            text = str(error)
            is_early = any(
                word in text for word in (" is labelled as ", "but no object", "has no object", "no region")
            )
            return None, self._too_early() if is_early else text
        except FewscopeError as error:
            return None, str(error)
        except Exception as error:  # a fault of ours or of a library: other labels may not meet it
            log.exception("the labels cannot be learned from")
            return None, f"no preview: {error!r}"

    def _opened_at_start(self) -> list[KeptWindows]:
        """The sources at the resolution of the start."""
        at_start = self._at_start()
        if at_start[0].source is self._sources[0].source:
            return self._kept
        if not self._kept_at_start:
            self._kept_at_start = [KeptWindows(one.source) for one in at_start]
        return self._kept_at_start

    def _too_early(self) -> str:
        """What to draw first."""
        labels = [label for one in self._sources for label in one.labels.all()]
        has_points = any(label.kind == "point" and not label.negative for label in labels)
        return NEEDS_REGION if has_points and all(one.kind != "region" for one in labels) else NOTHING_YET

    def _tell(self, grid: int, event: PreviewEvent) -> None:
        if grid != self._grid:
            return
        one = self._sources[event.source]
        status = self._described(event.status)
        boxes = [[value * one.scale for value in box] for box in event.boxes]
        self._publish({"type": "preview", "source": one.id, **status, "boxes": boxes})

    def _tell_all(self) -> None:
        for number, one in enumerate(self._sources):
            self._publish({"type": "preview", "source": one.id, **self.status(number), "boxes": []})

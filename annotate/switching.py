"""Changes of the working resolution while a page is open: of itself where nothing is lost, else by a person.

Labels stay where they are, as they are kept in image px. The sources are opened again, the preview begins anew, and
what was chosen is kept in the output folder.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fewscope.annotate.learning import Learning
from fewscope.annotate.resolution import (
    Choice,
    advice,
    coarsest_of,
    keep_choice,
    may_change,
    sizes_of,
    wanted,
)
from fewscope.annotate.session import Session
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.support_set import SupportSet
from fewscope.connectors.support.without_regions import with_regions
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import LabelError, SourceError

log = logging.getLogger(__name__)


class Resolution:
    """The working resolution of a session; threads may share it.

    Parameters
    ----------
    session : Session
        Its sources are opened again.
    learning : Learning
        Tells the sizes of what is drawn, and begins anew.
    """

    def __init__(self, session: Session, learning: Learning) -> None:
        self._session, self._learning = session, learning
        self._lock = threading.Lock()
        self._sizes: dict[str, float] = {}
        self._suits = 1.0
        learning.on_drawn = self._drawn

    def described(self) -> dict[str, Any]:
        """What the page must know: the resolution, the others, and what to say of it."""
        session = self._session
        ladder, now = session.ladder, session.choice
        to = wanted(now, self._suits, ladder, self._sizes)
        said = advice(now, to, ladder, self._sizes)
        return {
            "factor": now.factor,
            "values": [{"factor": factor, "text": ladder.words(factor)} for factor in ladder.factors],
            "text": said.text,
            "to": said.to,
            "is_kept": said.is_kept,
        }

    def choose(self, factor: Any) -> None:
        """Change to another resolution, or keep that of now, because a person says so.

        Raises
        ------
        LabelError
            There is no such resolution.
        SourceError
            A source cannot be opened at it.
        """
        session = self._session
        if isinstance(factor, bool) or factor not in session.ladder.factors:
            raise LabelError(f"{str(factor)[:20]} is no resolution of this page; reload it")
        with self._lock:
            suits = wanted(session.choice, self._suits, session.ladder, self._sizes)
            self._change(Choice(factor, "person", 0 if suits == factor else suits))
        self._tell()

    def _drawn(
        self,
        drawn: Sequence[tuple[AnnotationFile, SourceInfo]],
        options: SupportOptions,
        read: Callable[[], SupportSet],
    ) -> None:
        """Change to what suits the objects that are drawn, if nothing is lost by it; ``read`` as in `sizes_of`."""
        session = self._session
        ladder = session.ladder
        sides = [info.native_mpp if info.kind == "slide" else 1.0 for _, info in drawn]
        files = [(with_regions(file), side) for (file, _), side in zip(drawn, sides, strict=True)]
        sizes = sizes_of(files, options, ladder, session.config.object_radius_um, read)
        before, self._sizes = (self._sizes, self._suits), sizes
        self._suits = ladder.suits(sizes, coarsest_of(files))
        with self._lock:
            now = session.choice
            to = wanted(now, self._suits, ladder, sizes)
            regions = [
                (label.geometry, first.scale)
                for first in session.at(1)
                for label in first.labels.all()
                if label.kind == "region"
            ]
            kind = session.sources[0].info.kind
            is_changed = to != now.factor and may_change(now, to, ladder, kind, regions)
            if is_changed:
                try:
                    self._change(Choice(to, "page"))
                except SourceError as error:
                    log.warning("%s", error)
        if is_changed or before != (self._sizes, self._suits):
            self._tell()

    def _change(self, choice: Choice) -> None:
        session = self._session
        is_other = choice.factor != session.choice.factor
        if is_other:
            session.at(choice.factor)  # opened before anything changes

        def take() -> None:
            session.take(choice.factor, choice)
            if is_other:
                self._learning.reopened()

        session.hub.in_loop(take)
        keep_choice(session.out, session.ladder, choice)
        if is_other:
            log.info("preview: %s", session.ladder.words(choice.factor))

    def _tell(self) -> None:
        self._session.hub.publish({"type": "resolution"})

"""Labels of one source: operations, undo and redo, each change in the journal and the file before it is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.annotate.journal import Journal
from fewscope.annotate.kept_files import KeptFile, Stamp, digest_of, stamp_of
from fewscope.annotate.label_files import LabelFile, colours_of
from fewscope.annotate.label_state import Changes, Delta, LabelState, for_journal, in_order
from fewscope.annotate.operations import apply_operation
from fewscope.annotate.shapes import Label
from fewscope.connectors.colours import Colour
from fewscope.errors import LabelConflict, LabelError, SourceError

FILE, JOURNAL, AREA = "labels.geojson", "labels.journal.jsonl", "area.geojson"
MAX_OPERATIONS = 2000
"""Of one request."""


class Labels:
    """Labels of a source, kept in a folder; threads may share it.

    Parameters
    ----------
    folder : Path
        Where ``labels.geojson`` and its journal are.
    file : LabelFile
        How they are written.
    support : str or None
        Annotations to start from, where the folder has no labels yet.
    area : Callable or None
        Gives the area to start from, where the folder never had one.

    Raises
    ------
    LabelError
        The folder is open in another process or cannot be written.
    SupportError, SourceError
        `support`, ``labels.geojson`` or ``area.geojson`` cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        file: LabelFile,
        support: str | None = None,
        area: Callable[[], list[Label]] | None = None,
    ) -> None:
        self.path, self.area_path = folder / FILE, folder / AREA
        self.notes: list[str] = []
        self._file = file
        self._lock = threading.RLock()
        self._state = LabelState()
        self._kept, self._kept_area = KeptFile(self.path), KeptFile(self.area_path)
        self._unread_area: SourceError | None = None
        self._journal = Journal(folder / JOURNAL)
        try:
            self._restore(support)
            self._restore_area(area)
        except BaseException:
            self._journal.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        with self._lock:
            self._journal.close()

    @property
    def revision(self) -> int:
        """Number of changes so far."""
        return self._state.revision

    def all(self) -> list[Label]:
        """The labels, in the order of the file; those of the area are none."""
        with self._lock:
            return [one for one in self._state.in_order() if one.kind != "area"]

    @property
    def has_any(self) -> bool:
        """Whether there is any label."""
        return bool(self.all())

    @property
    def area(self) -> BaseGeometry | None:
        """What a run segments, image px; None: everything."""
        with self._lock:
            return self._file.area_of(self._state.in_order())

    def area_text(self, area: BaseGeometry | None) -> bytes:
        """The content of a file with an area, image px, as a run reads it from ``--aoi``."""
        return self._file.area_text(area)

    def snapshot(self) -> Changes:
        """Everything, as after a change of all labels."""
        with self._lock:
            return self._changes(self._state.in_order(), ())

    @property
    def classes(self) -> dict[str, Colour]:
        """Colours by name of class."""
        with self._lock:
            return dict(self._state.classes)

    def apply(self, operations: Any, revision: int) -> Changes:
        """Apply operations of the page, all or none.

        Parameters
        ----------
        operations : Any
            Parsed JSON, a list of what `operations.OPERATIONS` knows; anything may come.
        revision : int
            What the page had seen.

        Raises
        ------
        LabelError
            An operation makes no sense.
        LabelConflict
            A label that it names has changed since `revision`.
        """
        if not isinstance(operations, list) or not 0 < len(operations) <= MAX_OPERATIONS:
            raise LabelError(f"a request holds no list of 1 to {MAX_OPERATIONS} operations")
        with self._lock:
            self._take_over()
            names = [one.get("op") for one in operations if isinstance(one, dict)]
            if names == ["undo"]:
                return self._step("undo")
            if names == ["redo"]:
                return self._step("redo")
            edit = self._state.edit()
            for operation in operations:
                apply_operation(edit, operation, self._file.image)
            stale = [
                one for one in (*edit.named, *edit.removed) if self._state.touched.get(one, 0) > revision
            ]
            if stale:
                raise LabelConflict("a label was changed in another window; it is shown as it is now")
            return self._commit("ops", self._state.delta(edit))

    def replace(
        self, labels: Iterable[Label], how: str, classes: Mapping[str, Colour] | None = None
    ) -> Changes:
        """Put other labels in place of all; one change, which can be undone.

        ``how`` names the change in the journal. Labels whose id and content are the same are not touched.
        """
        with self._lock:
            edit = self._state.edit()
            new = list(labels)
            kept = {label.id for label in new}
            for own in [one.id for one in self.all() if one.id not in kept]:
                edit.remove(own)
            for label in new:
                edit.put(label)
            edit.classes.update(colours_of(new, classes or edit.classes))
            delta = self._state.delta(edit)
            return (
                self._commit(how, delta) if delta.added or delta.removed or delta.classes else self.snapshot()
            )

    @property
    def problem(self) -> str:
        """Why a file could not be written the last time; nothing where all are as they should be."""
        return self._kept.problem or self._kept_area.problem

    def write_again(self) -> None:
        """Write what could not be written before.

        Raises
        ------
        LabelError
            It still cannot.
        """
        with self._lock:
            if self._kept.problem:
                self._write_file(self._file.text(self.all(), self._state.classes))
            if self._kept.problem:
                raise LabelError(self._kept.problem)

    @property
    def stamps(self) -> tuple[Stamp, Stamp]:
        """What changes when another program writes to the labels or the area."""
        return stamp_of(self.path), stamp_of(self.area_path)

    def reload(self) -> Changes | None:
        """Take over what another program has written to the files; None if nothing has changed.

        Raises
        ------
        SupportError, SourceError
            A file cannot be read: what it holds stays as it is.
        """
        with self._lock:
            labels = self._reload_labels()
            return self._reload_area() or labels

    def _take_over(self) -> None:
        """As `reload`, before a change. An area that cannot be read keeps from changes of the area alone."""
        if self._kept.is_touched:
            self._reload_labels()
        if self._kept_area.is_touched:
            with suppress(SourceError):
                self._reload_area()

    def _reload_labels(self) -> Changes | None:
        stamp, digest = stamp_of(self.path), self._kept.digest()
        never = not self._state.revision  # nothing was ever drawn
        known = self._own_digest() if never else self._state.digests[0]
        if digest == known or (never and digest is None):
            self._kept.seen(stamp)
            return None
        if digest is None or self._kept.is_behind:  # deleted, or could not be written: nothing is lost
            self._write_file(self._file.text(self.all(), self._state.classes))
            return None
        labels, self.notes = self._file.read(str(self.path))
        self._kept.seen(stamp)
        changes = self.replace(self._with_known_ids(labels), "replace")
        if self._state.digests[0] != self._kept.digest():  # the same labels, in other words
            self._write_file(self._file.text(self.all(), self._state.classes))
        return changes

    def _reload_area(self) -> Changes | None:
        stamp, digest, area = stamp_of(self.area_path), self._kept_area.digest(), self.area
        if digest == digest_of(self._file.area_text(area)) or (digest is None and area is None):
            self._kept_area.seen(stamp)
            return None
        if digest is None or self._kept_area.is_behind:
            self._write_area()
            return None
        try:
            found = self._file.read_area_again(str(self.area_path), area)
        except SourceError as error:
            self._unread_area = error
            raise
        self._unread_area = None
        self._kept_area.seen(stamp)
        if found is None:
            return None
        edit = self._state.edit()
        for own in [own for own, label in edit.labels.items() if label.kind == "area"]:
            edit.remove(own)
        for label in found:
            edit.put(label)
        return self._commit("replace", self._state.delta(edit))

    def _own_digest(self) -> str:
        """Digest of the file as it would be written now."""
        return digest_of(self._file.text(self.all(), self._state.classes))

    def state_now(self) -> tuple[int, str]:
        """Revision, and digest of the file: what `restore` puts back."""
        with self._lock:
            return self._state.revision, self._state.digests[0]

    def restore(self, revision: int, digest: str) -> Changes:
        """Put back the labels that there were after a number of changes; one change, which can be undone.

        Raises
        ------
        LabelError
            The journal does not hold them (any more).
        SupportError
            Another program has written a file that cannot be read.
        """
        with self._lock:
            self._take_over()
            then = LabelState()
            try:
                for entry in self._journal.read()[:revision]:
                    then.replay(entry)
            except ValueError:
                then = LabelState()
            if (then.revision, then.digests[0]) != (revision, digest if revision else ""):
                raise LabelError(f"the labels of change {revision} are not in {self._journal.path} any more")
            edit = self._state.edit()
            for own in [one.id for one in self.all() if one.id not in then.labels]:
                edit.remove(own)
            for label in then.in_order():  # the area stays as it is
                if label.kind != "area" and edit.labels.get(label.id) != label:
                    edit.put(label)
            edit.classes = {**then.classes, **edit.classes}
            delta = self._state.delta(edit)
            return self._commit("restore", delta) if delta.added or delta.removed else self.snapshot()

    def _with_known_ids(self, read: Sequence[Label]) -> list[Label]:
        """Labels that were read; those that the file says nothing new of are as they were before."""
        before = self.all()
        known: dict[tuple[Any, ...], list[Label]] = {}
        for label, mark in zip(before, self._file.marks(before), strict=True):
            known.setdefault(_content(label, mark), []).append(label)
        found = []
        for label, mark in zip(read, self._file.marks(read), strict=True):
            same = known.get(_content(label, mark))
            found.append(same.pop(0) if same else label)
        return found

    def _restore(self, support: str | None) -> None:
        """Labels as they were: from the journal, from the file where that is newer, else from `support`."""
        state = self._state
        try:
            entries = self._journal.read()
            for entry in entries:
                state.replay(entry)
            self._kept.compare(entries, "file")
            self._kept_area.compare(entries, "area")
        except ValueError:
            self._journal.set_aside()
            state = self._state = LabelState()
        digest = self._kept.digest()
        is_newest = state.revision > 0 and digest == state.digests[0]
        what = "was damaged"
        if is_newest and self._file.info.kind == "raster" and digest != self._own_digest():
            what = "is of another --res"  # its px are those of another grid: the file says where labels are
            self._journal.set_aside()
            state = self._state = LabelState()
        if self._journal.damaged is not None:
            self.notes.append(
                f"the journal {what}: undo begins anew, the old one is {self._journal.damaged.name}"
            )
        if digest is not None and self._file.info.time is not None:
            self._file.read(
                str(self.path)
            )  # refuses labels of another time point, which the journal does not know
        if state.revision and (digest == state.digests[0] or self._kept.is_behind):
            self._kept.seen(stamp_of(self.path))
            if self._kept.is_behind:
                self._write_file(self._file.text(self.all(), state.classes))
            return
        if digest is not None:
            labels, notes = self._file.read(str(self.path))
            self.notes += notes
            self.replace(self._with_known_ids(labels), "replace" if state.revision else "start")
            if not state.revision:  # a file without labels
                self._commit("start", Delta({}, {}))
            elif digest == self._kept.digest():  # the same labels, in other words
                self._write_file(self._file.text(self.all(), state.classes))
        elif state.revision:  # the file is gone, the journal is not
            self._write_file(self._file.text(self.all(), state.classes))
        elif support is not None:
            labels, notes = self._file.read(support)
            self.notes += notes
            self.replace(labels, "start")

    def _restore_area(self, start: Callable[[], list[Label]] | None) -> None:
        """The area as it was: of the file where that is newer, else of the journal; else the one to start from."""
        if not self.area_path.is_file() and self.area is None:
            labels = start() if start is not None else []
            added = {one.id: (self._state.next_rank + k, one) for k, one in enumerate(labels)}
            if added:
                self._commit("start", Delta({}, added))
        else:
            self._reload_area()

    def _step(self, kind: str) -> Changes:
        delta = self._state.next_delta(kind)
        if delta is None:
            raise LabelError(f"there is nothing to {kind}")
        return self._commit(kind, delta)

    def _commit(self, kind: str, delta: Delta) -> Changes:
        """Journal, then memory, then the file: a crash at any point loses nothing that was answered."""
        state = self._state
        after = {own: ranked for own, ranked in state.labels.items() if own not in delta.removed}
        after.update(delta.added)
        text = self._file.text(in_order(after), state.classes if delta.classes is None else delta.classes[1])
        digest = digest_of(text)
        area = b""
        if any(label.kind == "area" for _, label in (*delta.added.values(), *delta.removed.values())):
            if self._unread_area is not None:
                raise self._unread_area
            area = self._file.area_text(self._file.area_of(in_order(after)))
        self._journal.append(for_journal(kind, delta, digest, digest_of(area) if area else ""))
        state.take(kind, delta, digest)
        self._write_file(text)
        if area:
            self._write_area()
        gone = tuple(own for own in delta.removed if own not in delta.added)
        return self._changes([label for _, label in delta.added.values()], gone)

    def _write_file(self, text: bytes) -> None:
        """Write the labels. The journal has them: what cannot be written is written with the next change."""
        self._kept.write(text)

    def _write_area(self) -> None:
        self._kept_area.write(self._file.area_text(self.area))

    def _changes(self, changed: Iterable[Label], removed: tuple[str, ...]) -> Changes:
        state = self._state
        return Changes(
            state.revision,
            tuple(changed),
            removed,
            bool(state.undo),
            bool(state.redo),
            dict(state.classes),
            self._file.area_of(state.in_order()),
        )


def _content(label: Label, mark: str) -> tuple[Any, ...]:
    """What a file says of a label, but for its id."""
    return label.kind, label.class_name, label.negative, mark, shapely.to_wkb(label.geometry.normalize())

"""Labels of one source: operations, undo and redo, each change in the journal and the file before it is answered."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely

from fewscope.annotate.journal import Journal
from fewscope.annotate.label_files import LabelFile, colours_of
from fewscope.annotate.operations import Edit, apply_operation
from fewscope.annotate.shapes import Label
from fewscope.connectors.colours import Colour
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.errors import FewscopeError, LabelConflict, LabelError

log = logging.getLogger(__name__)

FILE, JOURNAL = "labels.geojson", "labels.journal.jsonl"
MAX_OPERATIONS = 2000
"""Of one request."""

Ranked = tuple[int, Label]
"""A label and its place in the file: what is drawn later lies above."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a change removes and adds, and the classes before and after if it changes them."""

    removed: Mapping[str, Ranked]
    added: Mapping[str, Ranked]
    classes: tuple[dict[str, Colour], dict[str, Colour]] | None = None

    @property
    def inverse(self) -> Delta:
        """The change back."""
        return Delta(self.added, self.removed, None if self.classes is None else self.classes[::-1])


@dataclass(frozen=True, slots=True)
class Changes:
    """What a page must know after a change.

    Attributes
    ----------
    revision : int
        Of the labels now.
    changed : tuple of Label
        New or changed labels.
    removed : tuple of str
        Ids that are no more.
    undo, redo : bool
        Whether there is anything to undo, or to redo.
    classes : dict
        Colours by name.
    """

    revision: int
    changed: tuple[Label, ...]
    removed: tuple[str, ...]
    undo: bool
    redo: bool
    classes: dict[str, Colour]


@dataclass(slots=True)
class _State:
    labels: dict[str, Ranked] = field(default_factory=dict)
    classes: dict[str, Colour] = field(default_factory=dict)
    undo: list[Delta] = field(default_factory=list)
    redo: list[Delta] = field(default_factory=list)
    revision: int = 0
    next_rank: int = 0
    touched: dict[str, int] = field(default_factory=dict)  # id -> revision of its last change
    digests: tuple[str, str] = ("", "")  # of the file: last and the one before


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

    Raises
    ------
    LabelError
        The folder is open in another process or cannot be written.
    SupportError
        `support`, or ``labels.geojson``, cannot be read.
    """

    def __init__(self, folder: Path, file: LabelFile, support: str | None = None) -> None:
        self.path = folder / FILE
        self.notes: list[str] = []
        self._file = file
        self._lock = threading.RLock()
        self._state = _State()
        self._journal = Journal(folder / JOURNAL)
        try:
            self._restore(support)
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
        """The labels, in the order of the file."""
        with self._lock:
            return _in_order(self._state.labels)

    @property
    def has_any(self) -> bool:
        """Whether there is any label."""
        return bool(self._state.labels)

    def snapshot(self) -> Changes:
        """Everything, as after a change of all labels."""
        with self._lock:
            return self._changes(_in_order(self._state.labels), ())

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
            names = [one.get("op") for one in operations if isinstance(one, dict)]
            if names == ["undo"]:
                return self._step("undo")
            if names == ["redo"]:
                return self._step("redo")
            edit = self._edit()
            for operation in operations:
                apply_operation(edit, operation, self._file.image)
            stale = [
                one for one in (*edit.named, *edit.removed) if self._state.touched.get(one, 0) > revision
            ]
            if stale:
                raise LabelConflict("a label was changed in another window; it is shown as it is now")
            return self._commit("ops", self._delta(edit))

    def replace(
        self, labels: Iterable[Label], how: str, classes: Mapping[str, Colour] | None = None
    ) -> Changes:
        """Put other labels in place of all; one change, which can be undone.

        ``how`` names the change in the journal. Labels whose id and content are the same are not touched.
        """
        with self._lock:
            edit = self._edit()
            new = list(labels)
            for own in [one for one in self._state.labels if one not in {label.id for label in new}]:
                edit.remove(own)
            for label in new:
                edit.put(label)
            edit.classes.update(colours_of(new, classes or edit.classes))
            delta = self._delta(edit)
            return (
                self._commit(how, delta) if delta.added or delta.removed or delta.classes else self.snapshot()
            )

    def reload(self) -> Changes | None:
        """Take over what another program has written to the file; None if nothing has changed.

        Raises
        ------
        SupportError
            The file cannot be read: the labels stay as they are.
        """
        with self._lock:
            digest = _digest_of(self.path)
            if digest == self._state.digests[0]:
                return None
            if digest is None:  # deleted: written again, nothing is lost
                self._write_file(self._file.text(self.all(), self._state.classes))
                return None
            labels, self.notes = self._file.read(str(self.path))
            changes = self.replace(self._with_known_ids(labels), "replace")
            if self._state.digests[0] != _digest_of(self.path):  # the same labels, in other words
                self._write_file(self._file.text(self.all(), self._state.classes))
            return changes

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
        for entry in self._journal.read():
            self._replay(entry)
        if self._journal.damaged is not None:
            self.notes.append(
                f"the journal was damaged: undo begins anew, the old one is {self._journal.damaged.name}"
            )
        digest = _digest_of(self.path)
        if state.revision and digest in state.digests:
            if digest != state.digests[0]:  # a crash came between the journal and the file
                self._write_file(self._file.text(self.all(), state.classes))
            return
        if digest is not None:
            labels, notes = self._file.read(str(self.path))
            self.notes += notes
            self.replace(self._with_known_ids(labels), "replace" if state.revision else "start")
            if not state.revision:  # a file without labels
                self._commit("start", Delta({}, {}))
            elif digest == _digest_of(self.path):  # the same labels, in other words
                self._write_file(self._file.text(self.all(), state.classes))
        elif state.revision:  # the file is gone, the journal is not
            self._write_file(self._file.text(self.all(), state.classes))
        elif support is not None:
            labels, notes = self._file.read(support)
            self.notes += notes
            self.replace(labels, "start")

    def _replay(self, entry: Mapping[str, Any]) -> None:
        state = self._state
        kind = entry["type"]
        if kind in ("undo", "redo"):
            stack, other = (state.undo, state.redo) if kind == "undo" else (state.redo, state.undo)
            delta = stack.pop()
            other.append(delta)
            self._take(delta.inverse if kind == "undo" else delta)
        else:
            classes = entry.get("classes")
            delta = Delta(
                {one["feature"]["id"]: _from_journal(one) for one in entry["removed"]},
                {one["feature"]["id"]: _from_journal(one) for one in entry["added"]},
                None if classes is None else (_colours(classes[0]), _colours(classes[1])),
            )
            self._take(delta)
            if kind != "start":
                state.undo.append(delta)
            state.redo.clear()
        state.digests = (entry["file"], state.digests[0])

    def _take(self, delta: Delta) -> None:
        """Apply a change to the state in memory."""
        state = self._state
        state.revision += 1
        for own in delta.removed:
            state.labels.pop(own, None)
        state.labels.update(delta.added)
        if delta.classes is not None:
            state.classes = dict(delta.classes[1])
        for own in (*delta.removed, *delta.added):
            state.touched[own] = state.revision
        ranks = [rank for rank, _ in delta.added.values()]
        state.next_rank = max([state.next_rank, *(rank + 1 for rank in ranks)])

    def _edit(self) -> Edit:
        state = self._state
        return Edit({own: label for own, (_, label) in state.labels.items()}, dict(state.classes))

    def _delta(self, edit: Edit) -> Delta:
        state = self._state
        removed = {own: state.labels[own] for own in edit.removed if own in state.labels}
        added: dict[str, Ranked] = {}
        rank = state.next_rank
        for own in edit.changed:
            label, before = edit.labels[own], state.labels.get(own)
            if before is not None:
                if before[1] == label:
                    continue
                removed[own] = before
                added[own] = (before[0], label)
            else:
                added[own] = (rank, label)
                rank += 1
        classes = None if edit.classes == state.classes else (dict(state.classes), dict(edit.classes))
        return Delta(removed, added, classes)

    def _step(self, kind: str) -> Changes:
        state = self._state
        stack = state.undo if kind == "undo" else state.redo
        if not stack:
            raise LabelError(f"there is nothing to {kind}")
        return self._commit(kind, stack[-1].inverse if kind == "undo" else stack[-1])

    def _commit(self, kind: str, delta: Delta) -> Changes:
        """Journal, then memory, then the file: a crash at any point loses nothing that was answered."""
        state = self._state
        after = {own: ranked for own, ranked in state.labels.items() if own not in delta.removed}
        after.update(delta.added)
        classes = state.classes if delta.classes is None else delta.classes[1]
        text = self._file.text(_in_order(after), classes)
        entry: dict[str, Any] = {"type": kind, "file": hashlib.sha256(text).hexdigest()}
        if kind not in ("undo", "redo"):
            entry["removed"] = [_for_journal(one) for one in delta.removed.values()]
            entry["added"] = [_for_journal(one) for one in delta.added.values()]
            if delta.classes is not None:
                entry["classes"] = delta.classes
        self._journal.append(entry)
        self._take(delta)
        if kind == "undo":
            state.redo.append(state.undo.pop())
        elif kind == "redo":
            state.undo.append(state.redo.pop())
        else:
            if kind != "start":  # which cannot be undone
                state.undo.append(delta)
            state.redo.clear()
        state.digests = (entry["file"], state.digests[0])
        self._write_file(text)
        gone = tuple(own for own in delta.removed if own not in delta.added)
        return self._changes([label for _, label in delta.added.values()], gone)

    def _write_file(self, text: bytes) -> None:
        try:
            write_atomic(open_filesystem(str(self.path))[0], os.path.abspath(self.path), text)
        except FewscopeError as error:  # the journal has it: the next change tries again
            log.warning("%s", error)
            self.notes.append(str(error))

    def _changes(self, changed: Iterable[Label], removed: tuple[str, ...]) -> Changes:
        state = self._state
        return Changes(
            state.revision, tuple(changed), removed, bool(state.undo), bool(state.redo), dict(state.classes)
        )


def _in_order(labels: Mapping[str, Ranked]) -> list[Label]:
    return [label for _, label in sorted(labels.values(), key=lambda ranked: ranked[0])]


def _content(label: Label, mark: str) -> tuple[Any, ...]:
    """What a file says of a label, but for its id."""
    return label.kind, label.class_name, label.negative, mark, shapely.to_wkb(label.geometry.normalize())


def _for_journal(ranked: Ranked) -> dict[str, Any]:
    return {"rank": ranked[0], "feature": ranked[1].feature()}


def _from_journal(entry: Mapping[str, Any]) -> Ranked:
    feature = entry["feature"]
    properties = feature["properties"]
    label = Label(
        id=feature["id"],
        geometry=shapely.geometry.shape(feature["geometry"]),
        kind=properties["kind"],
        class_name=properties["class"],
        negative=properties["negative"],
        source=properties["source"],
    )
    return int(entry["rank"]), label


def _colours(stated: Mapping[str, Sequence[int]]) -> dict[str, Colour]:
    return {name: (int(c[0]), int(c[1]), int(c[2])) for name, c in stated.items()}


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None

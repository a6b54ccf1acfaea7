"""Labels in memory: what a change takes away and adds, undo and redo, and replaying a journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.annotate.operations import Edit
from fewscope.annotate.shapes import Label
from fewscope.connectors.colours import Colour

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
    area : BaseGeometry or None
        What a run segments, image px; None: everything.
    """

    revision: int
    changed: tuple[Label, ...]
    removed: tuple[str, ...]
    undo: bool
    redo: bool
    classes: dict[str, Colour]
    area: BaseGeometry | None = None


@dataclass(slots=True)
class LabelState:
    """Labels after a number of changes.

    Attributes
    ----------
    labels : dict
        By id.
    classes : dict
        Colours by name.
    undo, redo : list of Delta
        The changes that can be taken back, and those that were.
    revision : int
        Number of changes.
    touched : dict
        For each id the revision of its last change.
    digests : tuple of str
        Of the file: as the last change has left it, and the one before.
    """

    labels: dict[str, Ranked] = field(default_factory=dict)
    classes: dict[str, Colour] = field(default_factory=dict)
    undo: list[Delta] = field(default_factory=list)
    redo: list[Delta] = field(default_factory=list)
    revision: int = 0
    next_rank: int = 0
    touched: dict[str, int] = field(default_factory=dict)
    digests: tuple[str, str] = ("", "")

    def in_order(self) -> list[Label]:
        """The labels, in the order of the file."""
        return in_order(self.labels)

    def next_delta(self, kind: str) -> Delta | None:
        """The change that "undo" or "redo" would make; None if there is none."""
        stack = self.undo if kind == "undo" else self.redo
        if not stack:
            return None
        return stack[-1].inverse if kind == "undo" else stack[-1]

    def take(self, kind: str, delta: Delta, digest: str) -> None:
        """Apply a change of a kind, after which the file has a digest."""
        self._apply(delta)
        if kind == "undo":
            self.redo.append(self.undo.pop())
        elif kind == "redo":
            self.undo.append(self.redo.pop())
        else:
            if kind != "start":  # which cannot be undone
                self.undo.append(delta)
            self.redo.clear()
        self.digests = (digest, self.digests[0])

    def replay(self, entry: Mapping[str, Any]) -> None:
        """Apply an entry of a journal.

        Raises
        ------
        ValueError
            It is none, or does not follow from those before.
        """
        try:
            kind = entry["type"]
            if kind in ("undo", "redo"):
                delta = self.next_delta(kind)
                if delta is None:
                    raise ValueError(f"there is nothing to {kind}")
            else:
                classes = entry.get("classes")
                delta = Delta(
                    {one["feature"]["id"]: _from_journal(one) for one in entry["removed"]},
                    {one["feature"]["id"]: _from_journal(one) for one in entry["added"]},
                    None if classes is None else (_colours(classes[0]), _colours(classes[1])),
                )
            self.take(kind, delta, entry["file"])
        except (KeyError, IndexError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"an entry of the journal cannot be read ({error!r})") from error

    def _apply(self, delta: Delta) -> None:
        """Apply a change to the state in memory."""
        self.revision += 1
        for own in delta.removed:
            self.labels.pop(own, None)
        self.labels.update(delta.added)
        if delta.classes is not None:
            self.classes = dict(delta.classes[1])
        for own in (*delta.removed, *delta.added):
            self.touched[own] = self.revision
        ranks = [rank for rank, _ in delta.added.values()]
        self.next_rank = max([self.next_rank, *(rank + 1 for rank in ranks)])

    def edit(self) -> Edit:
        """The labels, to be changed by operations."""
        return Edit({own: label for own, (_, label) in self.labels.items()}, dict(self.classes))

    def delta(self, edit: Edit) -> Delta:
        """What operations have changed."""
        removed = {own: self.labels[own] for own in edit.removed if own in self.labels}
        added: dict[str, Ranked] = {}
        rank = self.next_rank
        for own in edit.changed:
            label, before = edit.labels[own], self.labels.get(own)
            if before is not None:
                if before[1] == label:
                    continue
                removed[own] = before
                added[own] = (before[0], label)
            else:
                added[own] = (rank, label)
                rank += 1
        classes = None if edit.classes == self.classes else (dict(self.classes), dict(edit.classes))
        return Delta(removed, added, classes)


def in_order(labels: Mapping[str, Ranked]) -> list[Label]:
    """Labels in the order of the file."""
    return [label for _, label in sorted(labels.values(), key=lambda ranked: ranked[0])]


def for_journal(kind: str, delta: Delta, digest: str, area_digest: str = "") -> dict[str, Any]:
    """The entry of a change, with the digest of the file after it, and that of the area if it has changed, too;
    `LabelState.replay` reads it."""
    entry: dict[str, Any] = {"type": kind, "file": digest} | ({"area": area_digest} if area_digest else {})
    if kind not in ("undo", "redo"):
        entry["removed"] = [_entry_of(one) for one in delta.removed.values()]
        entry["added"] = [_entry_of(one) for one in delta.added.values()]
        if delta.classes is not None:
            entry["classes"] = delta.classes
    return entry


def _entry_of(ranked: Ranked) -> dict[str, Any]:
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

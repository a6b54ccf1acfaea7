"""The operations of a page on labels: each a JSON object with its name in ``op``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shapely.geometry.base import BaseGeometry

from fewscope.annotate import shapes
from fewscope.annotate.label_files import MAX_LABELS
from fewscope.annotate.shapes import Label, clipped, label_of, new_id, tidied
from fewscope.connectors.colours import Colour, class_colour
from fewscope.connectors.support.support_set import MAX_CLASSES
from fewscope.errors import LabelConflict, LabelError

_COLOUR = re.compile(r"#([0-9a-f]{6})", re.IGNORECASE)


@dataclass(slots=True)
class Edit:
    """Labels while operations change them.

    Attributes
    ----------
    labels : dict
        By id, as they are after the operations so far.
    classes : dict
        Colours by name.
    changed, removed : dict
        Ids of what is new or other, and of what is gone, in order.
    named : set
        Ids that the operations name: if they have changed since the page saw them, it must look again.
    """

    labels: dict[str, Label]
    classes: dict[str, Colour]
    changed: dict[str, None] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)

    def put(self, label: Label) -> None:
        """Add a label, or put it in place of the one with its id."""
        if len(self.labels) >= MAX_LABELS and label.id not in self.labels:
            raise LabelError(f"there are {MAX_LABELS} labels already; delete what is not needed")
        self.labels[label.id] = label
        self.changed[label.id] = None
        self.removed.pop(label.id, None)
        if label.class_name is not None:
            self.know(label.class_name)

    def remove(self, own: str) -> None:
        """Remove a label."""
        del self.labels[own]
        self.changed.pop(own, None)
        self.removed[own] = None

    def know(self, name: str) -> None:
        """Give a class that is new a colour."""
        if name not in self.classes:
            if len(self.classes) >= MAX_CLASSES:
                raise LabelError(f"there are {MAX_CLASSES} classes already; use one of them")
            self.classes[name] = class_colour(len(self.classes) + 1)

    def pick(self, own: Any) -> Label:
        """The label with an id that the page has named.

        Raises
        ------
        LabelConflict
            There is none (any more).
        """
        if not isinstance(own, str) or own not in self.labels:
            raise LabelConflict("a label is no longer there; it was deleted or replaced in another window")
        self.named.add(own)
        return self.labels[own]


def apply_operation(edit: Edit, operation: Any, image: BaseGeometry) -> None:
    """Apply one operation.

    Parameters
    ----------
    edit : Edit
        The labels, which it changes.
    operation : Any
        Parsed JSON; anything may come.
    image : BaseGeometry
        The image, by which shapes are clipped.

    Raises
    ------
    LabelError
        It makes no sense.
    LabelConflict
        It names a label that is no longer there.
    """
    name = operation.get("op") if isinstance(operation, Mapping) else None
    known = OPERATIONS.get(name) if isinstance(name, str) else None
    if known is None:
        raise LabelError(
            f"{str(name)[:40]!r} is no operation; known are {', '.join(OPERATIONS)}, undo and redo alone"
        )
    known(edit, operation, image)


def _add(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    label = label_of(operation.get("feature"), image)
    if label.id in edit.labels:
        label = replace(label, id=new_id())
    edit.put(label)


def _replace(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    before = edit.pick(operation.get("id"))
    after = label_of(operation.get("feature"), image)
    edit.put(replace(after, id=before.id))


def _delete(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    for own in _ids(operation):
        edit.pick(own)
        edit.remove(own)


def _brush(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    area = clipped(tidied(shapes.stroke(operation.get("line"), operation.get("radius"))), image)
    if operation.get("target") is not None:
        edit.put(shapes.brushed(edit.pick(operation["target"]), area))
        return
    kind = operation.get("kind", "object")
    if kind not in ("object", "not", "ignore"):
        raise LabelError(
            f"the brush paints objects, what is not one, or areas to ignore, not {str(kind)[:40]!r}"
        )
    name = shapes.class_name(operation.get("class")) if kind == "object" else None
    if kind == "object" and name is None:
        raise LabelError("the brush has no class; choose one")
    edit.put(Label(new_id(), area, kind, name, source="brush" if kind == "object" else "drawn"))


def _erase(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    area = shapes.stroke(operation.get("line"), operation.get("radius"))
    if operation.get("ids") is not None:
        touched = [edit.pick(own) for own in _ids(operation)]
    else:
        touched = [
            one
            for one in edit.labels.values()
            if one.kind not in ("region", "area") and area.intersects(one.geometry)
        ]
    for label in touched:
        _exchange(edit, label, shapes.erased(label, area))


def _split(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    label = edit.pick(operation.get("id"))
    _exchange(edit, label, shapes.split(label, operation.get("line")))


def _merge(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    labels = [edit.pick(own) for own in dict.fromkeys(_ids(operation))]
    whole = shapes.merged(labels)
    for label in labels[1:]:
        edit.remove(label.id)
    edit.put(whole)


def _relabel(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    name = shapes.class_name(operation.get("class"))
    if name is None:
        raise LabelError("no class is given; choose one")
    for label in shapes.relabelled([edit.pick(own) for own in _ids(operation)], name):
        edit.put(label)


def _class(edit: Edit, operation: Mapping[str, Any], image: BaseGeometry) -> None:
    name, before = map(shapes.class_name, (operation.get("name"), operation.get("rename_from")))
    if name is None:
        raise LabelError("a class has no name; give one")
    if before is not None and before in edit.classes and before != name:
        edit.classes = {
            (name if own == before else own): colour for own, colour in edit.classes.items() if own != name
        }
        for label in [one for one in edit.labels.values() if one.class_name == before]:
            edit.put(replace(label, class_name=name))
    edit.know(name)
    if operation.get("colour") is not None:
        edit.classes[name] = colour_of(operation["colour"])


def colour_of(text: Any) -> Colour:
    """A colour of a page, ``#rrggbb``.

    >>> colour_of("#e6550d")
    (230, 85, 13)
    """
    found = _COLOUR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise LabelError(f"{str(text)[:40]!r} is no colour; give #rrggbb")
    red, green, blue = bytes.fromhex(found[1])
    return red, green, blue


def _exchange(edit: Edit, label: Label, parts: list[Label]) -> None:
    """Put what has become of a label in its place."""
    if all(part.id != label.id for part in parts):
        edit.remove(label.id)
    for part in parts:
        if part is not label:
            edit.put(part)


def _ids(operation: Mapping[str, Any]) -> list[str]:
    ids = operation.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(own, str) for own in ids):
        raise LabelError("nothing is selected; select labels first")
    return ids


OPERATIONS: dict[str, Callable[[Edit, Mapping[str, Any], BaseGeometry], None]] = {
    "add": _add,
    "replace": _replace,
    "delete": _delete,
    "brush": _brush,
    "erase": _erase,
    "split": _split,
    "merge": _merge,
    "relabel": _relabel,
    "class": _class,
}

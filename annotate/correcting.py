"""Corrections of the preview: its outlines, what it proposes, and objects that a click accepts, rejects or splits.

Answers are GeoJSON Features in image px, as labels; those that only propose are not added to the labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from fewscope.annotate.labels import Changes
from fewscope.annotate.learning import Learning
from fewscope.annotate.session import OpenSource
from fewscope.annotate.shapes import Kind, Label, Origin, clipped, line_of, new_id, pieces, split, tidied
from fewscope.errors import LabelError

if TYPE_CHECKING:
    from fewscope.annotate.objects import ObjectRule
    from fewscope.annotate.preview import Preview

MAX_OUTLINES = 3000
"""Features of one answer: a page that shows more is slow, and people cannot correct them one by one."""

MAX_SIDE = 4096
"""Working px along the side of a box up to which outlines are made."""

SAME_OBJECT = 0.3
"""Part of a predicted object that a label must cover to be of the same object."""

WAIT_S = 20.0
"""For the answers of a window that a proposal needs."""


def rule_of(learning: Learning, index: int, kind: str) -> ObjectRule:
    """How objects of a class are separated."""
    from fewscope.annotate.objects import ObjectRule, object_rules

    support = learning.outlined
    radius_um = None if learning.preview is None else learning.preview.object_radius_um
    rules = () if support is None else object_rules(support, kind, radius_um)
    return rules[index] if index < len(rules) else ObjectRule(None, 0)


def outlines(
    learning: Learning, preview: Preview, one: OpenSource, window: Window, name: str, threshold: float
) -> dict[str, Any]:
    """Objects of a class in a window of working px, their number and share of the area.

    With more than `MAX_OUTLINES` objects, or in a window of more than `MAX_SIDE` px, none is drawn.
    """
    from fewscope.annotate.objects import area_fraction, objects_in

    index = learning.class_index(name)
    learned = preview.learned()
    answer: dict[str, Any] = {
        "revision": 0 if learned is None else learned.revision,
        "count": 0,
        "area_fraction": 0.0,
        "truncated": False,
        "features": [],
    }
    if index is None:
        return answer
    if max(window.width, window.height) > MAX_SIDE:
        return answer | {"truncated": True}
    number, rule = int(one.id), rule_of(learning, index, one.source.info.kind)
    found = objects_in(preview, number, window, index, threshold, rule.rule, rule.min_area_px)
    area = one.area
    if area is not None:  # in which alone a run looks
        found = [item for item in found if area.geometry.intersects(item.polygon)]
    features = [] if len(found) > MAX_OUTLINES else found
    return answer | {
        "count": len(found),
        "area_fraction": area_fraction(preview, number, window, index, threshold, area),
        "truncated": len(found) > MAX_OUTLINES,
        "features": [
            _feature(
                _in_image(item.polygon, one.scale),
                "object",
                name,
                "preview",
                area_px=item.area_px,
                probability=round(item.probability, 4),
            )
            for item in features
        ],
    }


def wand(learning: Learning, preview: Preview, one: OpenSource, x: float, y: float, name: str) -> Any:
    """The object that the wand proposes at a place in image px, a Feature; None for none."""
    from fewscope.annotate.wand import propose_object

    index = learning.class_index(name)
    known = index if index is not None else 0
    rule = rule_of(learning, known, one.source.info.kind)
    threshold = 0.5 if index is not None else 1.0  # a new class has no answers yet: by colour alone
    found = propose_object(preview, int(one.id), x / one.scale, y / one.scale, known, threshold, rule.rule)
    if found is None:
        return None
    try:
        shape = clipped(tidied(_in_image(found, one.scale)), one.frame)
    except LabelError:
        return None
    return _feature(shape, "object", name, "wand")


def propose(learning: Learning, preview: Preview, one: OpenSource, box: Sequence[float]) -> list[Any]:
    """A region, and the preview's objects in it that no label is of already: Features, not added.

    Waits until the answers of the region are there.
    """
    from fewscope.annotate.objects import objects_in

    region = clipped(tidied(shapely.box(*box)), one.frame)
    left, top, right, bottom = (value / one.scale for value in region.bounds)
    window = Window(int(left), int(top), int(np.ceil(right)) - int(left), int(np.ceil(bottom)) - int(top))
    wait_for_answers(learning, preview, int(one.id), window)
    features = [_feature(region, "region", None, "preview")]
    labels = [label.geometry for label in one.labels.all() if label.kind != "region"]
    tree = shapely.STRtree(labels)
    for index, name in enumerate(learning.class_names):
        rule = rule_of(learning, index, one.source.info.kind)
        for item in objects_in(preview, int(one.id), window, index, 0.5, rule.rule, rule.min_area_px):
            try:
                shape = clipped(tidied(_in_image(item.polygon, one.scale)), one.frame)
            except LabelError:
                continue
            near = [labels[i] for i in tree.query(shape, predicate="intersects")]
            is_marked = any(not label.area for label in near)
            is_labelled = is_marked or (bool(near) and covers_much(shapely.union_all(near), shape))
            if not is_labelled and region.intersection(shape).area > 0:
                features.append(_feature(shape, "object", name, "preview"))
    return features


def wait_for_answers(learning: Learning, preview: Preview, source: int, window: Window) -> None:
    """Look at a window until it is answered, or for `WAIT_S`; nothing to wait for before anything is learned.

    Raises
    ------
    LabelError
        The resolution has changed: this preview answers no more.
    """
    if preview.learned() is None:
        return
    if preview.probability(source, window, 0)[1].all():
        return
    preview.look_at(source, window)
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        status = preview.status(source)
        if status.state == "ready" or preview.probability(source, window, 0)[1].all():
            return
        if learning.preview is not preview:
            raise LabelError(learning.message or "the resolution has changed; try again")
        time.sleep(0.03)


def correct_object(
    learning: Learning, preview: Preview, one: OpenSource, body: Mapping[str, Any], x: float, y: float
) -> Changes:
    """Accept, reject, relabel or split the preview's object at a place in image px.

    What it becomes replaces labels that an earlier click has made of the same object.

    Raises
    ------
    LabelError
        There is no object, or the action makes no sense.
    """
    action, name = body.get("action"), body.get("class")
    if action not in ("accept", "reject", "relabel", "split"):
        raise LabelError(f"{str(action)[:40]!r} is no action; known are accept, reject, relabel and split")
    threshold: Any = body.get("threshold", 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise LabelError("threshold is not in 0..1")
    found, own_class = _object_at(learning, preview, one, x, y, float(threshold), name, action)
    shape = clipped(tidied(_in_image(found, one.scale)), one.frame)
    label = Label(new_id(), shape, "object", own_class, source="accepted")
    if action == "reject":
        made = [Label(new_id(), shape, "not", source="rejected")]
    elif action == "relabel":
        if not isinstance(name, str):
            raise LabelError("no class is given; choose one")
        made = [Label(new_id(), shape, "object", name, source="accepted")]
    elif action == "split":
        line_of(body.get("line"))
        made = [part for half in split(label, body.get("line")) for part in pieces(half, half.geometry)]
    else:
        made = [label]
    earlier = [
        old.id
        for old in one.labels.all()
        if old.source in ("accepted", "rejected") and covers_much(old.geometry, shape)
    ]
    operations: list[Any] = [{"op": "delete", "ids": earlier}] if earlier else []
    operations += [{"op": "add", "feature": part.feature()} for part in made]
    return one.labels.apply(operations, one.labels.revision)


def _object_at(
    learning: Learning,
    preview: Preview,
    one: OpenSource,
    x: float,
    y: float,
    threshold: float,
    name: Any,
    action: str,
) -> tuple[BaseGeometry, str]:
    """The preview's object at a place, and its class: the given one (but to relabel), or that of the surest."""
    from fewscope.annotate.objects import object_at

    names = learning.class_names
    wanted = [name] if isinstance(name, str) and name in names and action != "relabel" else names
    best: tuple[float, BaseGeometry, str] | None = None
    for own in wanted:
        index = names.index(own)
        rule = rule_of(learning, index, one.source.info.kind)
        found = object_at(preview, int(one.id), x / one.scale, y / one.scale, index, threshold, rule.rule)
        if found is not None and (best is None or found.probability > best[0]):
            best = found.probability, found.polygon, own
    if best is None:
        raise LabelError("the preview shows no object here")
    return best[1], best[2]


def covers_much(label: BaseGeometry, shape: BaseGeometry) -> bool:
    """Whether a label is of the same object as a shape."""
    if not label.area:
        return bool(shape.intersects(label))
    return bool(shapely.intersection(label, shape).area > SAME_OBJECT * min(shape.area, label.area))


def _in_image(geometry: BaseGeometry, scale: float) -> BaseGeometry:
    """A geometry in image px, from working px."""
    return shapely.transform(geometry, lambda xy: xy * scale)


def _feature(
    geometry: BaseGeometry, kind: Kind, name: str | None, source: Origin, **more: Any
) -> dict[str, Any]:
    feature = Label(new_id(), geometry, kind, name, source=source).feature()
    feature["properties"] |= more
    return feature

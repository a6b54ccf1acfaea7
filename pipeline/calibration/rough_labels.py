"""Outlines of objects of which only a point or a box is known: a click on each cell is enough to teach.

The typical radius of points is that of `blobs`. At first, discs of that radius
are the objects, without their rims. The model learns from them, says what near a point is object where it is sure, and
learns again; what is nearest to a point stays object, what is far from all of them background. Of a box, it is the
ellipse in it, and what lies outside all boxes is background; each object is cut out at the probability at which it
touches the sides of its box best [1]_. Points and boxes of a picture that was cut into patches
are known as a whole, also beside the patches that they reach into.

References
----------
.. [1] Lempitsky et al., Image segmentation with a bounding box prior, ICCV 2009: the sides of a box are tight.
"""

from __future__ import annotations

import logging
import zipfile
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.support.blobs import Blobs, blobs_of_classes
from fewscope.connectors.support.support_set import BOX, POINT, RoughMark, SupportSet, rough_marks
from fewscope.errors import OutputError
from fewscope.model.finetune import one_thread
from fewscope.pipeline.predictor import Model, squeeze_single_class

log = logging.getLogger(__name__)

POINT_INNER, BOX_INNER = 0.4, 0.6
"""Radii within which pixels are object whatever the model says; of boxes, half of their sides."""

POINT_OUTER, GIVEN_OUTER = 3.0, 1.6
"""Radii beyond which pixels are background: where the radius is estimated, many objects are larger."""

FIRST_INNER, FIRST_OUTER = 0.8, 1.2
"""The same before the model has said anything."""

BOX_MARGIN = 1
"""px around a box that may belong to its object: boxes are rounded."""

LEVELS = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, 2.5, 3.0)
"""Logits at which the object in a box may be cut out; of those that fit equally, the first."""

SURE = 0.6
"""Probability from which a pixel near a point counts as object; below one minus this, it is background."""

SAVED_AS = "outlines"

ROUNDS = 3
"""How often the model learns and says again what is object, where time allows."""


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """What lies near the rough objects of a patch.

    Attributes
    ----------
    seed : NDArray[np.int64]
        (H, W) number of the nearest rough object that reaches there, from 1; 0 where none does.
    value : NDArray[np.uint8]
        (H, W) its class.
    distance : NDArray[np.float32]
        (H, W) from its middle, in radii.
    inner, open : NDArray[np.bool_]
        (H, W) what is certainly of it, and what may be.
    cut : frozenset of int
        Numbers of those whose middle is not labelled in the patch.
    boxes : dict of int to RoughMark
        Those of which a box is known, by their numbers.
    """

    seed: NDArray[np.int64]
    value: NDArray[np.uint8]
    distance: NDArray[np.float32]
    inner: NDArray[np.bool_]
    open: NDArray[np.bool_]
    cut: frozenset[int]
    boxes: dict[int, RoughMark]


def outline_rough_objects(
    support: SupportSet, model: Model, rounds: int = ROUNDS, radius: float | None = None
) -> SupportSet:
    """The support set with outlines of all its objects; as it is if all have one.

    Its digest stays that of what was labelled, from which the outlines follow, and of a given radius.

    Parameters
    ----------
    model : Model
        Learns from what is known, and says what of the rest is object.
    rounds : int
        How often.
    radius : float | None
        Typical radius of the objects that are marked by points, px; None to estimate it for each class.
    """
    if support.rough is None:
        return support
    blobs = blobs_of_classes(support, radius)
    near = [_near(support, k, blobs) for k in range(len(support.images))]
    labels = np.stack([_first_labels(support, k, one) for k, one in enumerate(near)])
    with one_thread():
        for _ in range(rounds):
            features = model.encode(support.images, squeeze_single_class(_by_class(support, labels)))
            found = model.predict(support.images, features)
            labels = np.stack([_settled(labels[k], near[k], found[k]) for k in range(len(near))])
    instances = np.zeros(labels.shape, np.int32)
    for k, one in enumerate(near):
        labels[k], instances[k] = _whole_objects(support, k, one, labels[k])
    return _outlined(support, labels, instances, blobs, radius)


def keep_outlines(work: WorkDir, support: SupportSet) -> None:
    """Keep inferred outlines with a run, so that it goes on with the same, on another kind of processor too."""
    if support.labelled and support.instances is not None:
        digest = np.frombuffer(support.labelled.encode(), np.uint8)
        work.save_arrays(SAVED_AS, labels=support.labels, instances=support.instances, digest=digest)


def kept_outlines(work: WorkDir, support: SupportSet, radius: float | None = None) -> SupportSet | None:
    """A support set with the outlines that were kept for it, and for a given radius; None where there are none.

    Raises
    ------
    OutputError
        The output folder does not answer.
    """
    if support.rough is None:
        return None
    try:
        with output_errors(work.out):
            arrays = work.load_arrays(SAVED_AS)
        digest = arrays["digest"].tobytes().decode()
    except OutputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):  # damaged
        return None
    if digest != _digest(support, radius):
        return None
    return _outlined(
        support, arrays["labels"], arrays["instances"], blobs_of_classes(support, radius), radius
    )


def _digest(support: SupportSet, radius: float | None) -> str:
    """Of all from which outlines follow."""
    assert support.rough is not None
    is_used = radius is not None and (support.rough == POINT).any()
    return f"{support.digest()} of radius {radius:.6g}" if is_used else support.digest()


def _outlined(
    support: SupportSet,
    labels: NDArray[np.uint8],
    instances: NDArray[np.int32],
    blobs: dict[int, Blobs],
    radius: float | None,
) -> SupportSet:
    return replace(
        support,
        labels=labels,
        instances=instances,
        rough=None,
        marks=(),
        labelled=_digest(support, radius),
        assumptions=(*support.assumptions, *_told(support, blobs)),
    )


def _by_class(support: SupportSet, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`SupportSet.labels_by_class` of other labels."""
    return replace(support, labels=labels, instances=None, rough=None, marks=()).labels_by_class


def _marks_of(support: SupportSet, k: int) -> dict[int, RoughMark]:
    """Points and boxes of a patch by their numbers: as a whole where that is known, else what the patch holds."""
    assert support.rough is not None
    assert support.instances is not None
    shown = rough_marks(support.labels[k], support.instances[k], support.rough[k], k)
    whole = [mark for mark in support.marks if mark.patch == k]
    return {mark.number: mark for mark in (*shown, *whole)}


def _near(support: SupportSet, k: int, blobs: dict[int, Blobs]) -> _Near:
    assert support.rough is not None
    labels, rough = support.labels[k], support.rough[k]
    row, col = np.indices((PATCH_SIZE, PATCH_SIZE), np.float32)
    distance = np.full(labels.shape, np.inf, np.float32)
    seed = np.zeros(labels.shape, np.int64)
    inner = np.zeros(labels.shape, bool)
    free = (labels == 0) | (rough > 0)  # not labelled as something else, nor unlabelled
    marks, cut = _marks_of(support, k), set()
    values = np.zeros(max(marks, default=0) + 1, np.uint8)
    responses = {value: blob.response(support.images[k]) for value, blob in blobs.items()}
    for number, mark in marks.items():
        middle, centre = (mark.top + mark.bottom - 1) / 2, (mark.left + mark.right - 1) / 2
        if mark.kind == POINT:
            if mark.value not in blobs:
                continue
            blob = blobs[mark.value]
            if 0 <= middle < PATCH_SIZE and 0 <= centre < PATCH_SIZE:  # what lies elsewhere is not seen here
                middle, centre = blob.middle(responses[mark.value], middle, centre)
            half = np.array([blob.radius] * 2)
            core, reach = POINT_INNER, None
        else:
            half = np.array([(mark.bottom - mark.top) / 2, (mark.right - mark.left) / 2])
            core, reach = BOX_INNER, half + BOX_MARGIN
        values[number] = mark.value
        if not (0 <= middle < PATCH_SIZE and 0 <= centre < PATCH_SIZE and free[int(middle), int(centre)]):
            cut.add(number)
        apart = np.sqrt(((row - middle) / half[0]) ** 2 + ((col - centre) / half[1]) ** 2)
        if reach is None:
            reached = apart < (GIVEN_OUTER if blob.is_given else POINT_OUTER)
        else:
            reached = (np.abs(row - middle) <= reach[0]) & (np.abs(col - centre) <= reach[1])
        closer = reached & (apart < distance)
        distance[closer], seed[closer] = apart[closer], number
        inner[closer] = apart[closer] <= core
    boxes = {number: mark for number, mark in marks.items() if mark.kind == BOX}
    return _Near(
        seed, values[seed], distance, inner & free, (seed > 0) & free & ~inner, frozenset(cut), boxes
    )


def _first_labels(support: SupportSet, k: int, near: _Near) -> NDArray[np.uint8]:
    assert support.rough is not None
    labels = support.labels[k].copy()
    labels[support.rough[k] > 0] = 0
    labels[near.open & (near.distance < FIRST_OUTER)] = IGNORE_LABEL
    first = near.open & (near.distance <= FIRST_INNER)
    labels[first] = near.value[first]
    labels[near.inner] = near.value[near.inner]
    return labels


def _settled(labels: NDArray[np.uint8], near: _Near, found: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Labels where what is open is what the model, (C, H, W), is sure of."""
    index = np.maximum(near.value.astype(np.int64) - 1, 0)
    own = _fitted_to_boxes(np.take_along_axis(found, index[None], axis=0)[0], near)
    settled = labels.copy()
    settled[near.open] = np.where(
        own >= SURE, near.value, np.where(own < 1 - SURE, np.uint8(0), np.uint8(IGNORE_LABEL))
    )[near.open]
    return settled


def _fitted_to_boxes(own: NDArray[np.float32], near: _Near) -> NDArray[np.float32]:
    """Probability of the nearest object, (H, W), moved by the level at which that object touches its box best."""
    if not near.boxes:
        return own
    logit = np.log(own.clip(1e-4, 1 - 1e-4)) - np.log1p(-own.clip(1e-4, 1 - 1e-4))
    seeds = np.where(near.inner | near.open, near.seed, 0)
    for number, window in enumerate(ndimage.find_objects(seeds), start=1):
        if window is None or number not in near.boxes:
            continue
        cell, mark = seeds[window] == number, near.boxes[number]
        inner = near.inner[window] & cell
        top, left = (side.start for side in window)
        box = np.array([mark.top - top, mark.left - left, mark.bottom - top, mark.right - left])
        box = np.clip(box, np.tile([-top, -left], 2), np.tile([PATCH_SIZE - top, PATCH_SIZE - left], 2))
        fits = [_fit(cell & (inner | (logit[window] >= level)), inner, box) for level in LEVELS]
        logit[window][cell] -= LEVELS[int(np.argmax(fits))]
    moved: NDArray[np.float32] = 1 / (1 + np.exp(-logit))
    return moved


def _fit(inside: NDArray[np.bool_], inner: NDArray[np.bool_], box: NDArray[np.float64]) -> float:
    """IoU of a box (top, left, bottom, right) and the box around an object, (H, W): the pieces of its inner part."""
    pieces, n = ndimage.label(inside)
    if n > 1 and inner.any():
        inside = np.isin(pieces, np.unique(pieces[inner]))
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return 0.0
    found = np.array([rows[0], cols[0], rows[-1] + 1, cols[-1] + 1])
    shared = np.prod(np.maximum(0, np.minimum(found, box)[2:] - np.maximum(found, box)[:2]))
    union = np.prod(found[2:] - found[:2]) + np.prod(box[2:] - box[:2]) - shared
    return float(shared / union)


def _whole_objects(
    support: SupportSet, k: int, near: _Near, labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Labels and objects: each rough object is what is connected with its inner part; the rest is not labelled.

    Of one that is cut so that its inner part is elsewhere, it is the largest piece.
    """
    assert support.rough is not None
    assert support.instances is not None
    labels, objects = labels.copy(), np.where(support.rough[k] > 0, 0, support.instances[k])
    objects = objects.astype(np.int32)
    is_rough = (near.inner | near.open) & (labels == near.value) & (labels > 0)
    first = int(support.instances[k].max())
    for number, box in enumerate(ndimage.find_objects(np.where(is_rough, near.seed, 0)), start=1):
        if box is None:
            continue
        own = is_rough[box] & (near.seed[box] == number)
        pieces, _ = ndimage.label(own)
        kept = np.unique(pieces[own & near.inner[box]])
        if not kept.size and number in near.cut and own.any():
            kept = np.array([np.bincount(pieces[own]).argmax()])
        whole = own & np.isin(pieces, kept[kept > 0])
        objects[box][whole] = first + number
        labels[box][own & ~whole] = IGNORE_LABEL
    return labels, objects


def _told(support: SupportSet, blobs: dict[int, Blobs]) -> list[str]:
    """What the report says of it."""
    assert support.rough is not None
    told = []
    for value, name in enumerate(support.class_names, start=1):
        kinds = {kind for kind in (POINT, BOX) if ((support.labels == value) & (support.rough == kind)).any()}
        if POINT in kinds:
            radius = blobs[value].radius
            length = f"{radius:.3g} px"
            if support.mpp:
                length += f", {radius * support.mpp:.3g} um"
            how = (
                f"the given typical radius of {length}"
                if blobs[value].is_given
                else f"a typical radius of {length}, estimated from the points (--object-radius-um states another)"
            )
            told.append(
                f"Class {name}: objects were marked by points. Their outlines were inferred, with {how}, and estimates "
                "of quality compare with these."
            )
        if BOX in kinds:
            told.append(
                f"Class {name}: objects were marked by boxes. Their outlines were inferred, and estimates of quality "
                "compare with these."
            )
    return told

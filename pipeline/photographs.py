"""Segmenting a folder of ordinary photographs: masks, overlays, COCO's JSON, a contact sheet, and a ranking.

A photograph is resized to 224x224 as FSS-1000's images are, segmented in one piece, and its probability resized back.
Its **quality** is the IoU that the probabilities themselves expect of the mask: the sum of the probability over the
mask, divided by the area of the mask and the sum outside of it. It ranks results so that the doubtful ones come first;
it is no measurement, as a network can be sure and wrong. The **estimated IoU** is that of held-out supports, moved by
how the expected IoU of the photographs differs from theirs (`pipeline.calibration.expected_iou`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from fewscope.connectors.photographs import read_photograph, resize_image
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SourceError
from fewscope.pipeline.calibration.expected_iou import compare_with_source
from fewscope.pipeline.calibration.intervals import moved_estimate
from fewscope.pipeline.calibration.leave_one_out import LeaveOneOut, score_held_out
from fewscope.pipeline.calibration.model_selection import select_encoding
from fewscope.pipeline.calibration.rough_labels import outline_rough_objects
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.report.drawing import FOUND, outlined

log = logging.getLogger(__name__)

LIST = "photographs.json"

ENCODER_SHARE = 0.5
"""Weight of an encoder's read-out in the output, unless held-out supports clearly say otherwise."""

MIN_OBJECT_SHARE = 1e-3
"""Smaller connected pieces are no objects of ``coco.json``, as a share of the photograph."""

OVERLAY_SIDE = 1024
"""Longer side of an overlay, px, at most."""

CELL, COLUMNS = 200, 6
"""Side of a picture of the contact sheet, px, and pictures in a row."""

SAMPLE = 64
"""Photographs, evenly spread over the folder, that the estimated IoU is moved by."""

HEAD = 26
"""Height of the line above them, px."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """One segmented photograph.

    Attributes
    ----------
    file : str
        Path of the photograph.
    name : str
        Stem of its outputs, unique.
    share : float
        Share of its area that is object.
    quality : float
        IoU that the probabilities expect, 0 to 1.
    seconds : float
        For reading, segmenting and writing it.
    """

    file: str
    name: str
    width: int
    height: int
    share: float
    n_objects: int
    quality: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class PhotographModel:
    """A model that has learned a support set of photographs.

    Attributes
    ----------
    threshold : float
        Smallest probability of an object pixel.
    held_out : LeaveOneOut | None
        The supports, each predicted from the others; None where none can be held out.
    labels : np.ndarray
        (K, 224, 224) uint8, of the supports.
    adaptation : str
        What was adapted, in words.
    assumptions : tuple[str, ...]
        Of the support set, one sentence each: also of which objects the outlines were inferred.
    """

    model: Model
    features: Any
    threshold: float
    held_out: LeaveOneOut | None
    labels: np.ndarray
    adaptation: str
    assumptions: tuple[str, ...] = ()

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Probability, float32 (224, 224), of a whole photograph (H, W, 3) uint8."""
        return np.asarray(self.model.predict(resize_image(image)[None], self.features)[0, 0])

    def estimated_iou(self, probabilities: Sequence[np.ndarray]) -> float | None:
        """Estimated mean IoU of photographs, from the probabilities (224, 224) of some of them.

        None where no support can be held out, or hardly anything was found.
        """
        if self.held_out is None or not probabilities:
            return None
        found, of_supports = np.stack(probabilities), self.held_out.probabilities
        known = np.ones(found.shape, bool)
        expected = compare_with_source(of_supports, self.labels, found, known, self.threshold)
        if expected is None or expected.change is None:
            return None
        return moved_estimate(self.held_out.mean_iou, expected.change)


def learn(
    model: Model, support: SupportSet, seconds: float, threshold: float | None = None
) -> PhotographModel:
    """Encode a support set as a job does; of objects that are only in boxes, the outlines are inferred first.

    Parameters
    ----------
    seconds : float
        Time budget of the adaptation on one core, s; 0 for none.
    threshold : float | None
        Smallest probability of an object pixel; None to choose it by leave-one-out.
    """
    support = outline_rough_objects(support, model)
    labels = support.labels[None]
    encoding = select_encoding(model, support.images, labels, None, seconds, encoder_share=ENCODER_SHARE)
    (held_out,) = encoding.held_out
    scores = None if held_out is None else score_held_out(held_out, support.labels, threshold)
    chosen = threshold if threshold is not None else scores.threshold if scores else 0.5
    return PhotographModel(
        model, encoding.features, chosen, scores, support.labels, str(encoding), support.assumptions
    )


def quality_of(probability: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a mask that the probabilities expect (see the module); 0 for an empty one, unless nothing is probable.

    >>> quality_of(np.array([1.0, 0.5, 0.0, 0.5]), np.array([True, True, False, False]))
    0.6
    """
    inside = float(probability[mask].sum())
    union = float(mask.sum()) + float(probability[~mask].sum())
    if not mask.any() and union < 0.5:
        return 1.0
    return inside / union if union else 1.0


def segment_photographs(
    files: Sequence[Path],
    names: Sequence[str],
    learned: PhotographModel,
    class_name: str,
    out: Path,
    on_unreadable: Callable[[SourceError], None],
) -> tuple[list[Photograph], float | None]:
    """Segment photographs and write everything into a folder.

    Parameters
    ----------
    files, names : Sequence[Path], Sequence[str]
        Photographs, and unique names for their outputs.
    class_name : str
        The category of ``coco.json``.
    out : Path
        For ``masks/NAME.png``, ``overlays/NAME.jpg``, ``coco.json``, ``contact.jpg`` and ``photographs.json``.
    on_unreadable : Callable[[SourceError], None]
        Called for each photograph that cannot be read; it is left out.

    Returns
    -------
    The segmented photographs, and their estimated mean IoU (`PhotographModel.estimated_iou`).
    """
    for folder in ("masks", "overlays"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    done: list[Photograph] = []
    sample: list[np.ndarray] = []
    sampled = set(np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int).tolist())
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for place, (file, name) in enumerate(zip(files, names, strict=True)):
        began = time.perf_counter()
        try:
            image = read_photograph(file)
        except SourceError as error:
            on_unreadable(error)
            continue
        small = learned.predict(image)
        if place in sampled:
            sample.append(small)
        size = image.shape[1], image.shape[0]
        probability = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))
        mask = probability >= learned.threshold
        _save(Image.fromarray(255 * mask.astype(np.uint8)), out / "masks" / f"{name}.png")
        scale = min(1.0, OVERLAY_SIDE / max(image.shape[:2]))
        overlay = outlined(image, mask, scale, pen=2.5, colours=(FOUND,))
        _save(Image.fromarray(overlay), out / "overlays" / f"{name}.jpg")
        height, width = mask.shape
        coco["images"].append({"id": len(done) + 1, "file_name": file.name, "height": height, "width": width})
        objects = list(_objects(mask, len(done) + 1, len(coco["annotations"]) + 1))
        coco["annotations"] += objects
        seconds = time.perf_counter() - began
        done.append(
            Photograph(
                str(file),
                name,
                width,
                height,
                float(mask.mean()),
                len(objects),
                quality_of(probability, mask),
                seconds,
            )
        )
    categories = [{"id": 1, "name": class_name, "supercategory": ""}]
    _write(out / "coco.json", json.dumps(coco | {"categories": categories}))
    if done:
        contact_sheet(ranked(done), out)
    estimate = learned.estimated_iou(sample)
    facts = {
        "class": class_name,
        "threshold": learned.threshold,
        "estimated_iou": estimate,
        "iou_held_out": learned.held_out and learned.held_out.mean_iou,
        "adaptation": learned.adaptation,
        "assumptions": learned.assumptions,
        "photographs": [asdict(photograph) for photograph in done],
    }
    _write(out / LIST, json.dumps(facts, indent=1))
    return done, estimate


def ranked(photographs: Sequence[Photograph]) -> list[Photograph]:
    """The most doubtful first."""
    return sorted(photographs, key=lambda p: (p.quality, p.name))


def _objects(mask: np.ndarray, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """COCO's annotations of the connected objects of a mask (H, W)."""
    labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
    smallest = MIN_OBJECT_SHARE * mask.size
    number = first_id
    for i, box in enumerate(ndimage.find_objects(labels, n), start=1):
        inside = labels[box] == i
        area = int(inside.sum())
        if area < smallest:
            continue
        rows, cols = box
        whole = np.zeros(mask.shape, bool)
        whole[box] = inside
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "area": area,
            "bbox": [cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start],
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(whole)},
        }
        number += 1


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, zeros first.

    >>> run_lengths(np.array([[0, 1], [1, 1]], bool))
    [1, 3]
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def contact_sheet(photographs: Sequence[Photograph], out: Path) -> None:
    """Write ``contact.jpg``: the overlays of a folder in the given order, with name, quality and time."""
    from PIL import ImageDraw

    text = 30
    rows = -(-len(photographs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 8) + 8, HEAD + rows * (CELL + text + 8) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    title = f"{len(photographs)} photographs, the most doubtful first. Line: outline of what was found. "
    title += "Quality: the IoU, 0 to 1, that its own probabilities expect"
    pen.text((8, 10), title, fill=(27, 35, 48))
    for i, photograph in enumerate(photographs):
        x, y = 8 + (i % COLUMNS) * (CELL + 8), 8 + HEAD + (i // COLUMNS) * (CELL + text + 8)
        with Image.open(out / "overlays" / f"{photograph.name}.jpg") as overlay:
            overlay.thumbnail((CELL, CELL))
            sheet.paste(overlay, (x + (CELL - overlay.width) // 2, y + (CELL - overlay.height) // 2))
        pen.text(
            (x, y + CELL + 2), photograph.name[:32].encode("ascii", "replace").decode(), fill=(27, 35, 48)
        )
        facts = f"quality {photograph.quality:.2f}, {1000 * photograph.seconds:.0f} ms"
        pen.text((x, y + CELL + 14), facts, fill=(86, 97, 114))
    _save(sheet, out / "contact.jpg")


def _save(picture: Image.Image, path: Path) -> None:
    options: dict[str, Any] = (
        {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 90}
    )
    with atomic_file(str(path)) as temporary, open(temporary, "wb") as file:
        picture.save(file, **options)


def _write(path: Path, text: str) -> None:
    with atomic_file(str(path)) as temporary:
        Path(temporary).write_text(text)

"""Boxes around objects, written as other programs write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Box:
    """A box of a class: edges in px."""

    name: str
    left: int
    top: int
    right: int
    bottom: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of its pixels."""
        return np.s_[self.top : self.bottom, self.left : self.right]


Labelled = Mapping[str, tuple[np.ndarray, Sequence[Box]]]
"""Pictures (H, W, 3) and their boxes by the stem of their files."""


def save_pictures(folder: Path, labelled: Labelled) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, (image, _) in labelled.items():
        Image.fromarray(image).save(folder / f"{stem}.png")


def write_coco(folder: Path, labelled: Labelled) -> None:
    """As Roboflow exports detections: objects without a segmentation."""
    save_pictures(folder, labelled)
    names = sorted({box.name for _, boxes in labelled.values() for box in boxes})
    images, annotations = [], []
    for k, (stem, (image, boxes)) in enumerate(labelled.items()):
        images.append(
            {"id": k, "file_name": f"{stem}.png", "height": image.shape[0], "width": image.shape[1]}
        )
        for box in boxes:
            edges = [box.left, box.top, box.right - box.left, box.bottom - box.top]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": k,
                    "category_id": names.index(box.name),
                    "bbox": edges,
                    "segmentation": [],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def write_labelme(folder: Path, labelled: Labelled) -> None:
    """A JSON file for each picture, with rectangles."""
    save_pictures(folder, labelled)
    for stem, (_, boxes) in labelled.items():
        shapes = [
            {
                "label": box.name,
                "points": [[box.right, box.top], [box.left, box.bottom]],
                "shape_type": "rectangle",
            }
            for box in boxes
        ]
        (folder / f"{stem}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{stem}.png"}))


def yolo_line(index: int, box: Box, image: np.ndarray) -> str:
    """``class cx cy w h``."""
    height, width = image.shape[:2]
    middle = (box.left + box.right) / 2 / width, (box.top + box.bottom) / 2 / height
    sides = (box.right - box.left) / width, (box.bottom - box.top) / height
    return f"{index} " + " ".join(f"{value:.6f}" for value in (*middle, *sides))


def write_yolo(folder: Path, labelled: Labelled) -> None:
    """As Ultralytics wants it: images/, labels/ and data.yaml."""
    save_pictures(folder / "images", labelled)
    (folder / "labels").mkdir()
    names = sorted({box.name for _, boxes in labelled.values() for box in boxes})
    for stem, (image, boxes) in labelled.items():
        lines = [yolo_line(names.index(box.name), box, image) for box in boxes]
        (folder / "labels" / f"{stem}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images\nnc: {len(names)}\nnames: {json.dumps(names)}\n"
    )


def write_voc(folder: Path, labelled: Labelled) -> None:
    """As LabelImg writes it: an XML file beside each picture."""
    save_pictures(folder, labelled)
    for stem, (image, boxes) in labelled.items():
        objects = "".join(
            f"<object><name>{box.name}</name><pose>Unspecified</pose><difficult>{k % 2}</difficult><bndbox>"
            f"<xmin>{box.left}</xmin><ymin>{box.top}</ymin><xmax>{box.right}</xmax><ymax>{box.bottom}</ymax></bndbox></object>"
            for k, box in enumerate(boxes)
        )
        (folder / f"{stem}.xml").write_text(
            f'<annotation verified="yes"><folder>x</folder><filename>{stem}.png</filename><size><width>{image.shape[1]}'
            f"</width><height>{image.shape[0]}</height><depth>3</depth></size>{objects}</annotation>"
        )


FORMATS: dict[str, Callable[[Path, Labelled], None]] = {
    "coco": write_coco,
    "labelme": write_labelme,
    "yolo": write_yolo,
    "voc": write_voc,
}

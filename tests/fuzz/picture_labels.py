"""COCO's and LabelMe's JSON beside pictures, damaged or hostile."""

from __future__ import annotations

import base64
import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.documents import odd_json
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged
from tests.fuzz.workplace import NAMES

SIZE = 224


def _png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _png(np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
COCO = {
    "images": [
        {"id": 0, "file_name": "a.png", "height": SIZE, "width": SIZE},
        {"id": 1, "file_name": "images/b.png"},
    ],
    "categories": [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "ignore"}],
    "annotations": [
        {"image_id": 0, "category_id": 1, "segmentation": [[10, 10, 50, 10, 50, 50]], "iscrowd": 0},
        {
            "image_id": 0,
            "category_id": 1,
            "segmentation": {"size": [SIZE, SIZE], "counts": [9, 40_000, 10_167]},
        },
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [SIZE, SIZE], "counts": "`0P1P6"}},
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 30, 40]},
    ],
}
LABELME = {
    "imagePath": "a.png",
    "imageHeight": SIZE,
    "imageWidth": SIZE,
    "imageData": None,
    "shapes": [
        {"label": "nucleus", "shape_type": "polygon", "points": [[10, 10], [50, 10], [50, 50]], "group_id": 1},
        {"label": "nucleus", "shape_type": "circle", "points": [[99, 99], [120, 99]], "group_id": 1},
        {"label": "nucleus", "shape_type": "rectangle", "points": [[150, 9], [170, 99]], "group_id": None},
        {
            "label": "other",
            "shape_type": "mask",
            "points": [[150, 150], [157, 157]],
            "mask": base64.b64encode(_png(np.eye(8, dtype=bool))).decode(),
        },
    ],
}  # fmt: skip


@st.composite
def picture_labels(draw: st.DrawFn) -> Case:
    files = {"five/a.png": PICTURE, "five/images/b.png": PICTURE, "outside.png": PICTURE}
    if draw(st.integers(0, 9)) == 0:
        files["five/a.png"] = draw(damaged(PICTURE))
    name, labels = draw(st.sampled_from((("_annotations.coco.json", COCO), ("a.json", LABELME))))
    files[f"five/{name}"] = draw(odd_json(labels))
    entry = draw(st.sampled_from(("five", f"five/{name}")))
    return Case(files, entry, {"class_names": draw(st.sampled_from(NAMES))})

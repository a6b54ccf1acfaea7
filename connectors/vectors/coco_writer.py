"""Outlines as COCO's JSON: one image, the whole slide at full resolution."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.outline import Outline, keyhole

IMAGE = 1


def write_coco(
    uri: str, outlines: Iterable[Outline], class_names: Sequence[str], file_name: str, height: int, width: int
) -> None:
    """Write a ``.json`` of COCO; its polygons know no holes: a line leads to each, and back.

    Parameters
    ----------
    file_name, height, width
        Of the image that the coordinates belong to.
    """
    head = {
        "info": {"description": f"Instances in {file_name}, found with Fewscope"},
        "licenses": [],
        "images": [{"id": IMAGE, "file_name": file_name, "height": height, "width": width}],
        "categories": [
            {"id": value, "name": name, "supercategory": ""}
            for value, name in enumerate(class_names, start=1)
        ],
    }
    with output_errors(uri), atomic_file(uri) as path, open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "annotations": [')
        for number, outline in enumerate(outlines):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_annotation(outline)))
        file.write("\n]}\n")


def _annotation(outline: Outline) -> dict[str, Any]:
    left, top, right, bottom = outline.bounds
    return {
        "id": outline.instance,
        "image_id": IMAGE,
        "category_id": outline.value,
        "segmentation": [keyhole(rings).round(2).ravel().tolist() for rings in outline.polygons],
        "area": round(outline.area, 2),
        "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
        "score": outline.probability,
    }

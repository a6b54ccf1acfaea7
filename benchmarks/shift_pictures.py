"""Pictures of a task of `benchmarks.shift`: the patches that were shown, and what methods made of the scenes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.shift_tasks import Patch, Task
from fewscope.pipeline.report.drawing import agreement, outlined

SIDE, GAP, CAPTION = 224, 8, 20
"""Pixels of a cell, between cells, and of the line of text above a row."""


def draw_task(path: Path, task: Task, masks: Mapping[str, np.ndarray]) -> None:
    """Draw a task as a PNG: its patches with outlines, and a row for each scene.

    A row has the scene's first patch with the object outlined, then what each method found of it: right, missed and
    false, in the colours of the report.

    Parameters
    ----------
    masks : Mapping[str, np.ndarray]
        By the name of the method, bool (N, H, W), of the queries of the task in order.
    """
    rows = [("shown", [_truth(patch) for patch in task.support])]
    first = 0
    for n, scene in enumerate(task.scenes, 1):
        shown = next((i for i, patch in enumerate(scene) if patch.mask.any()), 0)
        patch = scene[shown]
        found = [
            agreement(patch.image, patch.mask.astype(np.uint8), m[first + shown]) for m in masks.values()
        ]
        rows.append((f"scene {n}: the object; {'; '.join(masks)}", [_truth(patch), *found]))
        first += len(scene)
    columns = max(len(cells) for _, cells in rows)
    canvas = Image.new(
        "RGB", (columns * (SIDE + GAP) + GAP, len(rows) * (SIDE + CAPTION + GAP) + GAP), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for row, (caption, cells) in enumerate(rows):
        top = GAP + row * (SIDE + CAPTION + GAP)
        pen.text((GAP, top), caption, fill="black", font_size=13)
        for column, cell in enumerate(cells):
            small = Image.fromarray(cell).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(small, (GAP + column * (SIDE + GAP), top + CAPTION))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _truth(patch: Patch) -> np.ndarray:
    return np.asarray(outlined(patch.image, patch.mask.astype(np.uint8), 1))

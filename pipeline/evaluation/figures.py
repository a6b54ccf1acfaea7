"""What an evaluation shows of a class: the queries that were answered best, in the middle and worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.model.episodes.protocol import EpisodeDraw
from fewscope.pipeline.report.drawing import Picture, agreement, outlined, picture


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One query in pictures: "best", "median" or "worst" of its class by the first method."""

    category: str
    rank: str
    query: str
    support: tuple[Picture, ...]
    seen: Picture
    truth: Picture
    found: tuple[tuple[str, float, Picture], ...]  # method, IoU, picture


def draw_examples(
    category: ClassImages,
    methods: Sequence[str],
    iou: Mapping[tuple[str, int, str], float],
    shown: Mapping[tuple[int, str], Sequence[np.ndarray]],
    drawn: Mapping[tuple[int, str], EpisodeDraw],
) -> tuple[Example, ...]:
    """The queries that the first method answered best, in the middle and worst.

    Parameters
    ----------
    iou : of (method, episode, query)
    shown : of (episode, query), the masks (H, W) bool of the methods in their order
    drawn : of (episode, query), whence the support
    """
    images, labels, _ = category.arrays()
    ranked = sorted(shown, key=lambda asked: iou[methods[0], *asked])
    chosen = {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}
    examples = []
    for rank, (episode, key) in chosen.items():
        position = category.keys.index(key)
        image, label = images[position], labels[position]
        support = tuple(_small(outlined(images[i], labels[i], 1), 72) for i in drawn[episode, key].support)
        found = tuple(
            (method, iou[method, episode, key], _small(agreement(image, label, mask)))
            for method, mask in zip(methods, shown[episode, key], strict=True)
        )
        truth = _small(outlined(image, label, 1))
        examples.append(Example(category.name, rank, key, support, _small(image), truth, found))
    return tuple(examples)


def _small(canvas: np.ndarray, side: int = 152) -> Picture:
    """A patch small enough that the page of 240 classes opens."""
    shrunk = Image.fromarray(canvas).resize((side, side), Image.Resampling.LANCZOS)
    return picture(np.asarray(shrunk), PATCH_SIZE, lines=True)

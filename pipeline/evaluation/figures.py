"""Example images of each class: the queries with the best, the median and the worst IoU."""

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
    """One query as images: the "best", "median" or "worst" of its class by the IoU of the first method."""

    category: str
    rank: str
    query: str
    support: tuple[Picture, ...]
    image: Picture
    truth: Picture
    predictions: tuple[tuple[str, float, Picture], ...]  # method, IoU, image


def draw_examples(
    category: ClassImages,
    methods: Sequence[str],
    iou: Mapping[tuple[str, int, str], float],
    masks: Mapping[tuple[int, str], Sequence[np.ndarray]],
    draws: Mapping[tuple[int, str], EpisodeDraw],
) -> tuple[Example, ...]:
    """Draw the queries with the best, the median and the worst IoU of the first method.

    Parameters
    ----------
    iou : Mapping[tuple[str, int, str], float]
        By (method, episode, query)
    masks : Mapping[tuple[int, str], Sequence[np.ndarray]]
        By (episode, query); one mask (H, W) bool per method.
    draws : Mapping[tuple[int, str], EpisodeDraw]
        By (episode, query); support set and query of the episode.
    """
    images, labels, _ = category.arrays()
    ranked = sorted(masks, key=lambda query: iou[methods[0], *query])
    chosen = {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}
    examples = []
    for rank, (episode, query) in chosen.items():
        position = category.keys.index(query)
        image, label = images[position], labels[position]
        support = tuple(
            _small(outlined(images[i], labels[i] == 1, 1), 72) for i in draws[episode, query].support
        )
        predictions = tuple(
            (method, iou[method, episode, query], _small(agreement(image, label, mask)))
            for method, mask in zip(methods, masks[episode, query], strict=True)
        )
        truth = _small(outlined(image, label == 1, 1))
        examples.append(Example(category.name, rank, query, support, _small(image), truth, predictions))
    return tuple(examples)


def _small(canvas: np.ndarray, side: int = 152) -> Picture:
    """An image (H, W, 3) reduced to `side` px, so that a page of 240 classes still opens."""
    shrunk = Image.fromarray(canvas).resize((side, side), Image.Resampling.LANCZOS)
    return picture(np.asarray(shrunk), PATCH_SIZE, lines=True)

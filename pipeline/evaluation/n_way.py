"""C-way episodes: several classes are shown, and each pixel of a query is of one of them or of none.

The network is asked for every class by itself over one encoding of the query (`model.segmenter.Segmenter.predict`), the
largest probability wins, and where none reaches 0.5 it is background: the union of C binary runs. A query shows one of
the classes that were shown. **What else it may show of the others is not labelled**, and counts as wrongly found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.connectors.support.support_set import SupportSet, join_classes
from fewscope.model.episodes.protocol import other_classes, sampled_episodes
from fewscope.model.segmenter import Segmenter
from fewscope.pipeline.calibration.operating_point import threshold_level
from fewscope.pipeline.evaluation.baselines import GrabCut
from fewscope.pipeline.evaluation.runner import Adapted, EvaluationConfig, support_set
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.metrics import Mean, Pixels, compare_masks, mean_over_classes
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.blending import to_uint8

NOTHING = Pixels(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class NWayMetrics:
    """One method with one number of shots on C-way episodes.

    Attributes
    ----------
    class_iou : mean over the classes of the IoU of their pooled pixels; what is wrongly taken for a class in a query
        of another one counts
    fb_iou : of object, whichever class, and background
    by_class : (class, IoU)
    tile_s : seconds per query for all classes together, median
    """

    method: str
    way: int
    shots: int
    n_queries: int
    class_iou: Mean
    fb_iou: float
    by_class: tuple[tuple[str, float], ...]
    tile_s: float


def evaluate_n_way(
    categories: Sequence[ClassImages], method: Model | GrabCut, config: EvaluationConfig, way: int, shots: int
) -> NWayMetrics | None:
    """Ask every class among ``way - 1`` others of its domain; None for GrabCut, which is shown no class.

    Raises
    ------
    ValueError
        A domain has fewer than `way` classes, or a class too few pictures.
    """
    if isinstance(method, GrabCut):
        return None
    by_name = {category.name: category for category in categories}
    of_class = dict.fromkeys(by_name, NOTHING)
    of_any, n_queries, times = NOTHING, 0, []
    for category in categories:
        domain = [other.name for other in categories if other.domain == category.domain]
        images, labels, _ = category.arrays()
        for episode, draw in enumerate(config.draws(category.name, len(images), shots)):
            names = (category.name, *other_classes(category.name, domain, way, episode, config.seed))
            query = list(draw.query)
            shown = [support_set(category, draw.support)]
            shown += [
                _shown_beside(by_name[name], images[query], shots, episode, config.seed) for name in names[1:]
            ]
            began = time.perf_counter()
            probability = predict_classes(method, join_classes(shown), images[query])
            times.append((time.perf_counter() - began) / len(query))
            for maps, label in zip(to_uint8(probability), labels[query], strict=True):
                found = assign_classes(maps, [threshold_level(0.5)] * way)
                n_queries += 1
                of_any += compare_masks(found > 0, label == 1)
                for value, name in enumerate(names, start=1):
                    true = label == 1 if value == 1 else np.zeros_like(label, bool)
                    of_class[name] += compare_masks(found == value, true)
    by_class = tuple((name, pixels.iou) for name, pixels in of_class.items())
    return NWayMetrics(
        method.name,
        way,
        shots,
        n_queries,
        mean_over_classes([iou for _, iou in by_class]),
        of_any.fb_iou,
        by_class,
        float(np.median(times)),
    )


def _shown_beside(
    category: ClassImages, asked: np.ndarray, shots: int, episode: int, seed: int
) -> SupportSet:
    """Support of another class than the one that is asked, without the pictures that are asked: classes share some."""
    images, _, _ = category.arrays()
    queries = {picture.tobytes() for picture in asked}
    apart = [i for i, picture in enumerate(images) if picture.tobytes() not in queries]
    *_, draw = sampled_episodes(category.name, len(apart), shots, episode + 1, 1, seed)
    return support_set(category, [apart[i] for i in draw.support])


def predict_classes(method: Model, support: SupportSet, tiles: np.ndarray) -> np.ndarray:
    """Probability of every class by itself, (N, C, H, W); baselines, which know one class, are taught C times."""
    if isinstance(method, Segmenter | Adapted):
        return method.predict(tiles, method.encode(support.images, support.labels_by_class))
    of_classes = [
        method.predict(tiles, method.encode(support.images, labels))[:, 0]
        for labels in support.labels_by_class
    ]
    return np.stack(of_classes, axis=1)

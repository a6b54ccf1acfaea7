"""N-way episodes: the support set has N classes, and each pixel of a query is assigned to one of them or to none.

The network encodes the query once and predicts every class (`model.segmenter.Segmenter.predict`). The largest
probability wins; below 0.5 a pixel is background. Each query is labelled for one of the N classes only. **Objects of
the other classes that it may contain are not labelled**, and count as false positives.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.connectors.support.joined_classes import join_classes
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.episodes.protocol import other_classes, sampled_episodes
from fewscope.model.segmenter import Segmenter
from fewscope.pipeline.calibration.object_counts import threshold_level
from fewscope.pipeline.evaluation.baselines import GrabCut
from fewscope.pipeline.evaluation.runner import Adapted, EvaluationConfig, support_set
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.metrics import Mean, Pixels, compare_masks, mean_over_classes
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.tiling.blending import to_uint8

NO_PIXELS = Pixels(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class NWayMetrics:
    """One method with one number of shots on N-way episodes.

    Attributes
    ----------
    class_iou : Mean
        Mean over the classes of the IoU of their pooled pixels; false positives in the queries of other classes
        count.
    fb_iou : float
        FB-IoU of the objects of all classes taken together.
    by_class : tuple[tuple[str, float], ...]
        (class, IoU)
    tile_s : float
        Seconds per query for all classes together, median.
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
    """Evaluate every class together with ``way - 1`` others of its domain; None for GrabCut, which has no support.

    Raises
    ------
    ValueError
        A domain has fewer than `way` classes, or a class too few images.
    """
    if isinstance(method, GrabCut):
        return None
    by_name = {category.name: category for category in categories}
    of_class = dict.fromkeys(by_name, NO_PIXELS)
    of_any, n_queries, times = NO_PIXELS, 0, []
    for category in categories:
        domain = [other.name for other in categories if other.domain == category.domain]
        images, labels, _ = category.arrays()
        for episode, draw in enumerate(config.draws(category.name, len(images), shots)):
            names = (category.name, *other_classes(category.name, domain, way, episode, config.seed))
            query = list(draw.query)
            supports = [support_set(category, draw.support)]
            supports += [
                _other_support(by_name[name], images[query], shots, episode, config.seed)
                for name in names[1:]
            ]
            began = time.perf_counter()
            probability = predict_classes(method, join_classes(supports), images[query])
            times.append((time.perf_counter() - began) / len(query))
            for maps, label in zip(to_uint8(probability), labels[query], strict=True):
                predicted = assign_classes(maps, [threshold_level(0.5)] * way)
                n_queries += 1
                known = label != IGNORE_LABEL
                predicted, label = predicted[known], label[known]
                of_any += compare_masks(predicted > 0, label == 1)
                for value, name in enumerate(names, start=1):
                    true = label == 1 if value == 1 else np.zeros_like(label, bool)
                    of_class[name] += compare_masks(predicted == value, true)
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


def _other_support(
    category: ClassImages, queries: np.ndarray, shots: int, episode: int, seed: int
) -> SupportSet:
    """Support set of another class than that of the queries, without the queries: some classes share images."""
    images, _, _ = category.arrays()
    excluded = {query.tobytes() for query in queries}
    usable = [i for i, image in enumerate(images) if image.tobytes() not in excluded]
    *_, draw = sampled_episodes(category.name, len(usable), shots, episode + 1, 1, seed)
    return support_set(category, [usable[i] for i in draw.support])


def predict_classes(method: Model, support: SupportSet, tiles: np.ndarray) -> np.ndarray:
    """Probability of every class, (N, C, H, W) float32, of tiles (N, H, W, 3) uint8; baselines are fitted C times."""
    if isinstance(method, Segmenter | Adapted):
        return method.predict(tiles, method.encode(support.images, support.labels_by_class))
    of_classes = [
        method.predict(tiles, method.encode(support.images, labels))[:, 0]
        for labels in support.labels_by_class
    ]
    return np.stack(of_classes, axis=1)

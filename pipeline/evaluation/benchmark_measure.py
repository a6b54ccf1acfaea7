"""Measurements of a benchmark: runs on a data set, for several seeds, and the figures of single supports and rounds."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.errors import ConfigError
from fewscope.model.episodes.protocol import exhaustive_episodes
from fewscope.pipeline.evaluation.baselines import GrabCut
from fewscope.pipeline.evaluation.measurement_store import MeasurementStore
from fewscope.pipeline.evaluation.results import class_metrics
from fewscope.pipeline.evaluation.runner import EvaluationConfig, evaluate_class, support_set
from fewscope.pipeline.metrics import Mean, compare_masks, mean_over_classes
from fewscope.pipeline.predictor import Model

log = logging.getLogger(__name__)

SHARES = (0.95, 0.9, 0.8, 0.7)
"""Bounds of IoU in table 6."""


@dataclass(frozen=True, slots=True)
class _ClassScore:
    """A run with one number of shots and one seed on one class: its metrics (a) and (b)."""

    category: str
    domain: str
    shots: int
    n_queries: int
    image_iou: float
    class_iou: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A run with one number of shots on one data set.

    Attributes
    ----------
    image_iou : Mean
        (a), mean over seeds per class, then over classes.
    class_iou : Mean
        (b), the same.
    over_seeds : float | None
        Standard deviation of (a) over the seeds; None with one.
    by_class : tuple[tuple[str, str, float], ...]
        (class, domain, (a)).
    """

    image_iou: Mean
    class_iou: Mean
    over_seeds: float | None
    n_classes: int
    n_queries: int
    by_class: tuple[tuple[str, str, float], ...]


def measure(
    classes: Callable[[], Iterator[ClassImages]],
    models: Sequence[Model],
    config: EvaluationConfig,
    seeds: Sequence[int],
    store: MeasurementStore | None = None,
) -> dict[tuple[str, int], Cell]:
    """Evaluate models on the classes of a data set: a cell by (name of the model, shots).

    Parameters
    ----------
    classes : Callable[[], Iterator[ClassImages]]
        Reads the classes, one after the other; those with too few images are left out, and named in the log.
    models : Sequence[Model]
        With names that differ.
    config : EvaluationConfig
        Its seed is replaced by each of `seeds`.
    store : MeasurementStore | None
        Where finished measurements are looked up and kept.

    Raises
    ------
    ConfigError
        No class has enough images.
    """
    found: dict[tuple[str, int, int], list[_ClassScore]] = {}
    most = max(config.shots)
    for category in classes():
        n = len(category.images)
        if n <= most:
            log.warning(
                "%s is left out: it has %d images; %d supports and a query need more", category.name, n, most
            )
            continue
        for seed in seeds:
            of_class = _class_scores(category, models, replace(config, seed=seed), store)
            for name, scores in of_class.items():
                for score in scores:
                    found.setdefault((name, score.shots, seed), []).append(score)
    if not found:
        raise ConfigError(f"no class has the {most + 1} images that {most} supports and a query need")
    return {
        (model.name, shots): _cell([found[model.name, shots, seed] for seed in seeds])
        for model in models
        for shots in config.shots
        if (model.name, shots, seeds[0]) in found
    }


def _measured(
    store: MeasurementStore | None,
    kind: str,
    category: ClassImages,
    model: str,
    settings: object,
    measure: Callable[[], Any],
) -> Any:
    """What is kept of these arguments, or else measured; see `MeasurementStore.measured`."""
    return measure() if store is None else store.measured(kind, category, model, settings, measure)


def _class_scores(
    category: ClassImages, models: Sequence[Model], config: EvaluationConfig, store: MeasurementStore | None
) -> dict[str, list[_ClassScore]]:
    """Scores on one class by the name of the model."""
    found: dict[str, list[_ClassScore]] = {}
    for model in models:  # one after the other, so that a stopped command loses one at most
        measure = partial(_scores, category, model, config)
        values = _measured(store, "metrics", category, model.name, config, measure)
        found[model.name] = [_ClassScore(*of_shots) for of_shots in values]
    return found


def _scores(
    category: ClassImages, model: Model, config: EvaluationConfig
) -> list[tuple[str, str, int, int, float, float]]:
    """What `_ClassScore` holds, for every number of shots."""
    evaluated = evaluate_class(category, [model], config)
    return [
        (of.category, of.domain, of.shots, of.n_queries, of.image_iou, of.pixels.iou)
        for of in class_metrics(evaluated.query_results)
    ]


def _cell(of_seeds: Sequence[Sequence[_ClassScore]]) -> Cell:
    image = np.array([[c.image_iou for c in classes] for classes in of_seeds])
    pooled = np.array([[c.class_iou for c in classes] for classes in of_seeds])
    first = of_seeds[0]
    return Cell(
        mean_over_classes(image.mean(0).tolist()),
        mean_over_classes(pooled.mean(0).tolist()),
        float(image.mean(1).std(ddof=1)) if len(of_seeds) > 1 else None,
        len(first),
        sum(c.n_queries for c in first),
        tuple((c.category, c.domain, float(iou)) for c, iou in zip(first, image.mean(0), strict=True)),
    )


@dataclass(frozen=True, slots=True)
class Labelling:
    """Table 6: images of all classes labelled by a method.

    Attributes
    ----------
    seconds : float
        For all of them, with the support sets.
    shares : tuple[float, ...]
        Share of the images with an IoU of at least each of `SHARES`.
    """

    method: str
    n_images: int
    seconds: float
    mean_iou: float
    shares: tuple[float, ...]


def label_images(
    classes: Callable[[], Iterator[ClassImages]],
    methods: Sequence[Model | GrabCut],
    n_images: int,
    n_classes: int,
    shots: int,
    seed: int,
    store: MeasurementStore | None = None,
) -> list[Labelling]:
    """Label about `n_images` images, as many of each class, and measure time and IoU.

    Parameters
    ----------
    n_classes : int
        That `classes` yields.
    store : MeasurementStore | None
        Where finished measurements are looked up and kept, with the seconds that they took.
    """
    each = -(-n_images // n_classes)
    ious: dict[str, list[float]] = {method.name: [] for method in methods}
    seconds = dict.fromkeys(ious, 0.0)
    for category in classes():
        n = len(category.images)
        if n <= shots:
            continue
        order = np.random.default_rng([seed, n]).permutation(n)
        for method in methods:
            done = len(ious[method.name])
            chosen = order[shots:][:each][: n_images - done].tolist()
            if not chosen:
                continue
            label = partial(_label, category, method, order[:shots].tolist(), chosen)
            settings = (os.cpu_count(), shots, seed, len(chosen))
            took, of_class = _measured(store, "labelling", category, method.name, settings, label)
            seconds[method.name] += took
            ious[method.name] += of_class
    return [
        Labelling(
            name,
            len(values),
            seconds[name],
            float(np.mean(values)),
            tuple(float(np.mean(np.array(values) >= bound)) for bound in SHARES),
        )
        for name, values in ious.items()
        if values
    ]


def _label(
    category: ClassImages, method: Model | GrabCut, supports: Sequence[int], queries: list[int]
) -> tuple[float, list[float]]:
    """Seconds to label some images of a class, and the IoU of each."""
    images, labels, _ = category.arrays()
    support = support_set(category, supports)
    began = time.perf_counter()
    if isinstance(method, GrabCut):
        maps = method.predict_in_boxes(images[queries], labels[queries])
    else:
        maps = method.predict(images[queries], method.encode(support.images, support.labels))[:, 0]
    took = time.perf_counter() - began
    return took, [_iou(mask, labels[i]) for mask, i in zip(maps >= 0.5, queries, strict=True)]


def _iou(mask: np.ndarray, label: np.ndarray) -> float:
    """IoU of a mask (H, W) where the label is not void."""
    known = label != IGNORE_LABEL
    return compare_masks(mask[known], label[known] == 1).iou


@dataclass(frozen=True, slots=True, eq=False)
class SupportSpread:
    """Figure 9: one query with every other image of its class as its only support.

    Attributes
    ----------
    query, best, worst : int
        Places in the class.
    ious : tuple[float, float]
        With the best and with the worst support.
    masks : tuple[np.ndarray, np.ndarray]
        (H, W) bool, predicted with both.
    """

    category: ClassImages
    query: int
    best: int
    worst: int
    ious: tuple[float, float]
    masks: tuple[np.ndarray, np.ndarray]


def spread_of_supports(
    category: ClassImages, model: Model, store: MeasurementStore | None = None
) -> SupportSpread:
    """The query of a class whose IoU depends most on the support, with its best and its worst."""
    measure = partial(_spread, category, model)
    (query, best, worst), ious, packed = _measured(store, "spread", category, model.name, (), measure)
    shape = category.masks.shape[1:]
    masks = [
        np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=shape[0] * shape[1])
        for text in packed
    ]
    found = tuple(mask.reshape(shape).astype(bool) for mask in masks)
    return SupportSpread(category, query, best, worst, (ious[0], ious[1]), (found[0], found[1]))


def _spread(
    category: ClassImages, model: Model
) -> tuple[tuple[int, int, int], tuple[float, float], tuple[str, str]]:
    """Query, best and worst support; IoU with both; masks predicted with both, packed bits in Base64."""
    images, labels, _ = category.arrays()
    n = len(images)
    ious = np.full((n, n), np.nan)
    masks = np.zeros((n, n, *labels.shape[1:]), bool)
    for k in range(n):
        features: Any = model.encode(images[k : k + 1], labels[k : k + 1])
        others = [i for i in range(n) if i != k]
        for i, maps in zip(others, model.predict(images[others], features), strict=True):
            masks[k, i] = maps[0] >= 0.5
            ious[k, i] = _iou(masks[k, i], labels[i])
    query = int((np.nanmax(ious, 0) - np.nanmin(ious, 0)).argmax())
    best, worst = int(np.nanargmax(ious[:, query])), int(np.nanargmin(ious[:, query]))
    packed = [
        base64.b64encode(np.packbits(masks[support, query]).tobytes()).decode() for support in (best, worst)
    ]
    return (
        (query, best, worst),
        (float(ious[best, query]), float(ious[worst, query])),
        (packed[0], packed[1]),
    )


@dataclass(frozen=True, slots=True)
class Rounds:
    """Figure 11: a class before and after its worst queries were added to the support set.

    Attributes
    ----------
    first, second : float
        Mean image IoU of the same remaining queries.
    """

    category: str
    first: float
    second: float
    n_queries: int


def mine_worst(
    category: ClassImages, model: Model, shots: int, seed: int, store: MeasurementStore | None = None
) -> Rounds | None:
    """Segment a class with K supports, add the K worst queries, and segment the rest again; None if none is left."""
    if len(category.images) <= 2 * shots:
        return None
    measure = partial(_two_rounds, category, model, shots, seed)
    return Rounds(category.name, *_measured(store, "rounds", category, model.name, (shots, seed), measure))


def _two_rounds(category: ClassImages, model: Model, shots: int, seed: int) -> tuple[float, float, int]:
    """What `Rounds` holds, but for the class."""
    images, labels, _ = category.arrays()
    n = len(images)
    draw = next(iter(exhaustive_episodes(category.name, n, n - 1, seed)))
    order = [*draw.query, *draw.support]
    support, rest = order[:shots], order[shots:]

    def ious(chosen: Sequence[int], queries: Sequence[int]) -> np.ndarray:
        shown = list(chosen)
        masks = model.predict(images[list(queries)], model.encode(images[shown], labels[shown]))[:, 0] >= 0.5
        return np.array([_iou(mask, labels[i]) for mask, i in zip(masks, queries, strict=True)])

    before = ious(support, rest)
    worst = set(np.argsort(before, kind="stable")[:shots].tolist())
    left = [i for place, i in enumerate(rest) if place not in worst]
    kept = [value for place, value in enumerate(before) if place not in worst]
    after = ious([*support, *(i for place, i in enumerate(rest) if place in worst)], left)
    return float(np.mean(kept)), float(after.mean()), len(left)

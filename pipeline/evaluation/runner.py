"""Few-shot evaluation of one class: every method gets the same support sets and predicts the same queries.

Only one class is in memory at a time. `evaluate_class` gives a result per support set and per query,
`pipeline.evaluation.results` computes metrics from them, and `pipeline.evaluation.page` writes tables, JSON and HTML.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import ConfigError
from fewscope.model.episodes.protocol import SEED, EpisodeDraw, exhaustive_episodes, sampled_episodes
from fewscope.model.segmenter import Segmenter
from fewscope.model.views import SupportFeatures
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.calibration.boundary_correction import correct_boundaries
from fewscope.pipeline.calibration.intervals import CountRatio
from fewscope.pipeline.calibration.model_selection import SelectedEncoding, select_encoding
from fewscope.pipeline.calibration.object_counts import choose_rule, label_objects
from fewscope.pipeline.calibration.source_match import SourceMatch
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.evaluation.baselines import GrabCut, score_method
from fewscope.pipeline.evaluation.figures import Example, draw_examples
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.metrics import Objects, Pixels, compare_masks, compare_objects
from fewscope.pipeline.plan import candidate_rules, min_object_area_px

Method = predictor.Model | GrabCut
DEFAULTS = SegmentConfig("", "", "")  # objects are separated as a job does by default


class Adapted:
    """A network adapted to every support set as a job adapts it: another scale and fine-tuning, each if it helps.

    Parameters
    ----------
    model : Segmenter
        A network that can be adapted.
    seconds : float
        Time budget of the fine-tuning on one core, s, approximate.

    Raises
    ------
    ValueError
        The network cannot be adapted, or there is no time for it.
    """

    def __init__(self, model: Segmenter, seconds: float) -> None:
        if not model.adapts:
            raise ValueError(f"model {model.name!r} cannot be adapted; leave out --adapt, or use compact")
        if not seconds > 0:
            raise ValueError(
                f"--adapt {seconds:g} leaves no time to adapt; give 30 s or more, or leave it out"
            )
        self.name = f"{model.name}, adapted"
        self.has_depth = predictor.has_depth(model)
        self._model, self._seconds = model, seconds

    def select_encoding(self, support: SupportSet) -> SelectedEncoding:
        """The encoding that a job would select for the support set."""
        images, labels = support.images, support.labels_by_class
        encoding = select_encoding(
            self._model, images, labels, support.instances, self._seconds, depth=self.has_depth
        )
        tiles = np.zeros((0, *images.shape[1:]), np.uint8)  # a job has those of its source
        source = SourceMatch(encoding.features)
        corrected, source = correct_boundaries(self._model, encoding, support, source, tiles)
        return replace(corrected, features=source.features)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> SupportFeatures:
        """Features of the selected encoding of images (K, H, W, 3) uint8, labels (K, H, W); objects are unknown."""
        names = tuple(map(str, range(len(images))))
        support = SupportSet(images, labels, None, names, None, ("object",))
        features: SupportFeatures = self.select_encoding(support).features
        return features

    def predict(self, tiles: np.ndarray, features: SupportFeatures, depth: bool = False) -> np.ndarray:
        """`Segmenter.predict` with the adapted weights."""
        return predictor.predict_maps(self._model, tiles, features, depth)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Which episodes are run.

    Attributes
    ----------
    shots : tuple[int, ...]
        Numbers of support images, each evaluated separately.
    episodes : int | None
        Per class; None: every image of a class is the query of one episode.
    queries : int
        Per episode, if `episodes` is given.
    seed : int
        Seed of the episodes.
    total : int | None
        Episodes of one query each, of all classes together: as many of each class. None: as `episodes` says.
    calibration : bool
        Also run leave-one-out on each support set, as a job does, for the threshold, the estimated IoU with its
        interval, and the rule that separates objects.

    Raises
    ------
    ConfigError
        A number is below 1, or the seed negative.
    """

    shots: tuple[int, ...] = (5,)
    episodes: int | None = None
    queries: int = 5
    seed: int = SEED
    calibration: bool = False
    total: int | None = None

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1:
            shots = " ".join(map(str, self.shots))
            raise ConfigError(f"--shots {shots}: each must be 1 or more; usual values are 1, 3, 5 and 7")
        counts = ("--episodes", self.episodes), ("--queries", self.queries), ("--total-episodes", self.total)
        for name, value in counts:
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value} is not above 0; leave it out to use every image")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is negative; give 0 or more")

    def for_classes(self, n_classes: int) -> EvaluationConfig:
        """The same for so many classes, which share `total`.

        Raises
        ------
        ConfigError
            They cannot share it evenly.
        """
        if self.total is None:
            return self
        each, rest = divmod(self.total, n_classes)
        if rest or not each:
            raise ConfigError(
                f"--total-episodes {self.total} cannot be shared evenly by {n_classes} classes; give "
                f"{n_classes * max(1, each)}"
            )
        return replace(self, episodes=each, queries=1, total=None)

    def draws(self, category: str, n_images: int, shots: int) -> Iterator[EpisodeDraw]:
        """The episodes of a class."""
        if self.episodes is None:
            return exhaustive_episodes(category, n_images, shots, self.seed)
        return sampled_episodes(category, n_images, shots, self.episodes, self.queries, self.seed)


@dataclass(frozen=True, slots=True)
class SupportResult:
    """One method on one support set.

    Attributes
    ----------
    encode_s : float
        Seconds to encode it, without leave-one-out.
    threshold : float | None
        Chosen by leave-one-out; None if that was not run or is impossible.
    estimate, interval : float | None, tuple[float, float] | None
        Mean IoU and its interval, by leave-one-out.
    left_out : tuple[float, ...]
        IoU of each held-out patch.
    rule : str
        "components", "split" or "learned depth", how objects are separated; "" without labelled objects.
    counted_ratio : CountRatio | None
        True over counted objects, by leave-one-out; None without labelled objects.
    """

    method: str
    category: str
    domain: str
    shots: int
    episode: int
    encode_s: float
    threshold: float | None
    estimate: float | None
    interval: tuple[float, float] | None
    left_out: tuple[float, ...]
    rule: str
    counted_ratio: CountRatio | None = None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One method on one query.

    Attributes
    ----------
    at_half : Pixels
        Pixels at the threshold 0.5.
    at_chosen : Pixels | None
        Pixels at the threshold chosen by leave-one-out; None without leave-one-out.
    components, separated : Objects | None
        Objects at the chosen threshold, by connected components and by the rule chosen by leave-one-out; None
        without labelled objects, or without leave-one-out.
    tile_s : float
        Seconds to predict it.
    """

    method: str
    category: str
    domain: str
    shots: int
    episode: int
    query: str
    at_half: Pixels
    at_chosen: Pixels | None
    components: Objects | None
    separated: Objects | None
    tile_s: float


@dataclass(frozen=True, slots=True, eq=False)
class ClassEvaluation:
    """Results of all methods on one class."""

    category: str
    domain: str
    support_results: tuple[SupportResult, ...]
    query_results: tuple[QueryResult, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSupport:
    """A method's features of a support set, and what leave-one-out chose for it.

    Attributes
    ----------
    encode_s : float
        Seconds to encode it, without leave-one-out.
    loo : leave_one_out.LeaveOneOut | None
        Scores of the held-out patches; None without leave-one-out.
    rule : Rule | None
        How objects are separated; None: connected components.
    min_area : int
        Smallest object, px.
    counted_ratio : CountRatio | None
        True over counted objects.
    """

    features: Any
    encode_s: float
    loo: leave_one_out.LeaveOneOut | None
    rule: Rule | None
    min_area: int
    counted_ratio: CountRatio | None = None

    @property
    def threshold(self) -> float:
        """The chosen threshold; 0.5 without leave-one-out."""
        return 0.5 if self.loo is None else self.loo.threshold


def evaluate_class(
    category: ClassImages, methods: Sequence[Method], config: EvaluationConfig
) -> ClassEvaluation:
    """Evaluate all methods on one class.

    Raises
    ------
    ValueError
        The class has too few images for the requested shots.
    """
    images, labels, instances = category.arrays()
    support_results: list[SupportResult] = []
    query_results: list[QueryResult] = []
    masks: dict[tuple[int, str], list[np.ndarray]] = {}  # (episode, query): one mask per method, at 0.5
    drawn: dict[tuple[int, str], EpisodeDraw] = {}
    for shots in config.shots:
        for episode, draw in enumerate(config.draws(category.name, len(images), shots)):
            support = support_set(category, draw.support)
            query = list(draw.query)
            for method in methods:
                encoded = encode_support(method, support, config.calibration)
                support_results.append(
                    _support_result(method, category, shots, episode, encoded, instances is not None)
                )
                began = time.perf_counter()
                predicted = predict(method, images[query], encoded, labels[query])
                tile_s = (time.perf_counter() - began) / len(query)
                for position, maps in zip(query, predicted, strict=True):
                    probability = maps[0]
                    key = category.keys[position]
                    true, known = labels[position] == 1, labels[position] != IGNORE_LABEL
                    objects = None if instances is None else instances[position]
                    query_results.append(
                        QueryResult(
                            method.name,
                            category.name,
                            category.domain,
                            shots,
                            episode,
                            key,
                            compare_masks((probability >= 0.5)[known], true[known]),
                            compare_masks((probability >= encoded.threshold)[known], true[known])
                            if encoded.loo
                            else None,
                            *_objects(maps, objects, encoded),
                            tile_s,
                        )
                    )
                    if shots == max(config.shots):
                        masks.setdefault((episode, key), []).append(probability >= 0.5)
                        drawn[episode, key] = draw
    iou = {
        (r.method, r.episode, r.query): r.at_half.iou for r in query_results if r.shots == max(config.shots)
    }
    examples = draw_examples(category, [method.name for method in methods], iou, masks, drawn)
    return ClassEvaluation(
        category.name, category.domain, tuple(support_results), tuple(query_results), examples
    )


def encode_support(method: Method, support: SupportSet, calibration: bool) -> EncodedSupport:
    """Encode a support set; with `calibration`, choose threshold and rule by leave-one-out as a job does."""
    if isinstance(method, GrabCut):
        return EncodedSupport(None, 0.0, None, None, 0)
    began = time.perf_counter()
    depth = predictor.has_depth(method)
    held_out: list[np.ndarray | None] = [None, None]  # probability and depth
    if isinstance(method, Adapted):
        encoding = method.select_encoding(support)
        features, held_out = encoding.features, [encoding.held_out[0], encoding.depths[0]]
    else:
        features = method.encode(support.images, support.labels)
    encode_s = time.perf_counter() - began
    if calibration and not isinstance(method, Adapted):
        predicted = leave_one_out.predict_held_out(method, support.images, support.labels[None], depth=depth)
        held_out = [*predicted, None][:2]
    loo = score_method(method, held_out[0], support.labels)
    min_area = min_object_area_px(DEFAULTS, support, None)
    rule, ratio = None, None
    if loo is not None and support.instances is not None:
        rule, ratio = choose_rule(
            support,
            loo.probabilities,
            loo.threshold,
            candidate_rules(DEFAULTS, support, None, depth),
            connectivity=DEFAULTS.connectivity,
            min_area=min_area,
            depths=held_out[1],
        )
    return EncodedSupport(features, encode_s, loo, rule, min_area, ratio)


def predict(method: Method, tiles: np.ndarray, encoded: EncodedSupport, labels: np.ndarray) -> np.ndarray:
    """Probability, and depth if objects are separated by it: (N, 1 or 2, H, W) float32 of tiles (N, H, W, 3) uint8.

    The true labels (N, H, W) are for GrabCut, which uses their bounding box.
    """
    if isinstance(method, GrabCut):
        return method.predict_in_boxes(tiles, labels)[:, None]
    return predictor.predict_maps(method, tiles, encoded.features, isinstance(encoded.rule, DepthRule))


def support_set(category: ClassImages, chosen: Sequence[int]) -> SupportSet:
    """Some images of a class, by index, as a support set."""
    images, labels, instances = category.arrays()
    rows = list(chosen)
    return SupportSet(
        images[rows],
        labels[rows],
        None if instances is None else instances[rows],
        tuple(category.keys[i] for i in rows),
        None,
        (category.name,),
    )


def _support_result(
    method: Method,
    category: ClassImages,
    shots: int,
    episode: int,
    encoded: EncodedSupport,
    has_objects: bool,
) -> SupportResult:
    loo = encoded.loo
    rule = "components" if encoded.rule is None else "split"
    if isinstance(encoded.rule, DepthRule):
        rule = "learned depth"
    return SupportResult(
        method.name,
        category.name,
        category.domain,
        shots,
        episode,
        encoded.encode_s,
        loo.threshold if loo else None,
        loo.mean_iou if loo else None,
        loo.interval if loo else None,
        loo.iou if loo else (),
        rule if has_objects and loo else "",
        encoded.counted_ratio if has_objects else None,
    )


def _objects(
    maps: np.ndarray, true: np.ndarray | None, encoded: EncodedSupport
) -> tuple[Objects | None, Objects | None]:
    """Connected components and separated objects against the true ones (H, W); `maps` (1 or 2, H, W) of one query."""
    if true is None:
        return None, None
    settings = encoded.threshold, DEFAULTS.connectivity, encoded.min_area
    components = compare_objects(label_objects(maps[0], settings[0], None, *settings[1:]), true)
    if encoded.loo is None:
        return components, None
    if encoded.rule is None:
        return components, components
    depth = maps[1] if len(maps) > 1 else None
    return components, compare_objects(
        label_objects(maps[0], settings[0], encoded.rule, *settings[1:], depth), true
    )

"""Few-shot classes put to the test: every method learns from the same supports and answers the same queries.

One class after the other, so that memory holds one class: `evaluate_class` gives what was answered,
`pipeline.evaluation.results` makes figures of it, `pipeline.evaluation.page` a page.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewscope.connectors.datasets.class_folders import ClassImages
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.episodes.protocol import SEED, EpisodeDraw, exhaustive_episodes, sampled_episodes
from fewscope.model.segmenter import Segmenter, SupportFeatures, labels_by_class
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.calibration.model_selection import SelectedEncoding, select_encoding
from fewscope.pipeline.calibration.operating_point import choose_rule, label_objects
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.evaluation.baselines import GrabCut, score_method
from fewscope.pipeline.evaluation.figures import Example, draw_examples
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.metrics import Objects, Pixels, compare_masks, compare_objects
from fewscope.pipeline.plan import candidate_rules, min_object_area_px

Method = predictor.Model | GrabCut
AS_RUN = SegmentConfig("", "", "")  # how a job that is told nothing tells objects apart


class Adapted:
    """A segmenter that makes of every support set what a job makes of it: another scale, fine-tuning, if they help.

    Parameters
    ----------
    model : one that adapts
    seconds : of one core that the fine-tuning may take, about
    """

    def __init__(self, model: Segmenter, seconds: float) -> None:
        if not model.adapts:
            raise ValueError(f"model {model.name!r} is not adapted; leave --adapt out, or use compact")
        if seconds <= 0:
            raise ValueError(
                f"--adapt {seconds:g} s leave no time to adapt; give 30 or more, or leave it out"
            )
        self.name = f"{model.name}, adapted"
        self.has_depth = predictor.has_depth(model)
        self._model, self._seconds = model, seconds

    def select_encoding(self, support: SupportSet) -> SelectedEncoding:
        """As a job does."""
        images, labels = support.images, support.labels_by_class
        return select_encoding(
            self._model, images, labels, support.instances, self._seconds, depth=self.has_depth
        )

    def encode(self, images: np.ndarray, labels: np.ndarray) -> SupportFeatures:
        """The features of `select_encoding`, without outlined objects."""
        features: SupportFeatures = select_encoding(
            self._model, images, labels_by_class(labels), None, self._seconds
        ).features
        return features

    def predict(self, tiles: np.ndarray, features: SupportFeatures, depth: bool = False) -> np.ndarray:
        """As `Segmenter.predict`, with the adapted weights."""
        return predictor.predict_maps(self._model, tiles, features, depth)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Which questions are asked.

    Attributes
    ----------
    shots : numbers of support pictures, each asked by itself
    episodes : per class; None: every picture of a class is the query of one episode
    queries : per episode, where `episodes` is given
    calibration : also leave out one support picture at a time, as a job does: the threshold, the estimate of the IoU
        and its interval, and how objects are told apart
    """

    shots: tuple[int, ...] = (5,)
    episodes: int | None = None
    queries: int = 5
    seed: int = SEED
    calibration: bool = False

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f"shots {self.shots} must be 1 or more; usual are 1, 3, 5 and 7")
        for name, value in (("episodes", self.episodes), ("queries", self.queries)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is not above 0; leave it out for every picture")

    def draws(self, category: str, n_pictures: int, shots: int) -> Iterator[EpisodeDraw]:
        """The episodes of a class."""
        if self.episodes is None:
            return exhaustive_episodes(category, n_pictures, shots, self.seed)
        return sampled_episodes(category, n_pictures, shots, self.episodes, self.queries, self.seed)


@dataclass(frozen=True, slots=True)
class SupportResult:
    """What a method made of one support set.

    Attributes
    ----------
    encode_s : seconds to encode it, leave-one-out not included
    threshold : chosen by leave-one-out; None where that was not asked for or cannot be
    estimate, interval : of the mean IoU, by leave-one-out
    left_out : IoU of each patch while it was left out
    rule : how objects are told apart, in words; "" where there are none to tell
    counted_ratio : 95 % interval of true over counted objects, by leave-one-out; None where there are none to tell
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
    counted_ratio: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a method said of one query.

    Attributes
    ----------
    at_half : pixels at the threshold 0.5
    at_chosen : pixels at the threshold chosen by leave-one-out, None without
    components, separated : objects as connected components, and as the rule chosen by leave-one-out tells them apart,
        at the chosen threshold; None where objects are not known, or not chosen
    tile_s : seconds to predict
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
    """All that was asked and answered of one class."""

    category: str
    domain: str
    support_results: tuple[SupportResult, ...]
    query_results: tuple[QueryResult, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSupport:
    features: Any
    encode_s: float
    loo: leave_one_out.LeaveOneOut | None
    rule: Rule | None
    min_area: int
    counted_ratio: tuple[float, float] | None = None

    @property
    def threshold(self) -> float:
        return 0.5 if self.loo is None else self.loo.threshold


def evaluate_class(
    category: ClassImages, methods: Sequence[Method], config: EvaluationConfig
) -> ClassEvaluation:
    """Put one class to all methods.

    Raises
    ------
    ValueError
        The class has too few pictures for the shots that are asked for.
    """
    images, labels, instances = category.arrays()
    support_results: list[SupportResult] = []
    query_results: list[QueryResult] = []
    shown: dict[tuple[int, str], list[np.ndarray]] = {}  # (episode, query): masks of the methods at 0.5
    drawn: dict[tuple[int, str], EpisodeDraw] = {}
    for shots in config.shots:
        for episode, draw in enumerate(config.draws(category.name, len(images), shots)):
            support = support_set(category, draw.support)
            query = list(draw.query)
            for method in methods:
                learned = learn(method, support, config.calibration)
                support_results.append(
                    _support_result(method, category, shots, episode, learned, instances is not None)
                )
                began = time.perf_counter()
                found = predict(method, images[query], learned, labels[query])
                tile_s = (time.perf_counter() - began) / len(query)
                for position, maps in zip(query, found, strict=True):
                    probability = maps[0]
                    key = category.keys[position]
                    true = labels[position] == 1
                    objects = None if instances is None else instances[position]
                    query_results.append(
                        QueryResult(
                            method.name,
                            category.name,
                            category.domain,
                            shots,
                            episode,
                            key,
                            compare_masks(probability >= 0.5, true),
                            compare_masks(probability >= learned.threshold, true) if learned.loo else None,
                            *_objects(maps, objects, learned),
                            tile_s,
                        )
                    )
                    if shots == max(config.shots):
                        shown.setdefault((episode, key), []).append(probability >= 0.5)
                        drawn[episode, key] = draw
    iou = {
        (a.method, a.episode, a.query): a.at_half.iou for a in query_results if a.shots == max(config.shots)
    }
    examples = draw_examples(category, [method.name for method in methods], iou, shown, drawn)
    return ClassEvaluation(
        category.name, category.domain, tuple(support_results), tuple(query_results), examples
    )


def learn(method: Method, support: SupportSet, calibration: bool) -> EncodedSupport:
    """Encode a support set, and ask it by leave-one-out what a job asks."""
    if isinstance(method, GrabCut):
        return EncodedSupport(None, 0.0, None, None, 0)
    began = time.perf_counter()
    depth = predictor.has_depth(method)
    held_out: list[np.ndarray | None] = [None, None]  # the object, and its depth
    if isinstance(method, Adapted):
        encoding = method.select_encoding(support)
        features, held_out = encoding.features, [encoding.held_out[0], encoding.depths[0]]
    else:
        features = method.encode(support.images, support.labels)
    encode_s = time.perf_counter() - began
    if calibration and not isinstance(method, Adapted):
        found = leave_one_out.predict_held_out(method, support.images, support.labels[None], depth=depth)
        held_out = [*found, None][:2]
    loo = score_method(method, held_out[0], support.labels)
    min_area = min_object_area_px(AS_RUN, support, None)
    rule, ratio = None, None
    if loo is not None and support.instances is not None:
        rule, ratio = choose_rule(
            support,
            loo.probabilities,
            loo.threshold,
            candidate_rules(AS_RUN, support, None, depth),
            connectivity=AS_RUN.connectivity,
            min_area=min_area,
            depths=held_out[1],
        )
    return EncodedSupport(features, encode_s, loo, rule, min_area, ratio)


def predict(method: Method, tiles: np.ndarray, learned: EncodedSupport, labels: np.ndarray) -> np.ndarray:
    """Probability of the object, and its depth where objects are told apart by it: (N, 1 or 2, H, W) float32.

    The truth is for GrabCut, which looks at its box.
    """
    if isinstance(method, GrabCut):
        return method.predict_in_boxes(tiles, labels)[:, None]
    return predictor.predict_maps(method, tiles, learned.features, isinstance(learned.rule, DepthRule))


def support_set(category: ClassImages, chosen: Sequence[int]) -> SupportSet:
    """Some pairs of a class as a support set."""
    images, labels, instances = category.arrays()
    places = list(chosen)
    return SupportSet(
        images[places],
        labels[places],
        None if instances is None else instances[places],
        tuple(category.keys[i] for i in places),
        None,
        (category.name,),
    )


def _support_result(
    method: Method,
    category: ClassImages,
    shots: int,
    episode: int,
    learned: EncodedSupport,
    has_objects: bool,
) -> SupportResult:
    loo = learned.loo
    rule = "components" if learned.rule is None else "split"
    if isinstance(learned.rule, DepthRule):
        rule = "learned depth"
    return SupportResult(
        method.name,
        category.name,
        category.domain,
        shots,
        episode,
        learned.encode_s,
        loo.threshold if loo else None,
        loo.mean_iou if loo else None,
        loo.interval if loo else None,
        loo.iou if loo else (),
        rule if has_objects and loo else "",
        learned.counted_ratio if has_objects else None,
    )


def _objects(
    maps: np.ndarray, true: np.ndarray | None, learned: EncodedSupport
) -> tuple[Objects | None, Objects | None]:
    """Components and objects told apart, compared with the truth; `maps` of one query, as `predict` gives them."""
    if true is None:
        return None, None
    how = learned.threshold, AS_RUN.connectivity, learned.min_area
    components = compare_objects(label_objects(maps[0], how[0], None, *how[1:]), true)
    if learned.loo is None:
        return components, None
    if learned.rule is None:
        return components, components
    depth = maps[1] if len(maps) > 1 else None
    return components, compare_objects(label_objects(maps[0], how[0], learned.rule, *how[1:], depth), true)

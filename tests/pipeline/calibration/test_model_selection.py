"""How a support set is encoded is decided by the held-out patches, and stays decided when a run is resumed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.finetune import AdaptConfig, one_thread
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration import model_selection
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.leave_one_out import MAX_FOLDS, folds_of, predict_held_out
from fewscope.pipeline.calibration.model_selection import (
    EncodingOptions,
    from_arrays,
    select_encoding,
    to_arrays,
)
from fewscope.pipeline.config import SegmentConfig


@dataclass
class Taught:
    """What `Pupil` was taught with."""

    patches: frozenset[int]
    errors: Sequence[float]
    sides: tuple[int, ...]
    steps: int
    texture_share: float
    encoder_share: float

    @property
    def views(self) -> list[SeenAt]:
        return [SeenAt(side, self.steps) for side in self.sides or (224,)]


@dataclass
class SeenAt:
    side: int
    steps: int


class Pupil:
    """A model that is wrong on a given part of each patch: as it is, at other scales, fine-tuned, by texture, or by an
    encoder, which it has if its errors are given."""

    name = "pupil"

    def __init__(self, adapts: bool = True, **errors: float | Sequence[float]) -> None:
        self.errors = {"plain": 0.4, "tuned": 0.4, "scaled": 0.4, "texture": 0.4} | errors
        self.adapts = adapts
        self.has_encoder = "encoder" in errors
        self.tuned_on: list[frozenset[int]] = []

    def encode(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        instances: Any = None,
        adaptation: AdaptConfig | None = None,
        sides: tuple[int, ...] = (),
        texture_share: float = 0.0,
        encoder_share: float = 0.0,
        known: Mapping[int, SeenAt] | None = None,
    ) -> Taught:
        seen = frozenset(images[:, 0, 0, 0].tolist())
        steps = adaptation.steps if adaptation else 0
        if known and (sides or (224,))[0] in known:
            steps = known[(sides or (224,))[0]].steps
        elif adaptation:
            self.tuned_on.append(seen)
        way = "tuned" if steps else "scaled" if sides else "plain"
        way = "texture" if texture_share > 0.5 else "encoder" if encoder_share > 0.5 else way
        errors = np.broadcast_to(self.errors[way], 13).tolist()
        return Taught(seen, errors, sides, steps, texture_share, encoder_share)

    def predict(self, tiles: np.ndarray, features: Taught) -> np.ndarray:
        truth = tiles[..., 1] > 0
        wrong = np.zeros_like(truth)
        for tile, is_wrong in zip(tiles, wrong, strict=True):
            number = int(tile[0, 0, 0])
            assert number not in features.patches, "a patch was predicted by what it taught"
            is_wrong[: round(features.errors[number] * len(is_wrong))] = True
        return (truth ^ wrong)[:, None].astype(np.float32)


def patches(k: int) -> tuple[np.ndarray, np.ndarray]:
    """K patches whose red is their number and whose green shows the truth."""
    labels = (np.random.default_rng(k).random((1, k, 32, 32)) > 0.5).astype(np.uint8)
    images = np.zeros((k, 32, 32, 3), np.uint8)
    images[..., 0] = np.arange(k)[:, None, None]
    images[..., 1] = labels[0] * 255
    return images, labels


@pytest.mark.parametrize("k", [2, 5, 13])
def test_no_patch_is_predicted_by_itself_however_many_there_are(k: int) -> None:
    images, labels = patches(k)
    (found,) = predict_held_out(Pupil(plain=0.0), images, labels, n_threads=3)
    assert found is not None
    assert np.array_equal(found > 0.5, labels[0] == 1)
    assert k <= MAX_FOLDS or k > 2 * MAX_FOLDS  # both ways are tried here


def test_a_picture_is_held_out_as_a_whole() -> None:
    """Each patch is predicted from patches of other pictures, unless a class is in one picture only."""
    images, labels = patches(6)
    pictures = (0, 0, 1, 1, 1, 2)
    used: list[np.ndarray] = []

    def encode(patches_used: np.ndarray, classes) -> object:
        used.append(patches_used)
        return Pupil(plain=0.0).encode(images[patches_used], labels[0][patches_used])

    (found,) = predict_held_out(Pupil(plain=0.0), images, labels, encode, pictures=pictures)
    assert found is not None
    assert sorted(map(tuple, used)) == [(0, 1, 2, 3, 4), (0, 1, 5), (2, 3, 4, 5)]
    used.clear()
    labels[0, 2:][labels[0, 2:] == 1] = 0
    predict_held_out(Pupil(plain=0.0), images, labels, encode, pictures=pictures)
    assert sorted(map(len, used)) == [5] * 6


@pytest.mark.parametrize(
    ("pictures", "folds"),
    [
        ((), [[0], [1], [2], [3]]),
        ((5, 5, 5, 5), [[0], [1], [2], [3]]),
        ((0, 1, 0, 1), [[0, 2], [1, 3]]),
        ((0, 1, 1, 2, 2, 2), [[0], [1, 2], [3]]),  # the last two are labelled in places only
    ],
)
def test_folds(pictures: tuple[int, ...], folds: list[list[int]]) -> None:
    assert [fold.tolist() for fold in folds_of(4, pictures)] == folds


ONE_IS_LUCKY = (0.0, *[0.45] * 12)  # against 0.4 of each


@pytest.mark.parametrize(
    ("errors", "usual", "share"),
    [
        ({"encoder": 0.1}, 0.25, 0.75),
        ({"encoder": 0.6}, 0.25, 0.25),
        ({"encoder": ONE_IS_LUCKY}, 0.25, 0.25),
        ({}, 0.25, 0.0),  # it has none
    ],
)
def test_an_encoders_share_changes_for_good_reasons(
    errors: dict[str, Any], usual: float, share: float
) -> None:
    images, labels = patches(6)
    pupil = Pupil(**errors)
    found = select_encoding(pupil, images, labels, None, seconds=30, encoder_share=usual)
    assert found.options == EncodingOptions(encoder_share=share)
    assert found.features.encoder_share == share
    assert ("encoder" in str(found)) == bool(share)
    asked = select_encoding(pupil, images, labels, None, seconds=0, encoder_share=usual)
    assert asked.options.encoder_share == (usual if errors else 0)


@pytest.mark.parametrize(
    ("errors", "steps", "sides", "share"),
    [
        ({"tuned": 0.1}, 68, (), 0.0),
        ({"tuned": 0.6}, 0, (), 0.0),
        ({"scaled": 0.1}, 0, (192, 320), 0.0),
        ({"scaled": ONE_IS_LUCKY}, 0, (), 0.0),  # the mean is better by less than its error
        ({"scaled": 0.2, "tuned": 0.1}, 68, (192, 320), 0.0),
        ({"texture": 0.1}, 0, (), 1.0),
        ({"texture": 0.2, "tuned": 0.1}, 68, (), 0.0),
        ({"texture": ONE_IS_LUCKY}, 0, (), 0.0),
        ({"plain": 0.01, "scaled": 0.0, "tuned": 0.0, "texture": 0.0}, 0, (), 0.0),  # good enough as it is
        ({"scaled": 0.01, "tuned": 0.0, "texture": 0.0}, 0, (192, 320), 0.0),  # then nothing slower is tried
        ({}, 0, (), 0.0),
    ],
)
def test_what_predicts_left_out_patches_better_is_kept(
    errors: dict[str, Any], steps: int, sides: tuple[int, ...], share: float
) -> None:
    images, labels = patches(6)
    found = select_encoding(Pupil(**errors), images, labels, None, seconds=120)
    adaptation = AdaptConfig(steps) if steps else None
    assert found.options == EncodingOptions(sides, adaptation, share)
    taught = found.features
    assert (taught.steps, taught.sides, taught.texture_share) == (steps, sides, share)
    assert taught.patches == frozenset(range(6))
    assert found.default_iou is not None
    assert found.selected_iou is not None
    assert found.selected_iou >= found.default_iou
    assert ("IoU" in str(found)) == bool(steps or sides or share)
    assert ("pixel classifier" in str(found)) == bool(share)


def test_the_agreement_with_the_classifier_is_that_of_the_masks_of_held_out_patches() -> None:
    images, labels = patches(5)
    found = select_encoding(
        Pupil(plain=0.0, scaled=0.0, tuned=0.0, texture=0.5), images, labels, None, seconds=30
    )
    truth = labels[0] == 1
    other = truth.copy()
    other[:, :16] ^= True
    assert found.agreement == (round((truth & other).sum() / (truth | other).sum(), 3),)
    assert select_encoding(Pupil(), images, labels, None, seconds=0).agreement == ()
    replaced = select_encoding(
        Pupil(plain=0.5, scaled=0.5, tuned=0.5, texture=0.0), images, labels, None, seconds=30
    )
    assert replaced.options.texture_share == 1
    assert replaced.agreement == found.agreement  # then the network has the second opinion


def test_nothing_is_fine_tuned_twice() -> None:
    """Once on all patches, and once without each: minutes, each time."""
    images, labels = patches(5)
    pupil = Pupil(tuned=0.1)
    assert select_encoding(pupil, images, labels, None, seconds=120).options.adaptation is not None
    everything = frozenset(range(5))
    assert sorted(map(len, pupil.tuned_on)) == [4, 4, 4, 4, 4, 5]
    assert set(pupil.tuned_on) == {everything, *(everything - {held_out} for held_out in range(5))}


def test_what_takes_minutes_is_said_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = patches(6)
    with caplog.at_level("INFO", logger="fewscope.pipeline.calibration.model_selection"):
        select_encoding(Pupil(tuned=0.1), images, labels, None, seconds=120)
    said = [record.getMessage() for record in caplog.records]
    assert "fine-tuning 7 times, 68 steps each; --adapt bounds it" in said
    assert sum("on 5 of 6 patches" in line for line in said) == 6
    assert said[-1].startswith("kept: network fine-tuned for 68 steps, IoU of held-out patches 0.")


@pytest.mark.parametrize("k", [2, 5])
def test_the_default_budget_fine_tunes_nothing_and_searches_the_rest(k: int) -> None:
    images, labels = patches(k)
    pupil = Pupil(tuned=0.0, scaled=0.1)
    found = select_encoding(pupil, images, labels, None, seconds=SegmentConfig("", "", "").adapt_s)
    assert found.options == EncodingOptions((192, 320))
    assert not pupil.tuned_on


def test_nothing_is_fine_tuned_where_it_is_not_wanted_or_cannot_be() -> None:
    images, labels = patches(5)
    better = {"tuned": 0.0, "scaled": 0.0, "texture": 0.0}
    assert select_encoding(Pupil(**better), images, labels, None, seconds=0).options == EncodingOptions()
    assert (
        select_encoding(Pupil(**better, adapts=False), images, labels, None, seconds=120).options
        == EncodingOptions()
    )
    alone = select_encoding(Pupil(**better), images[:1], labels[:, :1], None, seconds=120)
    assert (alone.options, alone.default_iou, alone.held_out) == (EncodingOptions(), None, [None])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
@pytest.mark.parametrize("kept", ["the last", "the first"])
def test_a_fit_with_the_real_network_repeats_itself_and_can_be_kept(
    kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuned, at other sides, and with most of the classifier; or as it comes."""
    generator = np.random.default_rng(0)
    labels = np.zeros((1, 2, 224, 224), np.uint8)
    labels[0, :, 60:120, 40:160] = 1
    images = generator.normal(100, 30, (2, 224, 224, 3))
    images[labels[0] == 1] += (40, 0, -30)
    images = images.clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(model_selection, "OTHER_SIDES", {1: ((64, 96),)})
    monkeypatch.setattr(model_selection, "SUFFICIENT_IOU", 2.0)
    monkeypatch.setattr(model_selection, "SEARCH_S", 1.0)
    monkeypatch.setattr("fewscope.model.finetune.FEWEST_STEPS", 1)
    monkeypatch.setattr("fewscope.model.finetune.MOST_STEPS", 2)
    better = itertools.count(0.1, 0.001 if kept == "the last" else -0.001)
    monkeypatch.setattr(
        model_selection, "score_held_out", lambda *_: SimpleNamespace(iou=(value := next(better), value))
    )
    segmenter = load_segmenter(device="cpu")
    one = select_encoding(segmenter, images, labels, None, seconds=3)
    if kept == "the last":
        assert one.options.sides == (64, 96)
        assert one.options.adaptation is not None
        assert one.options.texture_share == model_selection.TEXTURE_SHARES[-1]
    else:
        assert one.options == EncodingOptions()
    with one_thread():
        keywords = {"sides": one.options.sides, "texture_share": one.options.texture_share}
        again = segmenter.encode(images, labels[0], None, one.options.adaptation, **keywords)
    assert one.features.digest == again.digest, "what the job got is not what the patches give"
    monkeypatch.setattr(model_selection.os, "cpu_count", lambda: 1)
    other = select_encoding(segmenter, images, labels, None, seconds=3)
    assert one.features.digest == other.features.digest
    assert np.array_equal(one.held_out[0], other.held_out[0])
    again = from_arrays(to_arrays(one), load_segmenter(device="cpu"), images, labels)
    assert (again.features.digest, str(again)) == (one.features.digest, str(one))
    assert again.agreement == one.agreement
    assert np.array_equal(segmenter.predict(images, again.features), segmenter.predict(images, one.features))

    if one.options.adaptation is None:  # with norms that meet a paler source halfway, it is kept likewise
        views = segmenter.views_between(one.features, images // 2 + 100)
        assert not any(np.array_equal(a, views[160].weights[name]) for name, a in views[160].norms.items())  # type: ignore[index]
        with one_thread():
            met = replace(one, features=segmenter.encode(images, labels[0], known=views))
        again = from_arrays(to_arrays(met), load_segmenter(device="cpu"), images, labels)
        assert again.features.digest == met.features.digest != one.features.digest
        maps = [segmenter.predict(images, of.features) for of in (met, again, one)]
        assert np.array_equal(maps[0], maps[1])
        assert not np.array_equal(maps[0], maps[2])


def test_sources_with_one_support_set_have_it_encoded_once() -> None:
    model = Pupil(tuned=0.1)
    taught: list[Taught] = []
    encode = model.encode
    model.encode = lambda *arguments, **keywords: taught.append(encode(*arguments, **keywords)) or taught[-1]  # type: ignore[method-assign]

    def support(seed: int) -> SupportSet:
        labels = np.zeros((3, 224, 224), np.uint8)
        labels[:, 50:100, 50 : 100 + seed] = 1
        images = np.zeros((3, 224, 224, 3), np.uint8)
        images[..., 0] = np.arange(3)[:, None, None]
        images[..., 1] = labels * 255
        return SupportSet(images, labels, None, ("a", "b", "c"), None, ("disc",))

    encodings = EncodingCache(model)
    first = encodings.of(support(1), 120, False)
    n_taught = len(taught)
    assert encodings.of(support(1), 120, False) is first
    assert len(taught) == n_taught
    for other in (encodings.of(support(2), 120, False), encodings.of(support(1), 60, False)):
        assert other is not first
    assert len(taught) == 3 * n_taught

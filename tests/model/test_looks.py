"""Two looks at a tile: where the first finds nothing of a class, it decides alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fewscope.errors import ConfigError
from fewscope.jobs import segment_wsi
from fewscope.model import prepared_features
from fewscope.model.networks.relation import RelationNet
from fewscope.model.prepared_features import NOTHING
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.views import SIDES, TWO_LOOKS, SupportFeatures
from fewscope.model.weights import SHIPPED, checksum
from fewscope.pipeline.plan import model_loader

COLOURS = ([90, 60, 140], [60, 130, 70])
SHOWN = ((0, 1), (0,), (), (1,), (), (0,), ())
"""Classes that each tile shows: nothing, one, or both of them."""


def tiles(shown: tuple[tuple[int, ...], ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Discs of two colours on a light ground with noise, (N, 224, 224, 3), and their classes (N, 224, 224)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:224, :224]
    images, labels = [], []
    for classes in shown:
        image = np.full((224, 224, 3), [225, 200, 215])
        label = np.zeros((224, 224), np.uint8)
        for c in classes * 4:
            r, col, radius = rng.uniform(20, 204), rng.uniform(20, 204), rng.uniform(10, 20)
            disc = (rows - r) ** 2 + (cols - col) ** 2 < radius**2
            image[disc], label[disc] = COLOURS[c], c + 1
        images.append((image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8))
        labels.append(label)
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter(device="cpu", precision="float32", batch_size=2, looks=2)


@pytest.fixture(scope="module")
def features(segmenter: Segmenter) -> SupportFeatures:
    return segmenter.encode(*tiles(((0, 1), (0, 1), (0,)), 0))


def test_two_looks_have_weights_of_their_own(segmenter):
    once = load_segmenter(device="cpu")
    assert once.weights_digest == checksum(SHIPPED / "compact.safetensors") != segmenter.weights_digest


def test_weights_that_were_not_taught_to_look_once_look_twice(tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(SHIPPED / "compact-two-looks.safetensors", own)
    assert load_segmenter(weights=str(own), device="cpu").sides == TWO_LOOKS
    assert load_segmenter(weights=str(own), device="cpu", looks=1).sides == SIDES
    taught = SHIPPED / "compact.safetensors"
    assert load_segmenter(weights=str(taught), device="cpu").sides == SIDES
    assert load_segmenter("prototype-compact", device="cpu").looks == 1


def test_all_shipped_weights_have_a_checksum():
    known = json.loads((SHIPPED / "SHA256.json").read_text())
    assert known == {path.name: checksum(path) for path in SHIPPED.glob("*.safetensors")}


def logits(probabilities: np.ndarray) -> np.ndarray:
    p = probabilities.astype(np.float64)
    return np.log(p / (1 - p))


def alone(features: SupportFeatures, side: int) -> SupportFeatures:
    """The support set as it is seen at one side."""
    views = tuple(view for view in features.views if view.side == side)
    return replace(features, views=views, digest=f"{features.digest}, {side}")


def test_where_nothing_is_found_the_first_look_decides_and_elsewhere_the_mean(
    segmenter: Segmenter, features: SupportFeatures
) -> None:
    images, _ = tiles(SHOWN, 1)
    first, second = (segmenter.predict(images, alone(features, side)) for side in TWO_LOOKS)
    nothing = first.max((2, 3)) < NOTHING
    assert nothing.tolist() == [[c not in classes for c in (0, 1)] for classes in SHOWN]
    found = segmenter.predict(images, features)
    np.testing.assert_array_equal(found[nothing], first[nothing])
    mean = (logits(first) + logits(second))[~nothing] / 2
    np.testing.assert_allclose(logits(found)[~nothing], mean, atol=1e-3)
    assert np.abs(found - first)[~nothing].max() > 0.05, "the second look says something else"


def test_a_tile_with_nothing_is_encoded_once(segmenter: Segmenter, features: SupportFeatures) -> None:
    """Tiles to be looked at again are gathered into full batches, whatever batches they come from."""
    encoded: list[tuple[int, int]] = []
    hooks = [
        network.encoder.register_forward_pre_hook(lambda _, x: encoded.append((len(x[0]), x[0].shape[-1])))
        for network, _ in segmenter._prepared(features).members
    ]
    segmenter.predict(tiles(SHOWN, 1)[0], features)
    segmenter.predict(tiles(((), ()), 2)[0], features)
    for hook in hooks:
        hook.remove()
    assert encoded == [(2, 128)] * 4 + [(2, 192)] * 2 + [
        (2, 128)
    ]  # 7 tiles, 4 of them again; 2 more with nothing


def test_a_tile_and_a_class_depend_on_no_other(segmenter: Segmenter, features: SupportFeatures) -> None:
    """To the bit, with depth, whatever the batch and the order of the sides."""
    images, _ = tiles(SHOWN, 1)
    together = segmenter.predict(images, features, depth=True)
    assert together.shape == (len(SHOWN), 4, 224, 224)
    one_by_one = [segmenter.predict(images[i : i + 1], features, depth=True) for i in range(len(images))]
    np.testing.assert_array_equal(together, np.concatenate(one_by_one))
    np.testing.assert_array_equal(together, segmenter.predict(images[::-1], features, depth=True)[::-1])
    np.testing.assert_array_equal(together[:, :2], segmenter.predict(images, features))
    turned = replace(features, views=features.views[::-1], digest="turned")
    np.testing.assert_array_equal(together, segmenter.predict(images, turned, depth=True))
    support, classes = tiles(((0, 1), (0, 1), (0,)), 0)
    for c in (0, 1):
        of_class = segmenter.encode(support, (classes == c + 1).astype(np.uint8))
        found = segmenter.predict(images, of_class, depth=True)
        np.testing.assert_array_equal(found, together[:, c::2])


def test_the_rule_is_that_of_the_first_looks_largest_probability(
    segmenter: Segmenter, features: SupportFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any bound; all seen twice below the smallest."""
    images, _ = tiles(SHOWN, 1)
    first = segmenter.predict(images, alone(features, TWO_LOOKS[0]))
    monkeypatch.setattr(prepared_features, "NOTHING_LOGIT", -np.inf)
    both = segmenter.predict(images, features)
    assert not (both == first).all((2, 3)).any()
    largest = first.max((2, 3))
    bound = float(np.median(largest))
    monkeypatch.setattr(prepared_features, "NOTHING_LOGIT", float(np.log(bound / (1 - bound))) + 1e-4)
    expected = np.where((largest <= bound)[..., None, None], first, both)
    np.testing.assert_array_equal(segmenter.predict(images, features), expected)


def test_one_look_nearly_says_the_same(segmenter: Segmenter, features: SupportFeatures) -> None:
    looks_once = load_segmenter(device="cpu", precision="float32", batch_size=2)
    once = looks_once.encode(*tiles(((0, 1), (0, 1), (0,)), 0))
    assert [view.side for view in once.views] == [160]
    assert once.digest != features.digest
    images, labels = tiles(SHOWN, 1)
    twice_found, once_found = (
        model.predict(images, encoded)[:, :2] >= 0.5
        for model, encoded in ((segmenter, features), (looks_once, once))
    )
    assert (twice_found == once_found).mean() > 0.99
    for c in range(2):
        true = labels == c + 1
        overlap = (once_found[:, c] & true).sum() / (once_found[:, c] | true).sum()
        assert overlap > 0.85


def test_a_job_looks_once_unless_it_is_told_otherwise() -> None:
    words = ["slide.tif", "--support", "five.geojson", "--out", "out"]
    for more, sides in (((), SIDES), (("--looks", "2"), TWO_LOOKS)):
        (config,) = segment_wsi.configs(segment_wsi.parse([*words, *more]))
        assert model_loader(config)().sides == sides


def test_another_network_or_number_of_looks_is_refused() -> None:
    with pytest.raises(ConfigError, match="looks at a tile once; leave --looks out"):
        Segmenter(RelationNet("released"), "vgg16-released", device="cpu", looks=2)
    with pytest.raises(ConfigError, match="--looks 3: must be one of 1, 2"):
        load_segmenter(device="cpu", looks=3)

"""Networks: the FSS-1000 anchors, what is computed once, and independence of batch mates."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewscope.errors import WeightsError
from fewscope.model.networks import readouts
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.pixel_classifier import LIMIT
from fewscope.model.networks.registry import build_network
from fewscope.model.networks.relation import RelationNet
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.views import TWO_LOOKS, SupportFeatures
from fewscope.model.weights import save_weights


def n_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def gflop(run: object) -> float:
    with FlopCounterMode(display=False) as counter:
        run()  # type: ignore[operator]
    return counter.get_total_flops() / 1e9


def patches(n: int, seed: int = 0, side: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on a light ground with noise, and their masks."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:side, :side]
    images, labels = [], []
    for _ in range(n):
        mask = np.zeros((side, side), bool)
        for _ in range(12):
            r, c, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(8, 18)
            mask |= (rows - r) ** 2 + (cols - c) ** 2 < radius**2
        image = np.where(mask[..., None], [90, 60, 140], [225, 200, 215]) + rng.normal(0, 12, (side, side, 3))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
        labels.append(mask.astype(np.uint8))
    return np.stack(images), np.stack(labels)


@pytest.fixture(scope="module")
def released() -> RelationNet:
    torch.manual_seed(0)
    return RelationNet("released").eval()


@pytest.fixture(scope="module")
def paper() -> RelationNet:
    torch.manual_seed(1)
    return RelationNet("paper").eval()


@pytest.mark.slow
def test_released_vgg16_has_the_published_number_of_parameters(released: RelationNet) -> None:
    assert n_parameters(released.encoder) == 14_723_712
    assert n_parameters(released) - n_parameters(released.encoder) == 18_109_313


@pytest.mark.slow
def test_released_vgg16_costs_what_the_published_code_costs(released: RelationNet) -> None:
    image, mask = torch.rand(1, 3, 224, 224), torch.ones(1, 1, 224, 224)
    with torch.inference_mode():
        deepest, taps = released.encoder(torch.cat([image, mask], 1))
        pack = released.compile_support(image, mask, 1 - mask)
        encoder = gflop(lambda: released.encoder(torch.cat([image, mask], 1)))
        decoder = gflop(lambda: released.decode(deepest, taps, pack))
    assert encoder == pytest.approx(30.75, abs=0.01)
    assert decoder == pytest.approx(24.75, abs=0.01)
    assert encoder + decoder == pytest.approx(55.50, abs=0.01)  # a tile, with the support encoded once
    assert 6 * encoder + decoder == pytest.approx(
        209.25, abs=0.05
    )  # as the authors do: 5 supports for every query


@pytest.mark.slow
def test_variants_differ_where_paper_and_code_differ(released: RelationNet, paper: RelationNet) -> None:
    images, masks = torch.rand(3, 3, 64, 64), torch.ones(3, 1, 64, 64)
    with torch.inference_mode():
        mean = paper.encoder(torch.cat([images, masks], 1))[0].mean(0, keepdim=True)
        torch.testing.assert_close(paper.compile_support(images, masks, 1 - masks).deepest, mean)
        five = released.encoder(torch.cat([images, masks], 1))[0].mean(0, keepdim=True) * 5
        pack = released.compile_support(images, masks, 1 - masks)
        torch.testing.assert_close(pack.deepest, five)  # a sum over 5 shots, kept for other K
        assert not pack.skips
        assert len(paper.compile_support(images, masks, 1 - masks).skips) == 5
        assert paper(images, paper.compile_support(images, masks, 1 - masks)).shape == (3, 1, 64, 64)
    assert paper.relation[0].kernel_size == (1, 1)
    assert released.relation[0].kernel_size == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taps", "deepest", "n_encoder"),
    [  # of the paper's other two encoders; parameters are torchvision's without classifier, and a fourth input channel
        ("resnet101-paper", [(64, 112), (256, 56), (512, 28), (1024, 14)], (2048, 7), 42_500_160 + 64 * 49),
        ("inception-paper", [(64, 109), (192, 52), (288, 25), (768, 12)], (2048, 5), 21_785_568 + 32 * 9),
    ],
)
def test_other_encoders_have_the_maps_of_their_papers(
    name: str, taps: list[tuple[int, int]], deepest: tuple[int, int], n_encoder: int
) -> None:
    net = build_network(name).eval()
    assert n_parameters(net.encoder) == n_encoder
    image, mask = torch.rand(1, 3, 224, 224), torch.ones(1, 1, 224, 224)
    with torch.inference_mode():
        last, maps = net.encoder(torch.cat([image, mask], 1))
        assert (last.shape[1], last.shape[2]) == deepest
        assert [(m.shape[1], m.shape[2]) for m in maps] == [(0, 224), *taps]
        assert net(image, net.compile_support(image, mask, 1 - mask)).shape == (1, 1, 224, 224)


@pytest.mark.slow
def test_compact_is_small() -> None:
    net = CompactNet("S").eval()
    assert n_parameters(net) < 2_000_000
    images, labels = patches(5)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(labels)[:, None].float()
    with torch.inference_mode():
        pack = net.compile_support(x, y, 1 - y)
        assert gflop(lambda: net(x[:1], pack)) < 5.0
        # the pack stops growing with the number of shots: from 3 on, all strides have more cells than are kept
        three = net.compile_support(x[:3], y[:3], 1 - y[:3])
        sizes = [sum(t.numel() for t in of.keys.values()) for of in (three, pack)]
    assert sizes[0] == sizes[1]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter("compact", batch_size=4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
@pytest.mark.parametrize(
    ("dtype", "sides"),
    [
        (torch.float32, TWO_LOOKS),
        (torch.bfloat16, (96,)),
    ],  # bfloat16 takes a core without it ten times as long
)
def test_a_tile_does_not_depend_on_its_batch(dtype: torch.dtype, sides: tuple[int, ...]) -> None:
    segmenter = load_segmenter("compact", dtype=dtype, batch_size=4)
    images, labels = patches(6)
    features = segmenter.encode(images[:3], labels[:3], sides=sides)
    together = segmenter.predict(images, features)
    alone = np.concatenate([segmenter.predict(images[i : i + 1], features) for i in range(6)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(segmenter.predict(images[::-1], features)[::-1], together)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_features_travel(segmenter: Segmenter) -> None:
    images, labels = patches(3)
    features = segmenter.encode(images, labels)
    arrived: SupportFeatures = pickle.loads(pickle.dumps(features))
    assert arrived.digest == features.digest
    np.testing.assert_array_equal(segmenter.predict(images, arrived), segmenter.predict(images, features))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_digest_changes_with_the_support_set(segmenter: Segmenter) -> None:
    images, labels = patches(3)
    other = labels.copy()
    other[0, 0, 0] ^= 1
    assert segmenter.encode(images, labels).digest != segmenter.encode(images, other).digest


@pytest.mark.slow
def test_shipped_weights_segment_dark_discs_and_the_inverse(segmenter: Segmenter) -> None:
    """The support set decides what is found: the same query, the object and then all but the object."""
    images, labels = patches(6)
    for wanted in (labels, 1 - labels):
        features = segmenter.encode(images[:5], wanted[:5])
        found = segmenter.predict(images[5:], features)[0, 0] >= 0.5
        truth = wanted[5] == 1
        assert (found & truth).sum() / (found | truth).sum() > 0.85


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_three_classes_are_three_runs_over_one_encoding(segmenter: Segmenter) -> None:
    """C classes give, to the bit, what C runs of one class each give, and every tile is encoded once for all."""
    images, labels = patches(5)
    rows = np.indices(labels.shape)[1]
    classes = np.where(labels == 0, 0, 1 + rows * 3 // 224).astype(np.uint8)
    classes[:, :, 200:] = 255
    features = segmenter.encode(images[:3], classes[:3])
    assert features.n_classes == 3
    encoded: list[tuple[int, int]] = []
    for network, _ in segmenter._prepared(features).members:
        network.encoder.register_forward_pre_hook(lambda _, x: encoded.append((len(x[0]), x[0].shape[-1])))  # type: ignore[union-attr]
    together = segmenter.predict(images, features)
    assert together.shape == (5, 3, 224, 224)
    assert encoded == [(4, 160)] * 2  # 5 tiles in batches of 4
    for c in (1, 2, 3):
        binary = np.where(classes == 255, 255, classes == c).astype(np.uint8)
        alone = segmenter.predict(images[3:], segmenter.encode(images[:3], binary[:3]))
        np.testing.assert_array_equal(together[3:, c - 1 : c], alone)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_what_is_seen_at_two_scales_is_answered_with_the_mean(segmenter: Segmenter) -> None:
    images, labels = patches(3)
    together = segmenter.encode(images, labels, sides=TWO_LOOKS)
    assert [view.side for view in together.views] == list(TWO_LOOKS)

    def logits(features: SupportFeatures) -> np.ndarray:
        found = segmenter.predict(images, features).astype(np.float64)
        return np.log(found / (1 - found))

    alone = [segmenter.encode(images, labels, sides=(side,)) for side in TWO_LOOKS]
    assert len({together.digest, *(features.digest for features in alone)}) == 3
    one, other = map(logits, alone)
    assert max(np.abs(one).max(), np.abs(other).max()) < LIMIT + 0.01, "one shouts the other down"
    assert np.abs(one - other).max() > 1
    assert np.abs(logits(together) - (one + other) / 2).max() < 0.01


@pytest.fixture(scope="module")
def on_glass(segmenter: Segmenter) -> dict[str, SupportFeatures]:
    """Three patches encoded as a job does, and for the network or the classifier alone."""
    images, labels = patches(3)
    found = {"both": segmenter.encode(images, labels, sides=(128,))}
    known = {view.side: view for view in found["both"].views}
    for name, share in (("network", 0.0), ("classifier", 1.0)):
        found[name] = segmenter.encode(images, labels, sides=(128,), texture_share=share, known=known)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("colour", [0, 220, 255])
def test_nothing_is_found_on_empty_glass(
    colour: int, segmenter: Segmenter, on_glass: dict[str, SupportFeatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on a black rim: where there is but a colour, network and classifier both have to say that it is an object."""
    images, labels = patches(3)
    noise = np.random.default_rng(0).normal(0, 2, (2, 224, 224, 3))
    glass = (colour + noise).clip(0, 255).astype(np.uint8)
    bright = (images[labels == 0].mean() + noise).clip(0, 255).astype(np.uint8)
    tiles = np.concatenate([glass, bright])
    found = segmenter.predict(tiles, on_glass["both"])
    assert found[2:].max() < 0.5
    monkeypatch.setattr("fewscope.model.networks.texture_statistics.FLAT", 1e-9)
    network, classifier = (segmenter.predict(tiles, on_glass[name]) for name in ("network", "classifier"))
    limits = 1 / (1 + np.exp([LIMIT, -LIMIT]))
    nearly = 0.05  # the lower of the two at 128 px, here at 224
    assert np.abs(found - np.minimum(network.clip(*limits), classifier)).max() < nearly


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_depth_comes_after_the_probabilities_and_changes_none_of_them(segmenter: Segmenter) -> None:
    torch.manual_seed(2)
    with_depth = Segmenter(CompactNet("S"), "compact", dtype=torch.float32, batch_size=2)
    assert with_depth.has_depth
    images, labels = patches(3)
    features = with_depth.encode(images, np.stack([labels, 1 - labels]))
    both = with_depth.predict(images, features, depth=True)
    assert both.shape == (3, 4, 224, 224)
    np.testing.assert_array_equal(both[:, :2], with_depth.predict(images, features))
    second = with_depth.encode(images, 1 - labels)
    np.testing.assert_array_equal(both[:, 1::2], with_depth.predict(images, second, depth=True))
    assert ((both >= 0) & (both <= 1)).all()
    without = Segmenter(CompactNet("S", depth=False), "compact", dtype=torch.float32)
    assert not without.has_depth
    with pytest.raises(ValueError, match="have no depth"):
        without.predict(images, without.encode(images, labels), depth=True)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_a_patch_may_be_labelled_for_some_classes_only(segmenter: Segmenter) -> None:
    """Labels by class: what is not known of a class has no say in it."""
    images, labels = patches(4)
    known = np.stack([labels, np.full_like(labels, 255)])
    known[1, :2] = 1 - labels[:2]
    features = segmenter.encode(images, known)
    np.testing.assert_array_equal(
        segmenter.predict(images, features)[:, 1],
        segmenter.predict(images, segmenter.encode(images, known[1]))[:, 0],
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_unlabelled_pixels_have_no_say(segmenter: Segmenter) -> None:
    images, labels = patches(3)
    partly = labels.copy()
    partly[:, :, 112:] = 255
    other = np.where(partly == 255, np.random.default_rng(1).integers(0, 255, partly.shape), 255)
    painted = np.where((partly == 255)[..., None], other[..., None].astype(np.uint8), images)
    query = images[:1]
    a = segmenter.predict(query, segmenter.encode(images, partly))
    b = segmenter.predict(query, segmenter.encode(painted.astype(np.uint8), partly))
    # only through the receptive field of labelled pixels near the border
    assert np.abs(a - b).mean() < 0.05


def test_ridge_is_the_closed_form_solution() -> None:
    """Against the normal equations solved by numpy in float64."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(200, 6)), np.sign(rng.normal(size=200)), rng.uniform(size=200)
    w /= w.sum()
    design = np.c_[x, np.ones(200)]
    expected = np.linalg.solve(design.T @ (design * w[:, None]) + 0.1 * np.eye(7), design.T @ (w * y))
    found = readouts.solve_ridge(
        *(torch.tensor(a, dtype=torch.float32) for a in (x, y, w)), torch.tensor(0.1)
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_softmax_mean_of_the_values(dtype: torch.dtype) -> None:
    """Against numpy in float64; and a query alone gets the bits that it gets among others."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(3, 32, 40, 28)), rng.normal(size=(200, 32))
    q, k = q / np.linalg.norm(q, axis=1, keepdims=True), k / np.linalg.norm(k, axis=1, keepdims=True)
    v = rng.uniform(size=(200, 10))
    weight = np.exp(12 * np.einsum("ndhw,md->nhwm", q, k))
    expected = np.einsum("nhwm,mv->nvhw", weight / weight.sum(-1, keepdims=True), v)
    queries, keys, values = (torch.tensor(a, dtype=dtype) for a in (q, k, v))
    found = readouts.attend(queries, keys, values, torch.tensor(12.0))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.float().numpy(), expected, atol=1e-5 if dtype == torch.float32 else 2e-2)
    alone = readouts.attend(queries[1:2], keys, values, torch.tensor(12.0))
    assert torch.equal(alone[0], found[1])
    nothing = readouts.attend(queries, keys[:0], values[:0], torch.tensor(12.0))
    assert nothing.shape == found.shape
    assert not nothing.any()


def test_keys_are_taken_from_both_sides_evenly() -> None:
    foreground = torch.zeros(1000)
    foreground[100:130] = 1
    background = 1 - foreground
    background[500:] = 0  # not labelled
    kept = readouts.select_keys(foreground, background, 100)
    assert len(kept) == 100
    assert len(set(kept.tolist())) == 100
    assert (
        int((foreground[kept] == 1).sum()) == 30
    )  # all there are; the rest of the room goes to the background
    assert int(kept.max()) < 500


def test_damaged_and_foreign_weights_are_refused(tmp_path: object) -> None:
    folder = Path(str(tmp_path))
    with pytest.raises(WeightsError, match="no such weights file"):
        load_segmenter("compact", str(folder / "missing.safetensors"))
    (folder / "damaged.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_segmenter("compact", str(folder / "damaged.safetensors"))
    header = json.dumps({"w" * 1000: {"dtype": "F32", "shape": [1], "data_offsets": [9, 4]}}).encode()
    (folder / "named.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="not a safetensors file") as error:
        load_segmenter("compact", str(folder / "named.safetensors"))
    assert len(str(error.value)) < 400
    failed = torch.nn.Linear(2, 2)
    failed.weight.data[0, 1] = float("nan")
    save_weights(failed, folder / "failed.safetensors", {})
    with pytest.raises(WeightsError, match="weight holds values that are not finite"):
        load_segmenter("compact", str(folder / "failed.safetensors"))
    save_weights(torch.nn.Linear(2, 2), folder / "other.safetensors", {})
    with pytest.raises(WeightsError, match="another network"):
        load_segmenter("compact", str(folder / "other.safetensors"))
    with pytest.raises(WeightsError, match="no weights ship"):
        load_segmenter("vgg16-paper")
    with pytest.raises(WeightsError, match="not one of"):
        load_segmenter("unet")


@pytest.mark.slow
def test_relation_network_runs_behind_the_segmenter(paper: RelationNet, tmp_path: Path) -> None:
    """And is made without random numbers, as all of its weights are in the file: they would take seconds."""
    path = tmp_path / "vgg.safetensors"
    save_weights(paper, path, {})
    state = torch.get_rng_state()
    segmenter = load_segmenter("vgg16-paper", str(path), dtype=torch.float32, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in paper.state_dict().items():
        assert torch.equal(segmenter._exact.state_dict()[name], tensor), name
    images, labels = patches(2)
    p = segmenter.predict(images[:, :64, :64], segmenter.encode(images[:, :64, :64], labels[:, :64, :64]))
    assert p.shape == (2, 1, 64, 64)
    assert ((p >= 0) & (p <= 1)).all()

"""Ground that no patch shows: how much of a source it is, and which tiles of it are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rasterio.windows import Window

from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration.sampling import Sample
from fewscope.pipeline.calibration.unlike import UnlikeGround, find_unlike

SIDE = 224
AS_IT_IS: Any = SimpleNamespace(recoloured=lambda tiles: tiles)


def noise(seed: int) -> np.ndarray:
    """Grey noise with dark discs, as all patches are."""
    rng = np.random.default_rng(seed)
    image = rng.normal(150, 12, (SIDE, SIDE, 3))
    rows, cols = np.indices((SIDE, SIDE))
    for row, col in rng.integers(20, 204, (8, 2)):
        image[(rows - row) ** 2 + (cols - col) ** 2 < 150] -= 70
    return image.clip(0, 255).astype(np.uint8)


def stripes(period: int) -> np.ndarray:
    """Bright bars, as in no patch."""
    bars = 40 + 180 * (np.arange(SIDE) // period % 2)
    return np.repeat(np.repeat(bars[None, :, None], SIDE, 0), 3, 2).astype(np.uint8)


def support(n: int = 4) -> SupportSet:
    images = np.stack([noise(seed) for seed in range(n)])
    labels = (images[..., 0] < 100).astype(np.uint8)
    return SupportSet(images, labels, None, tuple("abcd"[:n]), None, ("disc",))


def sample(images: list[np.ndarray], foreground: np.ndarray | None = None) -> Sample:
    windows = tuple(Window(SIDE * i, 0, SIDE, SIDE) for i in range(len(images)))
    known = np.ones((len(images), SIDE, SIDE), bool) if foreground is None else foreground
    return Sample(windows, np.stack(images), known)


@pytest.fixture(scope="module")
def network() -> Any:
    return load_segmenter(device="cpu")


def test_a_frozen_encoder_is_not_asked() -> None:
    """It would take seconds for each tile, and says nothing here."""
    network: Any = load_segmenter(encoder="efficientnet-lite0", device="cpu")
    asked: list[Any] = []
    network._encoder.register_forward_hook(lambda *call: asked.append(call))
    assert find_unlike(network, AS_IT_IS, support(2), sample([noise(8)])) is not None
    assert asked == []


def test_ground_that_no_patch_shows_is_counted_and_shown(network: Any) -> None:
    half = noise(7)
    half[:, SIDE // 2 :] = stripes(10)[:, SIDE // 2 :]
    found = find_unlike(network, AS_IT_IS, support(), sample([noise(8), stripes(10), half, noise(9)]))
    assert found is not None
    assert found.n_tiles == 4
    assert 0.25 < found.fraction < 0.5, "a tile and a half of four"
    assert [window.col_off // SIDE for window in found.windows] == [1, 2]
    assert found.fractions[0] > 0.9
    assert 0.3 < found.fractions[1] < 0.7
    assert UnlikeGround.of(found.array()) == found


def test_a_source_like_the_patches_has_hardly_any(network: Any) -> None:
    found = find_unlike(network, AS_IT_IS, support(), sample([noise(8), noise(9)]))
    assert found is not None
    assert found.fraction < 0.12
    assert found.windows == ()


def test_what_is_no_foreground_does_not_count(network: Any) -> None:
    foreground = np.ones((2, SIDE, SIDE), bool)
    foreground[1] = False
    found = find_unlike(network, AS_IT_IS, support(), sample([noise(8), stripes(10)], foreground))
    assert found is not None
    assert (found.fraction < 0.12, found.windows) == (True, ())


def test_it_is_not_known_without_features_patches_or_tiles(network: Any) -> None:
    tiles = sample([noise(8)])
    assert find_unlike(SimpleNamespace(), AS_IT_IS, support(), tiles) is None  # type: ignore[arg-type]
    assert find_unlike(network, AS_IT_IS, support(1), tiles) is None
    assert (
        find_unlike(network, AS_IT_IS, support(), Sample((), tiles.images[:0], tiles.foreground[:0])) is None
    )

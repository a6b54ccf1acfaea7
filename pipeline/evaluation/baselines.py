"""Baselines that need no network: thresholds, pixel classifiers (forest, boosting, ridge regression), GrabCut.

All but GrabCut have the interface of a model (`pipeline.predictor.Model`): encode a support set, then predict tiles.
They learn from the labelled pixels alone.

- everything: calls every pixel object. Its IoU is the share of the object, and what scores less has learned nothing.
- threshold: the channel (red, green, blue, grey, saturation, haematoxylin), smoothing (0, 1 or 2 px), level and side of
  it with the best mean IoU on the labelled pixels. It is optimised on the labels, better than a user could by hand.
- otsu: the channel, smoothing and side chosen by `threshold`, with Otsu's level of each image.
- forest: 50 trees on scikit-image's multiscale intensities, edges and textures, as in its trainable segmentation and
  similar to the pixel classifiers of ilastik and QuPath.
- boosting: 100 trees of histogram gradient boosting with scikit-learn's settings, on the same features.
- ridge: ridge regression of the labels on the same features.
- grabcut: OpenCV's GrabCut inside the bounding box of the true object. It uses no support set, but knows more about the
  query than any other method: where the object is.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import skimage.color
import skimage.feature
import skimage.filters
from scipy import ndimage

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.evaluation.names import BASELINES

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

MISSING = "{} is not installed; install the baselines with pip install fewscope[eval]"
CHANNELS = ("red", "green", "blue", "grey", "saturation", "haematoxylin")
SMOOTHINGS = (0.0, 1.0, 2.0)  # px
LEVELS = 256
HAEMATOXYLIN_MAX = 0.5
"""Upper end of the haematoxylin scale, optical density of scikit-image's rgb2hed; dark nuclei have 0.2 to 0.4."""


@functools.lru_cache(maxsize=64)
def _planes(shape: tuple[int, int, int], content: bytes) -> dict[tuple[str, float], np.ndarray]:
    image = np.frombuffer(content, np.uint8).reshape(shape)
    part = image / 255.0
    planes = [*np.moveaxis(part, 2, 0), skimage.color.rgb2gray(part), skimage.color.rgb2hsv(part)[..., 1]]
    planes.append(skimage.color.rgb2hed(image)[..., 0] / HAEMATOXYLIN_MAX)
    return {
        (name, sigma): np.rint(
            (LEVELS - 1) * np.clip(ndimage.gaussian_filter(plane, sigma) if sigma else plane, 0, 1)
        ).astype(np.uint8)
        for name, plane in zip(CHANNELS, planes, strict=True)
        for sigma in SMOOTHINGS
    }


def planes(image: np.ndarray) -> dict[tuple[str, float], np.ndarray]:
    """Every channel of an image (H, W, 3) uint8 at every smoothing: (H, W) uint8 each."""
    return _planes(image.shape, image.tobytes())


def ious_of_levels(plane: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """IoU of ``plane >= level`` and of ``plane < level`` with the labelled object, for all levels: (2, 256) float64.

    Parameters
    ----------
    plane : (H, W) uint8
    labels : np.ndarray
        (H, W) uint8; 1 is object, 0 background, anything else is not labelled.
    """
    objects = np.bincount(plane[labels == 1], minlength=LEVELS)
    others = np.bincount(plane[labels == 0], minlength=LEVELS)
    below = np.stack([np.cumsum(x) - x for x in (objects, others)])  # pixels below each level
    total = np.array([objects.sum(), others.sum()])[:, None]
    above = total - below
    return np.stack([above[0] / (total[0] + above[1]), below[0] / (total[0] + below[1])])


@dataclass(frozen=True, slots=True)
class Cut:
    """A level in one channel. Object pixels are at or above it (``bright``), or below it."""

    channel: str
    smoothing: float  # px
    bright: bool
    level: int


class Everything:
    """Calls every pixel object, whatever the support set is."""

    name = "everything"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Nothing of patches (K, H, W, 3) uint8 and labels (K, H, W)."""

    def predict(self, tiles: np.ndarray, features: None) -> np.ndarray:
        """Ones (N, 1, H, W) float32 for tiles (N, H, W, 3) uint8."""
        return np.ones((len(tiles), 1, *tiles.shape[1:3]), np.float32)


class ColourThreshold:
    """The threshold with the best mean IoU on the labelled pixels."""

    name = "threshold"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Cut:
        """The best of all cuts on patches (K, H, W, 3) uint8 with labels (K, H, W)."""
        with_object = [k for k in range(len(labels)) if (labels[k] == 1).any()]
        best = (-1.0, Cut("grey", 0.0, False, 0))
        for channel, smoothing in planes(images[0]):
            means = np.mean(
                [ious_of_levels(planes(images[k])[channel, smoothing], labels[k]) for k in with_object],
                axis=0,
            )
            side, level = np.unravel_index(int(means.argmax()), means.shape)
            if means.max() > best[0]:
                best = (float(means.max()), Cut(channel, smoothing, side == 0, int(level)))
        return best[1]

    def predict(self, tiles: np.ndarray, features: Cut) -> np.ndarray:
        """Masks (N, 1, H, W) float32, 0 or 1, of tiles (N, H, W, 3) uint8."""
        masks = []
        for tile in tiles:
            plane = planes(tile)[features.channel, features.smoothing]
            masks.append((plane >= self._level(plane, features)) == features.bright)
        return np.stack(masks)[:, None].astype(np.float32)

    def _level(self, plane: np.ndarray, cut: Cut) -> int:
        return cut.level


class OtsuThreshold(ColourThreshold):
    """Channel, smoothing and side as `ColourThreshold` chooses them; the level is Otsu's, for each tile."""

    name = "otsu"

    def _level(self, plane: np.ndarray, cut: Cut) -> int:
        if plane.min() == plane.max():  # Otsu's method needs two values
            return cut.level
        return int(skimage.filters.threshold_otsu(plane)) + 1


@functools.lru_cache(maxsize=64)
def _textures(shape: tuple[int, int, int], content: bytes) -> np.ndarray:
    image = np.frombuffer(content, np.uint8).reshape(shape)
    features: np.ndarray = skimage.feature.multiscale_basic_features(image, channel_axis=-1)
    return features.astype(np.float32)


class PixelForest:
    """A random forest of pixels with the settings of scikit-image's example of trainable segmentation."""

    name = "forest"

    def __init__(self) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self._classifier = RandomForestClassifier

    def encode(self, images: np.ndarray, labels: np.ndarray) -> RandomForestClassifier:
        """A forest fitted to the labelled pixels of patches (K, H, W, 3) uint8, labels (K, H, W)."""
        x = np.concatenate(
            [_textures(i.shape, i.tobytes())[y != IGNORE_LABEL] for i, y in zip(images, labels, strict=True)]
        )
        forest = self._classifier(50, max_depth=10, max_samples=0.05, n_jobs=1, random_state=0)
        return forest.fit(x, labels[labels != IGNORE_LABEL])

    def predict(self, tiles: np.ndarray, features: RandomForestClassifier) -> np.ndarray:
        """Probability (N, 1, H, W) float32 of tiles (N, H, W, 3) uint8."""
        probabilities = [
            features.predict_proba(_textures(t.shape, t.tobytes()).reshape(t.shape[0] * t.shape[1], -1))[:, 1]
            for t in tiles
        ]
        return np.stack(probabilities).reshape(len(tiles), 1, *tiles.shape[1:3]).astype(np.float32)


MOST_PIXELS = 20_000
"""Labelled pixels that `PixelBoosting` and `PixelRidge` learn from, drawn at random; a forest draws its own."""


def _sample(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) float32 and labels (n,) of at most `MOST_PIXELS` labelled pixels."""
    x = np.concatenate(
        [_textures(i.shape, i.tobytes())[y != IGNORE_LABEL] for i, y in zip(images, labels, strict=True)]
    )
    y = labels[labels != IGNORE_LABEL]
    chosen = np.random.default_rng(0).permutation(len(y))[:MOST_PIXELS]
    return x[chosen], y[chosen]


class PixelBoosting:
    """Gradient boosting of pixels (`sklearn.ensemble.HistGradientBoostingClassifier`), features of `PixelForest`."""

    name = "boosting"

    def __init__(self) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._classifier = HistGradientBoostingClassifier

    def encode(self, images: np.ndarray, labels: np.ndarray) -> HistGradientBoostingClassifier:
        """Trees fitted to labelled pixels of patches (K, H, W, 3) uint8, labels (K, H, W)."""
        return self._classifier(early_stopping=False, random_state=0).fit(*_sample(images, labels))

    def predict(self, tiles: np.ndarray, features: HistGradientBoostingClassifier) -> np.ndarray:
        """Probability (N, 1, H, W) float32 of tiles (N, H, W, 3) uint8."""
        found = [
            features.predict_proba(_textures(t.shape, t.tobytes()).reshape(t.shape[0] * t.shape[1], -1))[:, 1]
            for t in tiles
        ]
        return np.stack(found).reshape(len(tiles), 1, *tiles.shape[1:3]).astype(np.float32)


class PixelRidge:
    """Ridge regression of the labels on the standardised features of `PixelForest`, clipped to 0..1."""

    name = "ridge"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and deviation of the features (d,), and coefficients (d + 1,), the intercept last."""
        x, y = _sample(images, labels)
        mean, deviation = x.mean(0), x.std(0) + 1e-6
        x = np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=1.0).astype(np.float64)
        regularised = x.T @ x + np.diag([1.0] * len(mean) + [0.0])
        return mean, deviation, np.linalg.solve(regularised, x.T @ y)

    def predict(self, tiles: np.ndarray, features: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Probability (N, 1, H, W) float32 of tiles (N, H, W, 3) uint8."""
        mean, deviation, coefficients = features
        found = [
            ((_textures(t.shape, t.tobytes()) - mean) / deviation) @ coefficients[:-1] + coefficients[-1]
            for t in tiles
        ]
        return np.stack(found)[:, None].clip(0, 1).astype(np.float32)


class GrabCut:
    """GrabCut (Rother et al. 2004) inside the bounding box of the query's true object.

    Raises
    ------
    ImportError
        OpenCV is not installed.
    """

    name = "grabcut"
    ITERATIONS = 5  # as in OpenCV's tutorial

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as e:
            raise ImportError(MISSING.format("opencv-python-headless")) from e
        self._cv2 = cv2

    def predict_in_boxes(self, tiles: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Masks (N, H, W) float32, 0 or 1, of tiles (N, H, W, 3) uint8.

        Only the bounding box of the true labels (N, H, W) is used. A box as large as the tile is returned unchanged:
        there is no background to learn from.
        """
        masks = np.zeros(labels.shape, np.float32)
        for tile, truth, mask in zip(tiles, labels, masks, strict=True):
            if not (truth == 1).any():
                continue
            (rows, cols), *_ = ndimage.find_objects(np.asarray(truth == 1, np.uint8))
            if rows.stop - rows.start == truth.shape[0] and cols.stop - cols.start == truth.shape[1]:
                mask[:] = 1
                continue
            marks = np.zeros(truth.shape, np.uint8)
            box = (cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
            self._cv2.setRNGSeed(0)  # it starts with k-means
            self._cv2.grabCut(
                np.ascontiguousarray(tile[..., ::-1]),
                marks,
                box,
                np.zeros((1, 65)),
                np.zeros((1, 65)),
                self.ITERATIONS,
                self._cv2.GC_INIT_WITH_RECT,
            )
            mask[:] = (marks == self._cv2.GC_FGD) | (marks == self._cv2.GC_PR_FGD)
        return masks


def score_method(
    method: predictor.Model, held_out: np.ndarray | None, labels: np.ndarray
) -> leave_one_out.LeaveOneOut | None:
    """Leave-one-out scores of any method, from its held-out predictions (K, H, W); None without predictions.

    Baselines always use the midpoint between 0.5 and their best threshold. The probabilities of a random forest are
    less calibrated than those of a network, and this suits it better: 0.637 instead of 0.631 on the ten classes of the
    model card.
    """
    if held_out is None:
        return None
    if method.name not in BASELINES:
        return leave_one_out.score_held_out(held_out, labels)
    return leave_one_out.score_held_out(
        held_out, labels, leave_one_out.shrink_threshold(leave_one_out.best_threshold(held_out, labels))
    )


def load_baseline(name: str) -> predictor.Model | GrabCut:
    """The baseline of that name, one of `BASELINES`.

    Raises
    ------
    ImportError
        Its library is not installed; the message says how to install it.
    ValueError
        There is no such baseline.
    """
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r} does not exist; choose from {', '.join(BASELINES)}")
    baseline: predictor.Model | GrabCut = getattr(sys.modules[__name__], BASELINES[name])()
    return baseline

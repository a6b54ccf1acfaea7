"""What a user has without a network, to compare with: a colour threshold, Otsu, a random forest of pixels, GrabCut.

All but GrabCut have the verbs of `model.segmenter.Segmenter` (`pipeline.predictor.Model`): encode a support set once,
predict tiles with it. They learn from the labelled pixels alone.

- threshold: the channel (red, green, blue, grey, saturation, haematoxylin), the smoothing (none, 1 px, 2 px), the level
  and the side of it with the best mean IoU on the labelled pixels. It is fitted on the labels: no user does it so well.
- otsu: Otsu's level of each picture, on the channel, smoothing and side that `threshold` chose.
- forest: 50 trees on scikit-image's multiscale intensities, edges and textures, as in its trainable segmentation and
  like the pixel classifiers of ilastik and QuPath.
- grabcut: OpenCV's GrabCut inside the bounding box of the true object. It has no support set and is told more of the
  query than any other: where the object is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import skimage.color
import skimage.feature
import skimage.filters
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.evaluation.names import BASELINES

MISSING = "{} is not installed; install Fewscope with its baselines: pip install fewscope[eval]"
CHANNELS = ("red", "green", "blue", "grey", "saturation", "haematoxylin")
SMOOTHINGS = (0.0, 1.0, 2.0)  # px
LEVELS = 256
HAEMATOXYLIN_MAX = (
    0.5  # optical density of skimage's rgb2hed that the scale ends at; dark nuclei have 0.2 to 0.4
)


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
    """(H, W, 3) uint8 -> every channel at every smoothing, (H, W) uint8."""
    return _planes(image.shape, image.tobytes())


def ious_of_levels(plane: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """IoU of ``plane >= level`` and of ``plane < level`` with the labelled object, for levels 0..255: (2, 256)."""
    objects = np.bincount(plane[labels == 1], minlength=LEVELS)
    others = np.bincount(plane[labels == 0], minlength=LEVELS)
    below = np.stack([np.cumsum(x) - x for x in (objects, others)])  # of each, how many are below the level
    total = np.array([objects.sum(), others.sum()])[:, None]
    above = total - below
    return np.stack([above[0] / (total[0] + above[1]), below[0] / (total[0] + below[1])])


@dataclass(frozen=True, slots=True)
class Cut:
    """A level of a channel. Object is what is at or above it (``bright``), or below it."""

    channel: str
    smoothing: float
    bright: bool
    level: int


class ColourThreshold:
    """The threshold that fits the labels best; with `otsu`, only its channel and side, and Otsu's level."""

    def __init__(self, otsu: bool = False) -> None:
        self.name = "otsu" if otsu else "threshold"
        self.otsu = otsu

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Cut:
        """The best of all cuts on these patches."""
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
        """(N, 1, H, W) float32 of 0 and 1."""
        found = []
        for tile in tiles:
            plane = planes(tile)[features.channel, features.smoothing]
            level = features.level
            if self.otsu and plane.min() < plane.max():
                level = int(skimage.filters.threshold_otsu(plane)) + 1
            found.append((plane >= level) == features.bright)
        return np.stack(found)[:, None].astype(np.float32)


@functools.lru_cache(maxsize=64)
def _textures(shape: tuple[int, int, int], content: bytes) -> np.ndarray:
    image = np.frombuffer(content, np.uint8).reshape(shape)
    features: np.ndarray = skimage.feature.multiscale_basic_features(image, channel_axis=-1)
    return features.astype(np.float32)


class PixelForest:
    """Random forest of pixels, with the settings of scikit-image's example of trainable segmentation."""

    name = "forest"

    def __init__(self) -> None:
        try:
            from sklearn.ensemble import RandomForestClassifier
        except ImportError as e:
            raise ImportError(MISSING.format("scikit-learn")) from e
        self._classifier = RandomForestClassifier

    def encode(self, images: np.ndarray, labels: np.ndarray) -> RandomForestClassifier:
        """Fit on the labelled pixels."""
        x = np.concatenate(
            [_textures(i.shape, i.tobytes())[y != IGNORE_LABEL] for i, y in zip(images, labels, strict=True)]
        )
        forest = self._classifier(50, max_depth=10, max_samples=0.05, n_jobs=1, random_state=0)
        return forest.fit(x, labels[labels != IGNORE_LABEL])

    def predict(self, tiles: np.ndarray, features: RandomForestClassifier) -> np.ndarray:
        """(N, 1, H, W) float32."""
        found = [
            features.predict_proba(_textures(t.shape, t.tobytes()).reshape(t.shape[0] * t.shape[1], -1))[:, 1]
            for t in tiles
        ]
        return np.stack(found).reshape(len(tiles), 1, *tiles.shape[1:3]).astype(np.float32)


class GrabCut:
    """GrabCut (Rother et al. 2004), told the bounding box of the object in the query; five iterations."""

    name = "grabcut"
    ITERATIONS = 5  # as in OpenCV's tutorial

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as e:
            raise ImportError(MISSING.format("opencv-python-headless")) from e
        self._cv2 = cv2

    def predict_in_boxes(self, tiles: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, H, W) float32 of 0 and 1, from (N, H, W, 3) uint8 and the truth, of which only the box is looked at.

        A box that leaves no background around it is returned as it is: there is nothing to learn background from.
        """
        found = np.zeros(labels.shape, np.float32)
        for tile, truth, mask in zip(tiles, labels, found, strict=True):
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
        return found


def score_method(
    method: predictor.Model, held_out: np.ndarray | None, labels: np.ndarray
) -> leave_one_out.LeaveOneOut | None:
    """`leave_one_out.score_held_out` of held-out predictions (K, H, W) of any method.

    Baselines always use the midpoint between 0.5 and their best threshold. The probabilities of a random forest
    are less calibrated than those of a network, and this suits it better: 0.637 instead of 0.631 on the ten classes of
    the model card.
    """
    if held_out is None:
        return None
    if method.name not in BASELINES:
        return leave_one_out.score_held_out(held_out, labels)
    return leave_one_out.score_held_out(
        held_out, labels, leave_one_out.shrink_threshold(leave_one_out.best_threshold(held_out, labels))
    )


def load_baseline(name: str) -> predictor.Model | GrabCut:
    """One of `BASELINES` by its name.

    Raises
    ------
    ImportError
        Its library is not installed; the message says how.
    """
    if name in ("threshold", "otsu"):
        return ColourThreshold(otsu=name == "otsu")
    if name == "forest":
        return PixelForest()
    if name == "grabcut":
        return GrabCut()
    raise ValueError(f"baseline {name!r} is not one of {', '.join(BASELINES)}")

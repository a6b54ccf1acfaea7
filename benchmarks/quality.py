"""How good the masks are: Fewscope, the best colour threshold, Otsu, and a random forest of pixels, on real slides.

    python benchmarks/quality.py --help
    python benchmarks/quality.py --slides demo CMU-1-Small-Region --rivals threshold
    FEWSCOPE_SHARED_DATA=~/data python benchmarks/quality.py > quality.jsonl

All methods learn from the same hand-drawn patches (`examples/`) and are held to the same protocol, that of
`pipeline.calibrate`: each patch is predicted from the others, and patches that no method has seen (`*_check.geojson`)
from all of them. All may choose their threshold of probability on the patches left out, and all count with the rule,
components or split, that suits their own masks there, without specks, as a run does. IoU is over the labelled pixels of
a patch, then the mean.

- threshold: the channel (red, green, blue, grey, saturation, haematoxylin), the smoothing (none, 1 px, 2 px), the level
  and the side of it with the best mean IoU on the labelled pixels. It is fitted on the labels: no user does it so well.
- otsu: Otsu's level of each picture, on the channel, smoothing and side that `threshold` chose.
- forest: 50 trees on scikit-image's multiscale intensities, edges and textures, as in its trainable segmentation.

Slides are looked for in ../shared/data/slides beside the repository, or in $FEWSCOPE_SHARED_DATA/slides; those that are
not there are named and left out. The demo needs none. One JSON line per slide and method, differences first.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import skimage.color
import skimage.data
import skimage.feature
import skimage.filters
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from benchmarks.records import emit
from connectors.pyramid_tiff import write_pyramid
from connectors.source import open_source
from connectors.support import SupportSet, load_support
from model.segmenter import MODELS, load_segmenter
from pipeline import calibrate
from pipeline.decision import count_objects
from pipeline.plan import SegmentConfig, possible_rules, smallest_object

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FEWSCOPE_SHARED_DATA") or ROOT.parent / "shared" / "data")
RIVALS = ("threshold", "otsu", "forest")
CHANNELS = ("red", "green", "blue", "grey", "saturation", "haematoxylin")
SMOOTHINGS = (0.0, 1.0, 2.0)  # px
LEVELS = 256
HAEMATOXYLIN_MAX = (
    0.5  # optical density of skimage's rgb2hed that the scale ends at; dark nuclei have 0.2 to 0.4
)


@dataclass(frozen=True, slots=True)
class Case:
    """A slide, and how it is opened; ``slide`` is "" for the demo, which is made here."""

    name: str
    slide: str
    mpp: float | None = None
    slide_mpp: float | None = None

    @property
    def annotations(self) -> list[Path]:
        """The support set, and the patches that judge where there are any."""
        if not self.slide:
            return [ROOT / "examples" / "ihc_nuclei.geojson"]
        stem = ROOT / "examples" / "slides" / Path(self.slide).stem
        return [stem.with_name(f"{stem.name}{end}.geojson") for end in ("", "_check")]


CASES = (
    Case("demo", ""),
    Case("CMU-1-Small-Region", "CMU-1-Small-Region.svs"),
    Case("test3-DAPI", "test3-DAPI.ndpi"),
    Case("TCGA-CR-7395", "TCGA-CR-7395-01A-01-TS1.svs", mpp=0.5, slide_mpp=1.0),
    Case("wsi2dcm-jpeg", "wsi2dcm-jpeg.dcm"),
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
        """(N, H, W) float32 of 0 and 1."""
        found = []
        for tile in tiles:
            plane = planes(tile)[features.channel, features.smoothing]
            level = features.level
            if self.otsu and plane.min() < plane.max():
                level = int(skimage.filters.threshold_otsu(plane)) + 1
            found.append((plane >= level) == features.bright)
        return np.stack(found).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _textures(shape: tuple[int, int, int], content: bytes) -> np.ndarray:
    image = np.frombuffer(content, np.uint8).reshape(shape)
    features: np.ndarray = skimage.feature.multiscale_basic_features(image, channel_axis=-1)
    return features.astype(np.float32)


class PixelForest:
    """Random forest of pixels, with the settings of scikit-image's example of trainable segmentation."""

    name = "forest"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> RandomForestClassifier:
        """Fit on the labelled pixels."""
        x = np.concatenate(
            [_textures(i.shape, i.tobytes())[y != 255] for i, y in zip(images, labels, strict=True)]
        )
        forest = RandomForestClassifier(50, max_depth=10, max_samples=0.05, n_jobs=1, random_state=0)
        return forest.fit(x, labels[labels != 255])

    def predict(self, tiles: np.ndarray, features: RandomForestClassifier) -> np.ndarray:
        """(N, H, W) float32."""
        found = [
            features.predict_proba(_textures(t.shape, t.tobytes()).reshape(t.shape[0] * t.shape[1], -1))[:, 1]
            for t in tiles
        ]
        return np.stack(found).reshape(tiles.shape[:3]).astype(np.float32)


def judge(model: calibrate.Model, support: SupportSet, check: SupportSet | None) -> dict[str, Any]:
    """IoU and counts of a model: each patch from the others, and the check patches from all.

    Counts are of objects in the labelled area, parts that its border cuts off included, on both sides.
    """
    began = time.perf_counter()
    loo = calibrate.leave_one_out(model, support.images, support.labels)
    if loo is None:
        raise ValueError("the support set is too small to leave a patch out; label objects in two patches")
    as_run = SegmentConfig("", "", "")  # what a run does by itself
    rules = possible_rules(as_run, support, support.mpp)
    counts = functools.partial(
        count_objects,
        threshold=loo.threshold,
        connectivity=as_run.connectivity,
        min_area=smallest_object(as_run, support, support.mpp),
    )
    rule = min(
        rules, key=lambda r: _count_error(support, loo.probabilities, functools.partial(counts, rule=r))
    )
    count = functools.partial(counts, rule=rule)
    found: dict[str, Any] = {
        "leave_one_out": _measures(support, loo.probabilities, loo.threshold, count),
        "check": None,
    }
    if check is not None:
        probabilities = model.predict(check.images, model.encode(support.images, support.labels))
        found["check"] = _measures(check, probabilities, loo.threshold, count)
    found["threshold"] = loo.threshold
    found["counted_by"] = "components" if rule is None else f"split, radius {rule.radius:.1f} px"
    found["seconds"] = time.perf_counter() - began
    return found


def _count_error(support: SupportSet, probabilities: np.ndarray, count: Callable[[np.ndarray], int]) -> float:
    if support.instances is None:
        return 0.0
    errors = calibrate.count_errors(probabilities, support.labels, support.instances, count)
    return float(np.abs(errors).mean())


def _measures(
    truth: SupportSet, probabilities: np.ndarray, threshold: float, count: Callable[[np.ndarray], int]
) -> dict[str, Any]:
    labels = truth.labels
    ious = [calibrate.masked_iou(p >= threshold, y) for p, y in zip(probabilities, labels, strict=True)]
    measures: dict[str, Any] = {
        "mean_iou": float(np.nanmean(ious)),
        "ious": [None if np.isnan(v) else float(v) for v in ious],
    }
    if truth.instances is not None:
        counted = [
            count(np.where(y != 255, p, 0).astype(np.float32))
            for p, y in zip(probabilities, labels, strict=True)
        ]
        true = [len(np.unique(objects[objects > 0])) for objects in truth.instances]
        measures["count_error_mean"] = float(
            np.mean(np.abs(np.subtract(counted, true)) / np.maximum(true, 1))
        )
        measures["counted_over_true"] = sum(counted) / max(sum(true), 1)
        measures["counted"], measures["true"] = counted, true
    return measures


def load_case(case: Case, folder: Path) -> tuple[SupportSet, SupportSet | None] | None:
    """Support set and check patches of a case; None, and a line on stderr, where its slide is missing."""
    if case.slide:
        slide = SHARED_DATA / "slides" / case.slide
        if not slide.exists():
            print(
                f"{case.name}: left out, no {slide}; set FEWSCOPE_SHARED_DATA to the folder of slides/",
                file=sys.stderr,
            )
            return None
    else:
        slide = folder / "demo.tif"
        picture = np.pad(skimage.data.immunohistochemistry(), ((0, 512), (0, 512), (0, 0)), mode="symmetric")
        write_pyramid(slide, picture, 0.5)  # the corner of the demo's slide that is drawn on
    source = open_source(str(slide), mpp=case.mpp, slide_mpp=case.slide_mpp)
    support, *check = (load_support(str(path), source=source) for path in case.annotations)
    source.close()
    return support, check[0] if check else None


def differences(of: dict[str, Any], to: dict[str, Any]) -> dict[str, float | None]:
    """Mean IoU of one method minus that of another, each way of judging."""
    return {
        way: of[way]["mean_iou"] - to[way]["mean_iou"] if of[way] and to[way] else None
        for way in ("leave_one_out", "check")
    }


def compare(
    cases: Sequence[Case], models: Sequence[calibrate.Model]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(slide, method, measures) of every model on every case; the first model is compared with the others."""
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            loaded = load_case(case, Path(folder))
            if loaded is None:
                continue
            found = {model.name: judge(model, *loaded) for model in models}
            own = models[0].name
            for name, measures in found.items():
                others = [other for other in found if other != name] if name == own else [own]
                yield (
                    case.name,
                    name,
                    {"iou_minus": {o: differences(measures, found[o]) for o in others}} | measures,
                )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("--slides", nargs="+", choices=names, default=names, help="which (default: all)")
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=RIVALS,
        default=RIVALS,
        help="which (default: all; the forest takes minutes)",
    )
    parser.add_argument("--model", choices=MODELS, default="compact", help="Fewscope's network (%(default)s)")
    parser.add_argument("--weights", help="weights instead of the shipped ones (.safetensors)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per slide and method; 0, or 1 where no slide was there."""
    args = parse(argv)
    rivals: dict[str, calibrate.Model] = {
        "threshold": ColourThreshold(),
        "otsu": ColourThreshold(otsu=True),
        "forest": PixelForest(),
    }
    models: list[calibrate.Model] = [load_segmenter(args.model, args.weights)]
    models += [rivals[name] for name in args.rivals]
    n = 0
    for slide, method, measures in compare([case for case in CASES if case.name in args.slides], models):
        emit("quality", {"slide": slide, "method": method} | measures)
        n += 1
    return 0 if n else 1


if __name__ == "__main__":
    sys.exit(main())

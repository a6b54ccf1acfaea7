"""How good the masks are: Fewscope, the best colour threshold, Otsu, and a random forest of pixels, on real slides.

    python benchmarks/quality.py --help
    python benchmarks/quality.py --slides demo CMU-1-Small-Region --baselines threshold
    FEWSCOPE_SHARED_DATA=~/data python benchmarks/quality.py > quality.jsonl

All methods learn from the same hand-drawn patches (`examples/`) and are held to the same protocol, that of
`pipeline.calibration.leave_one_out`: each patch is predicted from the others, and patches that no method has seen
(`*_check.geojson`) from all of them. All may choose their threshold of probability on the held-out patches, and all
count with the rule, components or split, that suits their own masks there, without specks, as a run does. IoU is over
the labelled pixels of
a patch, then the mean.

The baselines are those of `pipeline.evaluation.baselines`.

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
import skimage.data

from benchmarks.records import emit
from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.networks.names import MODELS
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.calibration.object_counts import choose_rule, count_objects
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.evaluation.baselines import load_baseline, score_method
from fewscope.pipeline.evaluation.runner import Adapted
from fewscope.pipeline.plan import candidate_rules, min_object_area_px

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FEWSCOPE_SHARED_DATA") or ROOT.parent / "shared" / "data")
BASELINES = ("threshold", "otsu", "forest")  # GrabCut needs one object in a box, and slides have many


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


def judge(model: predictor.Model, support: SupportSet, check: SupportSet | None) -> dict[str, Any]:
    """IoU and counts of a model: each patch from the others, and the check patches from all.

    Counts are of objects in the labelled area, parts that its border cuts off included, on both sides.
    """
    began = time.perf_counter()
    if isinstance(model, Adapted):  # as a job does
        encoding = model.select_encoding(support)
        features, held_out = encoding.features, encoding.held_out[0]
    else:
        features = model.encode(support.images, support.labels)
        (held_out,) = leave_one_out.predict_held_out(model, support.images, support.labels[None])
    loo = score_method(model, held_out, support.labels)
    if loo is None:
        raise ValueError("the support set is too small to leave a patch out; label objects in two patches")
    as_run = SegmentConfig("", "", "")  # what a run does by itself
    rules = candidate_rules(as_run, support, support.mpp)
    how: dict[str, Any] = {
        "connectivity": as_run.connectivity,
        "min_area": min_object_area_px(as_run, support, support.mpp),
    }
    rule = rules[0]
    if support.instances is not None:
        rule, _ = choose_rule(support, loo.probabilities, loo.threshold, rules, **how)
    count = functools.partial(count_objects, threshold=loo.threshold, rule=rule, **how)
    found: dict[str, Any] = {
        "leave_one_out": _measures(support, loo.probabilities, loo.threshold, count),
        "check": None,
    }
    if check is not None:
        probabilities = model.predict(check.images, features)[:, 0]
        found["check"] = _measures(check, probabilities, loo.threshold, count)
    found["threshold"] = loo.threshold
    found["counted_by"] = "components" if rule is None else f"split, radius {rule.radius:.1f} px"
    found["seconds"] = time.perf_counter() - began
    return found


def _measures(
    truth: SupportSet, probabilities: np.ndarray, threshold: float, count: Callable[[np.ndarray], int]
) -> dict[str, Any]:
    labels = truth.labels
    ious = [leave_one_out.masked_iou(p >= threshold, y) for p, y in zip(probabilities, labels, strict=True)]
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
    cases: Sequence[Case], models: Sequence[predictor.Model]
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
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=BASELINES,
        help="which (default: all; the forest takes minutes)",
    )
    parser.add_argument("--model", choices=MODELS, default="compact", help="Fewscope's network (%(default)s)")
    parser.add_argument(
        "--adapt",
        type=float,
        metavar="SECONDS",
        help="also fine-tuned on each support set as a job does, for so long on one core (a job: 120)",
    )
    parser.add_argument("--looks", type=int, choices=(1, 2), help="as in jobs/segment_wsi.py")
    parser.add_argument("--weights", help="weights instead of the shipped ones (.safetensors)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per slide and method; 0, or 1 where no slide was there."""
    args = parse(argv)
    network = load_segmenter(args.model, args.weights, looks=args.looks)
    models: list[predictor.Model] = [Adapted(network, args.adapt)] if args.adapt is not None else []
    models.append(network)
    models += [load_baseline(name) for name in args.baselines]
    n = 0
    for slide, method, measures in compare([case for case in CASES if case.name in args.slides], models):
        emit("quality", {"slide": slide, "method": method} | measures)
        n += 1
    return 0 if n else 1


if __name__ == "__main__":
    sys.exit(main())

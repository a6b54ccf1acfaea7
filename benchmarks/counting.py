"""How far a count is off: pictures whose objects are all known, counted by a job from five regions of each.

    python benchmarks/counting.py --data ../shared/data/counting/dsb2018
    python benchmarks/counting.py --data ../shared/data/counting/dsb2018 --weights runs/l/weights.safetensors
    python benchmarks/counting.py --data ../shared/data/fewshot --classes val

`DATA` holds ``<id>.png`` and ``<id>.inst.png`` (0 = background, 1..n = one object each). A user is played for each
picture: five square regions with objects in them, a fifth of the area together and at most 224 px wide, are labelled,
every object in them outlined, and handed to a job with its defaults as a QuPath file. The count of the rest is judged:
objects that lie for the most part in a labelled region count on neither side, so nothing that was shown is asked.

Beside it: the same mask counted as plain connected components. A picture is crowded where the true objects touch so
much that a perfect mask has at least a tenth fewer components. The interval of the count is that of the report, for the
whole picture with its labelled regions. One JSON line per picture, then a summary, ratio first.

With ``--classes SPLIT``, `DATA` is a folder of class folders (FSS-1000's layout, with ``<k>.inst.png``): five patches
of a class are the support set, and the objects of up to twelve other patches of it are counted together. Objects that
an edge cuts off count on both sides, unless what is left is smaller than the smallest object of the job. One JSON line
per support set, a line per class, and the mean over classes. The classes of ``train`` are those to choose rules on; the
network has learned from them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import shapely
from affine import Affine
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders, ClassImages
from fewscope.connectors.open import open_source
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.model.episodes.protocol import sampled_episodes
from fewscope.model.networks.names import MODELS
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration.intervals import count_estimate, count_interval
from fewscope.pipeline.calibration.object_counts import countable, label_objects
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.evaluation.runner import Adapted, Method, encode_support, predict, support_set
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.geometry.footprints import footprints
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.metrics import compare_objects
from fewscope.pipeline.plan import min_object_area_px
from fewscope.pipeline.predictor import Model
from fewscope.pipeline.run import segment

MPP = 0.5  # that of a job's working grid: pictures are taken as they are
N_REGIONS = 5
DEFAULTS = SegmentConfig("", "", "")  # what a job does by itself
ADAPT_S = DEFAULTS.adapt_s
SHARE = 0.2
"""Part of a picture that is labelled."""
CROWDED = 0.9
"""Components over objects of the true mask, up to which a picture is crowded."""
N_QUERIES = 12
"""Patches of a class that are counted with one support set."""


@dataclass(frozen=True, slots=True)
class Region:
    """A labelled square, px."""

    row: int
    col: int
    side: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Where it is in an array (H, W)."""
        return slice(self.row, self.row + self.side), slice(self.col, self.col + self.side)


def choose_regions(objects: np.ndarray, seed: int) -> list[Region]:
    """Up to five squares about an object each, apart from one another, drawn with a seed."""
    height, width = objects.shape
    side = int(min(224, np.sqrt(SHARE * objects.size / N_REGIONS), height, width))
    rng = np.random.default_rng(seed)
    ids = np.unique(objects[objects > 0])
    taken = np.zeros(objects.shape, bool)
    regions: list[Region] = []
    for _ in range(40):
        for one in rng.permutation(ids):
            rows, cols = np.nonzero(objects == one)
            shift = rng.integers(-side // 4, side // 4 + 1, 2)
            corner = np.array([rows.mean(), cols.mean()]) - side / 2 + shift
            row, col = (int(v) for v in np.clip(np.rint(corner), 0, [height - side, width - side]))
            region = Region(row, col, side)
            if not taken[region.pixels].any():
                taken[region.pixels] = True
                regions.append(region)
            if len(regions) == N_REGIONS:
                return regions
    return regions


def annotations(objects: np.ndarray, regions: Sequence[Region]) -> dict[str, Any]:
    """What the user draws, as QuPath exports it: the regions, and every object that touches one, whole."""
    shapes = [(shapely.box(r.col, r.row, r.col + r.side, r.row + r.side), "Region*") for r in regions]
    touched = np.unique(np.concatenate([objects[r.pixels].ravel() for r in regions]))
    shapes += [
        (outline, "object")
        for _, outline in footprints(objects, (0, 0), Affine.identity(), ids=touched[touched > 0])
    ]
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(geometry),
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for geometry, name in shapes
    ]
    return {"type": "FeatureCollection", "features": features}


def outside(labels: np.ndarray, regions: Sequence[Region]) -> int:
    """Number of objects that lie at least by half outside the regions."""
    shown = np.zeros(labels.shape, bool)
    for region in regions:
        shown[region.pixels] = True
    areas = np.bincount(labels.ravel())
    inside = np.bincount(labels[shown].ravel(), minlength=len(areas))
    return int(((areas > 0) & (2 * inside <= areas))[1:].sum())


def count(
    picture: np.ndarray,
    objects: np.ndarray,
    model: Model,
    folder: Path,
    seed: int,
    adapt_s: float = ADAPT_S,
) -> dict[str, Any]:
    """Label five regions, run a job, and count the rest in three ways: true, as the job does, components."""
    regions = choose_regions(objects, seed)
    slide, drawn, out = folder / "picture.tif", folder / "regions.geojson", folder / "out"
    write_pyramid(slide, picture, MPP)
    drawn.write_text(json.dumps(annotations(objects, regions)))
    config = SegmentConfig(
        str(slide), str(drawn), str(out), mpp=MPP, outlines="none", overwrite=True, adapt_s=adapt_s
    )
    began = time.perf_counter()
    report = segment(config, LocalPool(lambda: model), model)
    seconds = time.perf_counter() - began
    result = open_result(str(out))
    source = open_source(str(slide), mpp=MPP)
    support = load_support(str(drawn), source=source)
    source.close()
    assert support.instances is not None
    components, _ = label_core(np.asarray(result.semantic[0]) > 0, config.connectivity)
    areas = np.bincount(components.ravel())
    components[areas[components] < min_object_area_px(config, support, MPP)] = 0
    true = outside(objects, regions)
    true_components, _ = label_core(objects > 0, config.connectivity)
    found = {
        "true": true,
        "counted": outside(np.asarray(result.instances[0]), regions),
        "components": outside(components, regions),
    }
    n_objects = len(np.unique(objects[objects > 0]))
    interval = report["count_interval"]
    return found | {
        "crowded": int(true_components.max()) <= CROWDED * n_objects,
        "estimate": found["counted"] * report["count_estimate"] / report["count"]
        if interval and report["count"]
        else None,
        "whole": n_objects,
        "whole_estimate": report["count_estimate"],
        "whole_interval": interval,
        "inside": None if interval is None else interval[0] <= n_objects <= interval[1],
        "regions": len(regions),
        "region_px": regions[0].side,
        "objects_shown": sum(len(np.unique(i[i > 0])) for i in support.instances),
        "promised_iou": report["quality"]["iou_mean"] if report["quality"] else None,
        "seconds": seconds,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median absolute relative errors over all pictures and over the crowded ones; the ratio to components first."""

    def median(rows: Sequence[dict[str, Any]], how: str) -> float | None:
        errors = [abs(row[how] - row["true"]) / row["true"] for row in rows if row["true"]]
        return float(np.median(errors)) if errors else None

    crowded = [row for row in rows if row["crowded"]]
    ours, plain = median(crowded, "counted"), median(crowded, "components")
    true = sum(row["true"] for row in rows)
    return {
        "crowded_error_over_components": ours / plain if ours is not None and plain else None,
        "median_error": median(rows, "counted"),
        "median_error_components": median(rows, "components"),
        "median_error_crowded": ours,
        "median_error_crowded_components": plain,
        "mean_error": _mean_error(rows, "counted"),
        "mean_error_estimate": _mean_error(rows, "estimate"),
        "bias": sum(row["counted"] for row in rows) / true - 1,
        "bias_components": sum(row["components"] for row in rows) / true - 1,
        "inside": sum(bool(row["inside"]) for row in rows),
        "intervals": sum(row["inside"] is not None for row in rows),
        "pictures": len(rows),
        "crowded": len(crowded),
    }


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Why a count is off: found = true - merged + split - missed + false.

    An object of one side belongs to one of the other that holds more than half of it. Objects that belong together,
    directly or through others, are a group; a group has more true than found objects where some are merged.

    Attributes
    ----------
    merged, split : int
        True objects too many for their groups, and found ones.
    missed, false : int
        True objects to which no found one belongs, nor they to one; and found ones.
    """

    merged: int = 0
    split: int = 0
    missed: int = 0
    false: int = 0

    def __add__(self, other: Mistakes) -> Mistakes:
        return Mistakes(
            self.merged + other.merged,
            self.split + other.split,
            self.missed + other.missed,
            self.false + other.false,
        )


def mistakes(found: np.ndarray, true: np.ndarray) -> Mistakes:
    """Compare two label images (H, W), 0 = background.

    >>> mistakes(np.array([[1, 1, 1, 1, 0, 2]]), np.array([[1, 1, 2, 2, 0, 0]]))
    Mistakes(merged=1, split=0, missed=0, false=1)
    """
    true_ids, true_of = np.unique(true, return_inverse=True)
    found_ids, found_of = np.unique(found, return_inverse=True)
    shape = len(true_ids), len(found_ids)
    overlap = coo_array(
        (np.ones(true.size, np.int64), (true_of.ravel(), found_of.ravel())), shape=shape
    ).toarray()
    belongs = (2 * overlap > overlap.sum(1, keepdims=True)) | (2 * overlap > overlap.sum(0, keepdims=True))
    belongs = belongs[true_ids != 0][:, found_ids != 0]
    n_true, n_found = belongs.shape
    if not n_true or not n_found:
        return Mistakes(missed=n_true, false=n_found)
    one, other = np.nonzero(belongs)
    graph = coo_array((np.ones(len(one)), (one, n_true + other)), shape=(n_true + n_found,) * 2)
    n_groups, group = connected_components(graph, directed=False)
    of_true, of_found = (np.bincount(side, minlength=n_groups) for side in np.split(group, [n_true]))
    both = (of_true > 0) & (of_found > 0)
    excess = (of_found - of_true)[both]
    return Mistakes(
        int(-excess[excess < 0].sum()),
        int(excess[excess > 0].sum()),
        int(of_true[of_found == 0].sum()),
        int(of_found[of_true == 0].sum()),
    )


def count_class(
    category: ClassImages, method: Method, episodes: int, queries: int = N_QUERIES
) -> list[dict[str, Any]]:
    """Count the objects of other patches of a class with five of its patches, as a job does: a row per support set."""
    images, labels, instances = category.arrays()
    assert instances is not None
    rows = []
    for draw in sampled_episodes(category.name, len(images), N_REGIONS, episodes, queries):
        encoded = encode_support(method, support_set(category, draw.support), True)
        query = list(draw.query)
        maps = predict(method, images[query], encoded, labels[query])
        total, why = None, Mistakes()
        for (probability, *depth), objects in zip(maps, instances[query], strict=True):
            found = label_objects(
                probability,
                encoded.threshold,
                encoded.rule,
                DEFAULTS.connectivity,
                encoded.min_area,
                depth[0] if depth else None,
            )
            objects = countable(objects, np.ones(objects.shape, bool), encoded.min_area)
            of_query = compare_objects(found, objects)
            total = of_query if total is None else total + of_query
            why += mistakes(found, objects)
        assert total is not None
        interval = count_interval(total.found, encoded.counted_ratio)
        rows.append(
            {
                "class": category.name,
                "true": total.true,
                "counted": total.found,
                "estimate": count_estimate(total.found, encoded.counted_ratio),
                "f1": total.f1,
                **{name: getattr(why, name) for name in MISTAKES},
                "interval": interval,
                "inside": None if interval is None else interval[0] <= total.true <= interval[1],
                "rule": "components" if encoded.rule is None else str(encoded.rule),
            }
        )
    return rows


MISTAKES = ("merged", "split", "missed", "false")


def _mean_error(rows: Sequence[dict[str, Any]], how: str) -> float:
    """Mean absolute relative error of counts; a support set without an estimate stands by what it counts."""
    numbers = [(row["counted"] if row[how] is None else row[how], row["true"]) for row in rows if row["true"]]
    return float(np.mean([abs(number / true - 1) for number, true in numbers]))


def class_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over support sets of one class; mistakes as shares of the true objects."""
    true = sum(row["true"] for row in rows)
    return {
        "error": _mean_error(rows, "counted"),
        "estimate_error": _mean_error(rows, "estimate"),
        "bias": sum(row["counted"] for row in rows) / true - 1,
        "f1": float(np.mean([row["f1"] for row in rows])),
        **{name: sum(row[name] for row in rows) / true for name in MISTAKES},
        "inside": sum(bool(row["inside"]) for row in rows),
        "support_sets": len(rows),
        "true": true,
    }


def mean_of_classes(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over classes, and in how many of all support sets the interval of the count holds."""
    sums = {name: sum(s[name] for s in summaries) for name in ("inside", "support_sets", "true")}
    names = ("error", "estimate_error", "f1", *MISTAKES)
    means = {name: float(np.mean([s[name] for s in summaries])) for name in names}
    return means | sums | {"classes": len(summaries)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of <id>.png and <id>.inst.png")
    parser.add_argument("--model", choices=MODELS, default="compact", help="(default %(default)s)")
    parser.add_argument("--weights", help="weights instead of the shipped ones (.safetensors)")
    parser.add_argument(
        "--adapt",
        type=float,
        default=ADAPT_S,
        help="as in jobs/segment_wsi.py (default %(default)g)",
    )
    parser.add_argument("--looks", type=int, choices=(1, 2), help="as in jobs/segment_wsi.py")
    parser.add_argument("--seed", type=int, default=0, help="of the regions (default 0)")
    parser.add_argument("--most", type=int, help="pictures, the first ones by name (default: all)")
    parser.add_argument("--classes", metavar="SPLIT", help="count patches of the classes of a split instead")
    parser.add_argument(
        "--episodes", type=int, default=3, help="support sets of each class (default %(default)s)"
    )
    return parser.parse_args(argv)


def count_classes(args: argparse.Namespace) -> None:
    """A line per support set, per class, and the mean."""
    model = load_segmenter(args.model, args.weights, looks=args.looks)
    method = Adapted(model, args.adapt) if args.adapt and model.adapts else model
    summaries = []
    for category in ClassFolders(args.data).classes(args.classes):
        if category.instances is None:
            continue
        rows = count_class(category, method, args.episodes)
        for row in rows:
            emit("counting", row)
        summaries.append(class_summary(rows))
        emit("counting", {"class": category.name} | summaries[-1])
    if not summaries:
        raise SystemExit(
            f"no class of split {args.classes} in {args.data} has outlined objects (<k>.inst.png)"
        )
    emit("counting", {"class": "all"} | mean_of_classes(summaries))


def main(argv: Sequence[str] | None = None) -> int:
    """A line per picture, and the summary."""
    args = parse(argv)
    if args.classes:
        count_classes(args)
        return 0
    maps = sorted(args.data.glob("*.inst.png"))[: args.most]
    if not maps:
        raise SystemExit(f"{args.data} holds no <id>.inst.png; give the folder of labelled pictures")
    model = load_segmenter(args.model, args.weights, looks=args.looks)
    rows = []
    for path in maps:
        name = path.name.removesuffix(".inst.png")
        with Image.open(path) as file:
            objects = np.asarray(file).astype(np.int32)
        with Image.open(path.with_name(f"{name}.png")) as file:
            picture = np.asarray(file.convert("RGB"))
        with tempfile.TemporaryDirectory(prefix="fewscope-count-") as folder:
            rows.append(count(picture, objects, model, Path(folder), args.seed, args.adapt))
        emit("counting", {"picture": name} | rows[-1])
    emit("counting", {"picture": "all"} | summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Folders of the shape of FSS-1000, PASCAL VOC and COCO with pictures of another data set, to try the benchmark on.

    python benchmarks/borrowed_sets.py fss --data DATA --out ~/fss-shaped --test 240
    python benchmarks/borrowed_sets.py fss --data DATA --out ~/fss-shaped --names fss_test_set.txt
    python benchmarks/borrowed_sets.py voc --data DATA --out ~/voc-shaped
    python benchmarks/borrowed_sets.py coco --data DATA --out ~/coco-shaped

``fss``: classes of ten pairs, with splits/{train,val,test}.txt and supercategories.csv. The test classes have the
pictures of DATA's validation classes, turned where a class is used again, and the names of a file, if one is given.
``voc``: 20 classes under VOC's names, with void outlines, for ``convert voc --fold``. ``coco``: 80 classes under COCO's
names, numbers and super-categories, their connected objects as run lengths, for ``convert coco --fold``. Of each class,
four pairs are for training and six for validation: five supports and a query. Pictures are 224x224.

No score on such a folder is one of the data set whose shape it has.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, label

from fewscope.connectors.datasets.class_folders import ClassFolders, ClassImages
from fewscope.connectors.datasets.voc_coco import VOC_CLASSES

PAIRS = 10
"""Of a class of FSS-1000."""

OUTLINE_PX = 3
"""Of VOC's void outline, to either side of the object's edge."""

COCO_CLASSES: dict[str, tuple[str, ...]] = {
    "person": ("person",),
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "outdoor": ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "accessory": ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    "sports": (
        *("frisbee", "skis", "snowboard", "sports ball", "kite"),
        *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    ),
    "kitchen": ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    "food": (
        *("banana", "apple", "sandwich", "orange", "broccoli"),
        *("carrot", "hot dog", "pizza", "donut", "cake"),
    ),
    "furniture": ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    "electronic": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    "appliance": ("microwave", "oven", "toaster", "sink", "refrigerator"),
    "indoor": ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
}
"""COCO's super-categories and their 80 classes, in the order of their numbers."""

COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Numbers from 1 to 90 that no class of COCO has."""


def training_pairs() -> int:
    """How many of a class's pairs are training images of VOC and COCO."""
    return PAIRS * 2 // 5


def classes_of_ten(sources: Sequence[ClassImages], n: int) -> Iterator[ClassImages]:
    """`n` classes of `PAIRS` pairs, from the sources in turn: other pairs, then the same, turned by 90 degrees."""
    used = dict.fromkeys((source.name for source in sources), 0)
    spread = [sources[i * len(sources) // n] for i in range(n)] if n < len(sources) else sources
    for source in islice(cycle(spread), n):
        round_, at = used[source.name], used[source.name] * PAIRS
        used[source.name] += 1
        rows = [(at + i) % len(source.images) for i in range(PAIRS)]
        turns = at // len(source.images) % 4
        yield ClassImages(
            source.name if not round_ else f"{source.name}_{round_ + 1}",
            source.name.partition("_")[0],
            np.rot90(source.images[rows], turns, (1, 2)),
            np.rot90(source.masks[rows], turns, (1, 2)),
        )


def write_fss(args: argparse.Namespace) -> None:
    """Train, validation and test classes of ten pairs."""
    data = ClassFolders(args.data)
    of_split = {
        split: [c for c in data.classes(split) if len(c.images) >= PAIRS] for split in ("train", "val")
    }
    names = None if args.names is None else args.names.read_text().split("\n")
    wanted = None if names is None else [name.strip() for name in names if name.strip()]
    n_val = args.train // 2
    splits = {
        "train": (of_split["train"], args.train, None),
        "val": (of_split["train"][::-1], n_val, None),  # other pictures than those of the test
        "test": (of_split["val"], len(wanted) if wanted else args.test, wanted),
    }
    groups = []
    (args.out / "splits").mkdir(parents=True, exist_ok=True)
    for split, (sources, n, named) in splits.items():
        listed = []
        for i, category in enumerate(classes_of_ten(sources, n)):
            name = named[i] if named else f"{split}_{category.name}"
            folder = args.out / name
            folder.mkdir(exist_ok=True)
            for k, (image, mask) in enumerate(zip(category.images, category.masks, strict=True), start=1):
                Image.fromarray(image).save(folder / f"{k}.jpg", quality=92)
                Image.fromarray(255 * mask.astype(np.uint8)).save(folder / f"{k}.png")
            listed.append(name)
            groups.append((name, category.domain))
        (args.out / "splits" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    with (args.out / "supercategories.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("class", "supercategory"), *groups])


def write_voc(args: argparse.Namespace) -> None:
    """VOC's folders: the first pairs of a class are training images, the others validation images."""
    sources = [c for c in ClassFolders(args.data).classes() if len(c.images) >= PAIRS]
    folders = {
        name: args.out / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[str]] = {"train": [], "val": []}
    for value, source in enumerate(classes_of_ten(sources, len(VOC_CLASSES)), start=1):
        for k in range(PAIRS):
            stem, mask = f"{value:04d}_{k:06d}", source.masks[k]
            outline = binary_dilation(mask, iterations=OUTLINE_PX) & ~binary_erosion(
                mask, iterations=OUTLINE_PX
            )
            labels = np.where(outline, 255, value * mask).astype(np.uint8)
            picture = Image.fromarray(labels, mode="P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(folders["SegmentationClass"] / f"{stem}.png")
            Image.fromarray(source.images[k]).save(folders["JPEGImages"] / f"{stem}.jpg", quality=92)
            sets["train" if k < training_pairs() else "val"].append(stem)
    for name, stems in (sets | {"trainval": sorted(sets["train"] + sets["val"])}).items():
        (folders["ImageSets/Segmentation"] / f"{name}.txt").write_text("\n".join(stems) + "\n")


def write_coco(args: argparse.Namespace) -> None:
    """COCO's two sets of 2014: the first pairs of a class are training images, the others validation images."""
    sources = [c for c in ClassFolders(args.data).classes() if len(c.images) >= PAIRS]
    names = [(name, group) for group, members in COCO_CLASSES.items() for name in members]
    numbers = [number for number in range(1, 91) if number not in COCO_UNUSED]
    categories = [
        {"id": number, "name": name, "supercategory": group}
        for number, (name, group) in zip(numbers, names, strict=True)
    ]
    content: dict[str, dict[str, list[dict[str, object]]]] = {
        name: {"images": [], "annotations": [], "categories": categories} for name in ("train2014", "val2014")
    }
    for folder in (*content, "annotations"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    image_id = annotation_id = 0
    for number, source in zip(numbers, classes_of_ten(sources, len(numbers)), strict=True):
        for k in range(PAIRS):
            image_id += 1
            folder = "train2014" if k < training_pairs() else "val2014"
            file = f"COCO_{folder}_{image_id:012d}.jpg"
            Image.fromarray(source.images[k]).save(args.out / folder / file, quality=92)
            height, width = source.masks[k].shape
            content[folder]["images"].append(
                {"id": image_id, "file_name": file, "height": height, "width": width}
            )
            objects, n = label(source.masks[k])
            for i in range(1, n + 1):
                annotation_id += 1
                content[folder]["annotations"].append(
                    {"id": annotation_id, "image_id": image_id, "category_id": number, "iscrowd": 0}
                    | {"area": int((objects == i).sum()), "segmentation": run_lengths(objects == i)}
                )
    for folder, listed in content.items():
        (args.out / "annotations" / f"instances_{folder}.json").write_text(json.dumps(listed))


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A mask (H, W) as COCO's uncompressed run lengths: down the columns, of 0 and 1 in turn, 0 first.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


def main(argv: list[str] | None = None) -> int:
    """Write a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=("fss", "voc", "coco"))
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/{train,val}.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, outside of the repository")
    parser.add_argument("--test", type=int, default=240, help="fss: test classes (default 240)")
    parser.add_argument("--train", type=int, default=520, help="fss: training classes (default 520)")
    parser.add_argument("--names", type=Path, help="fss: file with the names of the test classes, one a line")
    args = parser.parse_args(argv)
    {"fss": write_fss, "voc": write_voc, "coco": write_coco}[args.shape](args)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

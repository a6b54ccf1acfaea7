"""Folders of the shape of FSS-1000 and of PASCAL VOC with pictures of another data set, to try the benchmark on.

    python benchmarks/borrowed_sets.py fss --data DATA --out ~/fss-shaped --test 240
    python benchmarks/borrowed_sets.py fss --data DATA --out ~/fss-shaped --names fss_test_set.txt
    python benchmarks/borrowed_sets.py voc --data DATA --out ~/voc-shaped

``fss``: classes of ten pairs, with splits/{train,val,test}.txt and supercategories.csv. The test classes have the
pictures of DATA's validation classes, turned where a class is used again, and the names of a file, if one is given.
``voc``: 20 classes under VOC's names, with void outlines, for ``convert voc --fold``. Pictures are 224x224.

No score on such a folder is one of the data set whose shape it has.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from fewscope.connectors.datasets.class_folders import ClassFolders, ClassImages
from fewscope.connectors.datasets.voc_coco import VOC_CLASSES

PAIRS = 10
"""Of a class of FSS-1000."""

OUTLINE_PX = 3
"""Of VOC's void outline, to either side of the object's edge."""


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
    """VOC's folders: the first half of a class's pairs are training images, the others validation images."""
    sources = [c for c in ClassFolders(args.data).classes() if len(c.images) >= PAIRS]
    step = len(sources) // len(VOC_CLASSES)
    folders = {
        name: args.out / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[str]] = {"train": [], "val": []}
    for label, source in enumerate(sources[::step][: len(VOC_CLASSES)], start=1):
        for k in range(PAIRS):
            stem, mask = f"{label:04d}_{k:06d}", source.masks[k]
            outline = binary_dilation(mask, iterations=OUTLINE_PX) & ~binary_erosion(
                mask, iterations=OUTLINE_PX
            )
            labels = np.where(outline, 255, label * mask).astype(np.uint8)
            picture = Image.fromarray(labels, mode="P")
            picture.putpalette(list(range(256)) * 3)
            picture.save(folders["SegmentationClass"] / f"{stem}.png")
            Image.fromarray(source.images[k]).save(folders["JPEGImages"] / f"{stem}.jpg", quality=92)
            sets["train" if k < PAIRS // 2 else "val"].append(stem)
    for name, stems in (sets | {"trainval": sorted(sets["train"] + sets["val"])}).items():
        (folders["ImageSets/Segmentation"] / f"{name}.txt").write_text("\n".join(stems) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Write a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=("fss", "voc"))
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/{train,val}.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, outside of the repository")
    parser.add_argument("--test", type=int, default=240, help="fss: test classes (default 240)")
    parser.add_argument("--train", type=int, default=520, help="fss: training classes (default 520)")
    parser.add_argument("--names", type=Path, help="fss: file with the names of the test classes, one a line")
    args = parser.parse_args(argv)
    (write_fss if args.shape == "fss" else write_voc)(args)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

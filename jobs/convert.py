"""Convert PASCAL VOC or COCO to class folders, for jobs/train.py and jobs/evaluate.py.

    python jobs/convert.py voc ~/VOCdevkit/VOC2012 --out ~/fspascal --fold 0
    python jobs/convert.py coco ~/coco/annotations/instances_val2017.json --images ~/coco/val2017 --out ~/fscoco

One pair for each picture and each class in it, at 224x224. With --fold, the classes of that fold of PASCAL-5i are the
split "test", from VOC's validation pictures; the other fifteen are the split "train", from its training pictures.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from fewscope.connectors.datasets.voc_coco import (
    MIN_AREA,
    N_FOLDS,
    coco_groups,
    fold_classes,
    read_coco,
    read_voc,
    write_lists,
    write_pairs,
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    voc = kinds.add_parser("voc", help="PASCAL VOC")
    voc.add_argument("data", type=Path, help="folder of JPEGImages, SegmentationClass and ImageSets")
    voc.add_argument(
        "--fold", type=int, choices=range(N_FOLDS), help="of PASCAL-5i (default: all classes, no split)"
    )
    coco = kinds.add_parser("coco", help="COCO, or any instance annotations in its format")
    coco.add_argument("data", type=Path, help="annotations, such as instances_val2017.json")
    coco.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    for kind in (voc, coco):
        kind.add_argument("--out", type=Path, required=True, help="folder to write class folders into")
        kind.add_argument(
            "--min-area",
            type=float,
            default=MIN_AREA,
            help="part of a picture a class must fill (%(default)s)",
        )
        kind.add_argument("--most", type=int, help="pairs of a class (default: all)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, int]:
    """Read, write, and say how many pairs each class got."""
    if args.kind == "coco":
        pairs = read_coco(args.data, args.images)
    elif args.fold is None:
        pairs = read_voc(args.data, "trainval")
    else:
        train, test = fold_classes(args.fold)
        pairs = itertools.chain(read_voc(args.data, "train", train), read_voc(args.data, "val", test))
    shown = tqdm(pairs, unit="pair", disable=not sys.stderr.isatty())
    written = write_pairs(shown, args.out, min_area=args.min_area, most=args.most)
    if not written:
        raise ValueError(f"{args.data}: no class fills {args.min_area:g} of any picture; lower --min-area")
    if args.kind == "coco":
        write_lists(args.out, {}, coco_groups(args.data))
    elif args.fold is not None:
        splits = {"train": train, "test": test}
        write_lists(
            args.out, {name: [c for c in classes if c in written] for name, classes in splits.items()}
        )
    return written


def main(argv: list[str] | None = None) -> int:
    """0: written; 2: bad input, with one line on stderr."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        written = run(args)
    except (ValueError, OSError, ImportError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    for name, n in sorted(written.items()):
        print(f"{n:7d}  {name}")
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convert data sets and checkpoints of other code, for training and evaluation. Also ``fewscope convert``."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed
from fewscope.model.networks.names import MODELS

if TYPE_CHECKING:
    from fewscope.connectors.datasets.voc_coco import Labelled

PROG = "python jobs/convert.py"
DESCRIPTION = """\
Convert PASCAL VOC or COCO to class folders, and checkpoints of other code to weights.

Examples:
    %(prog)s voc ~/VOCdevkit/VOC2012 --out ~/fspascal --fold 0
    %(prog)s coco ~/coco/annotations/instances_val2017.json --images ~/coco/val2017 --out ~/fscoco
    %(prog)s hkustcv feature_encoder.pkl relation_network.pkl --out hkustcv.safetensors
    %(prog)s torchvision vgg16-397923af.pth --model prototype-vgg16 --out prototype.safetensors
    %(prog)s backbone runs/panet/weights.safetensors --model hsnet-vgg16 --out hsnet.safetensors

Writes one pair for each image and each class in it, at 224x224. With --fold, the classes of that fold of
PASCAL-5i become the split "test", from VOC's validation images, and the other fifteen the split "train", from its
training images and, with --sbd, SBD's. COCO-20i likewise, from two annotation files:
    %(prog)s coco instances_train2014.json instances_val2014.json --images train2014 val2014 --fold 0 --out ~/coco0
"""
FOLDS = range(4)
MAX_ASPECT, MIN_SIDE = 2.0, 224
"""Of the images that FSS-1000 keeps (section 3.1 of the paper)."""

CHECKPOINTS = ("hkustcv", "torchvision", "backbone")
KINDS = ("voc", "coco", *CHECKPOINTS)


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    usage = f"{{{','.join(KINDS)}}} DATA [DATA] --out OUT [options]"
    made = JobParser(prog, DESCRIPTION, usage, renamed={"--most": "--max-pairs"})
    add = made.group["input"].add_argument
    add("kind", choices=KINDS, help="format of the data")
    add(
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="voc: folder with JPEGImages, SegmentationClass and ImageSets; coco: annotations (.json); hkustcv: the "
        "feature encoder and the relation network of FSS-1000's authors; torchvision: a state_dict of its network; "
        "backbone: weights that train wrote",
    )
    add(
        "--images",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="coco: folder of the images; with two annotation files, two folders",
    )
    add(
        "--fold",
        type=int,
        choices=FOLDS,
        help="fold of PASCAL-5i or COCO-20i (default: all classes, no split)",
    )
    add(
        "--fold-order",
        choices=("interleaved", "consecutive"),
        default="interleaved",
        help="coco: the fold's classes are every fourth one, as in HSNet, or twenty in a row, as in PANet (default "
        "%(default)s)",
    )
    add(
        "--sbd",
        type=Path,
        metavar="DIR",
        help="voc: SBD's dataset folder, or SegmentationClassAug: more images to train on",
    )
    add(
        "--clean-up",
        action="store_true",
        help="leave out images with an aspect ratio above 2 or a side below 224 px, as FSS-1000 does",
    )
    add(
        "--train-classes",
        type=int,
        metavar="N",
        help="draw N classes for the split train, 60 of COCO's 80 for fsCOCO; the others are the split test",
    )
    add("--seed", type=int, default=0, help="seed of --train-classes (default 0)")
    add(
        "--min-area",
        type=float,
        default=0.01,
        metavar="FRACTION",
        help="fraction of an image that a class must cover (default %(default)s)",
    )
    add("--max-pairs", type=int, metavar="N", help="pairs per class (default: all)")
    made.group["output"].add_argument(
        "--out", type=Path, required=True, help="folder for the class folders, or weights (.safetensors)"
    )
    made.group["model"].add_argument(
        "--model", choices=MODELS, help="torchvision, backbone: network whose backbone gets the weights"
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    made = parser(prog)
    args = made.parse_intermixed_args(argv)
    two = args.kind == "coco" and args.fold is not None
    if args.kind == "hkustcv" and len(args.data) != 2:
        made.error("hkustcv needs two files")
    if two and (len(args.data) != 2 or len(args.images or ()) != 2):
        made.error(
            "coco --fold needs two annotation files, of the training and the validation images, and two --images"
        )
    if not two and args.kind != "hkustcv" and len(args.data) != 1:
        made.error(f"{args.kind} takes one DATA")
    if args.kind in CHECKPOINTS and args.out.suffix != ".safetensors":
        made.error(f"--out {args.out}: weights are written as .safetensors")
    if (args.kind in ("torchvision", "backbone")) != (args.model is not None):
        made.error("torchvision and backbone need --model, and no other format does")
    if args.kind == "coco" and args.images is None:
        made.error("coco needs --images, the folder of its images")
    if args.kind == "coco" and args.images is not None and len(args.images) != len(args.data):
        made.error("coco needs one folder of --images for each annotation file")
    if args.sbd is not None and args.kind != "voc":
        made.error("--sbd is for voc")
    if args.train_classes is not None and args.fold is not None:
        made.error("--fold and --train-classes contradict each other")
    return args


def run(args: argparse.Namespace) -> int:
    """Read, write, and print how many pairs each class got, or where the weights are."""
    if args.kind in CHECKPOINTS:
        return convert_checkpoint(args)
    from tqdm import tqdm

    data = args.data[0]

    if not 0 <= args.min_area <= 1:
        raise ConfigError(f"--min-area {args.min_area:g} is not between 0 and 1; use 0.01")
    if args.max_pairs is not None and args.max_pairs < 1:
        raise ConfigError(f"--max-pairs {args.max_pairs} is below 1; give a number, or leave it out for all")

    from fewscope.connectors.datasets.voc_coco import (
        coco_groups,
        draw_classes,
        folder_name,
        write_lists,
        write_pairs,
    )

    pairs, splits = coco_pairs(args) if args.kind == "coco" else voc_pairs(args)
    shown = tqdm(pairs, unit="pair", disable=not sys.stderr.isatty())
    written = write_pairs(
        shown,
        args.out,
        min_area=args.min_area,
        most=args.max_pairs,
        max_aspect=MAX_ASPECT if args.clean_up else None,
        min_side=MIN_SIDE if args.clean_up else 1,
    )
    if not written:
        raise ValueError(f"{data}: no class fills {args.min_area:g} of any picture; lower --min-area")
    if args.train_classes is not None:
        splits = dict(
            zip(("train", "test"), draw_classes(sorted(written), args.train_classes, args.seed), strict=True)
        )
    listed = {
        name: [folder for c in classes if (folder := folder_name(c)) in written]
        for name, classes in splits.items()
    }
    write_lists(args.out, listed, coco_groups(data) if args.kind == "coco" else None)
    for name, n in sorted(written.items()):
        print(f"{n:7d}  {name}")
    print(args.out)
    return 0


def voc_pairs(args: argparse.Namespace) -> tuple[Iterator[Labelled], dict[str, Sequence[str]]]:
    """Pairs of PASCAL VOC, and the classes of each split."""
    from fewscope.connectors.datasets.voc_coco import VOC_CLASSES, fold_classes, read_sbd, read_voc, voc_names

    (data,) = args.data
    train, test = (VOC_CLASSES, ()) if args.fold is None else fold_classes(args.fold)
    more: Iterator[Labelled] = iter(())
    if args.sbd is not None:
        labelled = voc_names(data, "train") | voc_names(data, "val")
        more = read_sbd(args.sbd, data, labelled, train)
    if args.fold is None:
        return itertools.chain(read_voc(data, "trainval"), more), {}
    pairs = itertools.chain(read_voc(data, "train", train), more, read_voc(data, "val", test))
    return pairs, {"train": train, "test": test}


def coco_pairs(args: argparse.Namespace) -> tuple[Iterator[Labelled], dict[str, Sequence[str]]]:
    """Pairs of COCO, and the classes of each split."""
    from fewscope.connectors.datasets.voc_coco import coco_fold, coco_names, read_coco

    if args.fold is None:
        return read_coco(args.data[0], args.images[0]), {}
    train, test = coco_fold(coco_names(args.data[0]), args.fold, args.fold_order)
    pairs = (
        pair
        for annotations, images, classes in zip(args.data, args.images, (train, test), strict=True)
        for pair in read_coco(annotations, images)
        if pair.category in classes
    )
    return pairs, {"train": train, "test": test}


def convert_checkpoint(args: argparse.Namespace) -> int:
    """Write the weights of a checkpoint, and print the model that takes them."""
    from fewscope.model.checkpoints import convert_backbone, convert_hkustcv, convert_torchvision
    from fewscope.model.weights import save_weights

    model = args.model or "vgg16-hkustcv"
    convert = convert_torchvision if args.kind == "torchvision" else convert_backbone
    net = convert_hkustcv(*args.data) if args.kind == "hkustcv" else convert(args.data[0], model)
    sources = " ".join(path.name for path in args.data)
    save_weights(net, args.out, {"network": model, "source": f"{args.kind} {sources}"})
    print(f"{args.out}: --model {model} --weights {args.out}")
    return 0


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog), resumes=False)


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))

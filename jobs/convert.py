"""Convert data sets and checkpoints of other code, for training and evaluation. Also ``fewscope convert``."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed
from fewscope.model.networks.names import MODELS

PROG = "python jobs/convert.py"
DESCRIPTION = """\
Convert PASCAL VOC or COCO to class folders, and checkpoints of other code to weights.

Examples:
    %(prog)s voc ~/VOCdevkit/VOC2012 --out ~/fspascal --fold 0
    %(prog)s coco ~/coco/annotations/instances_val2017.json --images ~/coco/val2017 --out ~/fscoco
    %(prog)s hkustcv feature_encoder.pkl relation_network.pkl --out hkustcv.safetensors
    %(prog)s torchvision vgg16-397923af.pth --model prototype-vgg16 --out prototype.safetensors

Writes one pair for each image and each class in it, at 224x224. With --fold (VOC only), the classes of that fold of
PASCAL-5i become the split "test", from VOC's validation images, and the other fifteen the split "train", from its
training images.
"""
FOLDS = range(4)
CHECKPOINTS = ("hkustcv", "torchvision")
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
        "feature encoder and the relation network of FSS-1000's authors; torchvision: a state_dict of its network",
    )
    add("--images", type=Path, metavar="DIR", help="coco: folder of the images")
    add("--fold", type=int, choices=FOLDS, help="voc: fold of PASCAL-5i (default: all classes, no split)")
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
        "--model", choices=MODELS, help="torchvision: network whose backbone gets the weights"
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    made = parser(prog)
    args = made.parse_intermixed_args(argv)
    if len(args.data) != (2 if args.kind == "hkustcv" else 1):
        made.error("hkustcv needs two files" if args.kind == "hkustcv" else f"{args.kind} takes one DATA")
    if args.kind in CHECKPOINTS and args.out.suffix != ".safetensors":
        made.error(f"--out {args.out}: weights are written as .safetensors")
    if (args.kind == "torchvision") != (args.model is not None):
        made.error("torchvision needs --model, and no other format does")
    if args.kind == "coco" and args.images is None:
        made.error("coco needs --images, the folder of its images")
    if args.kind == "coco" and args.fold is not None:
        made.error("--fold is for voc")
    return args


def run(args: argparse.Namespace) -> int:
    """Read, write, and print how many pairs each class got, or where the weights are."""
    if args.kind in CHECKPOINTS:
        return convert_checkpoint(args)
    from tqdm import tqdm

    (data,) = args.data

    if not 0 <= args.min_area <= 1:
        raise ConfigError(f"--min-area {args.min_area:g} is not between 0 and 1; use 0.01")
    if args.max_pairs is not None and args.max_pairs < 1:
        raise ConfigError(f"--max-pairs {args.max_pairs} is below 1; give a number, or leave it out for all")

    from fewscope.connectors.datasets.voc_coco import (
        coco_groups,
        fold_classes,
        read_coco,
        read_voc,
        write_lists,
        write_pairs,
    )

    if args.kind == "coco":
        pairs = read_coco(data, args.images)
    elif args.fold is None:
        pairs = read_voc(data, "trainval")
    else:
        train, test = fold_classes(args.fold)
        pairs = itertools.chain(read_voc(data, "train", train), read_voc(data, "val", test))
    shown = tqdm(pairs, unit="pair", disable=not sys.stderr.isatty())
    written = write_pairs(shown, args.out, min_area=args.min_area, most=args.max_pairs)
    if not written:
        raise ValueError(f"{data}: no class fills {args.min_area:g} of any picture; lower --min-area")
    if args.kind == "coco":
        write_lists(args.out, {}, coco_groups(data))
    elif args.fold is not None:
        splits = {"train": train, "test": test}
        write_lists(
            args.out, {name: [c for c in classes if c in written] for name, classes in splits.items()}
        )
    for name, n in sorted(written.items()):
        print(f"{n:7d}  {name}")
    print(args.out)
    return 0


def convert_checkpoint(args: argparse.Namespace) -> int:
    """Write the weights of a checkpoint, and print the model that takes them."""
    from fewscope.model.checkpoints import convert_hkustcv, convert_torchvision
    from fewscope.model.weights import save_weights

    model = args.model or "vgg16-hkustcv"
    net = convert_hkustcv(*args.data) if args.kind == "hkustcv" else convert_torchvision(args.data[0], model)
    sources = " ".join(path.name for path in args.data)
    save_weights(net, args.out, {"network": model, "source": f"{args.kind} {sources}"})
    print(f"{args.out}: --model {model} --weights {args.out}")
    return 0


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))

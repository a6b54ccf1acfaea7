"""Train several networks for the same processor time each: the small examples of docs/protocol.md.

    python benchmarks/equal_time.py --data DATA --minutes 8 --out runs/equal
    python benchmarks/equal_time.py --data DATA --minutes 8 --networks panet --rates panet=1e-4 --out runs/equal
    python benchmarks/equal_time.py --data DATA --minutes 8 --networks guided --out runs/equal \
        --backbone runs/equal/panet/weights.safetensors

The first steps of each network are timed, in processor time of one thread with the making of the episodes, and as many
steps are trained as fit into the minutes: a schedule has to know its end. All use one recipe. Stopped, the same command
goes on where it was. One JSON line a network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders, ClassImages
from fewscope.model.checkpoints import convert_backbone, convert_torchvision
from fewscope.model.episodes.category import load_categories
from fewscope.model.networks.names import LOSSES, RECIPES
from fewscope.model.networks.registry import NETWORKS
from fewscope.model.training.job import WEIGHTS, TrainingJob
from fewscope.model.training.loop import RunOptions, train
from fewscope.model.training.recipes import TrainConfig, recipe
from fewscope.model.weights import save_weights

DEFAULT = ("compact-S", "vgg16-paper", "hsnet-vgg16", "panet", "canet", "guided", "vgg16-released", "oslsm")
TIMED = 6
"""Steps that are timed; the first of them does not count."""


class _EnoughSteps(Exception):
    """Ends the timing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A data set that was read once, for all networks."""

    path: str
    images: Sequence[ClassImages]

    def __str__(self) -> str:
        return self.path

    def classes(
        self, split: str | None = None, *, domains: Collection[str] = (), shippable_only: bool = False
    ) -> Sequence[ClassImages]:
        """The classes of the split that was read."""
        return self.images


def seconds_per_step(config: TrainConfig, data: Loaded, options: RunOptions) -> float:
    """Median processor time of the first steps, but for the very first."""
    moments: list[float] = []

    def note(_step: int) -> None:
        moments.append(time.process_time())
        if len(moments) == TIMED + 1:
            raise _EnoughSteps

    classes = load_categories(data)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_EnoughSteps):
        train(replace(config, steps=100), classes, Path(folder), options=options, on_step=note)
    return median(b - a for a, b in pairwise(moments[1:]))


def main(argv: list[str] | None = None) -> int:
    """Train one network after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--minutes", type=float, required=True, help="processor time of each network")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(DEFAULT))
    parser.add_argument(
        "--backbone",
        type=Path,
        metavar="FILE",
        help="start from the backbone of these weights, or from torchvision's (.pth)",
    )
    parser.add_argument(
        "--recipe", choices=RECIPES, default="modern", help="of `fewscope train` (default modern)"
    )
    parser.add_argument("--episodes", type=int, default=1, help="of a step (default 1)")
    parser.add_argument(
        "--no-augmentation", action="store_true", help="whole pictures as they are, none generated"
    )
    parser.add_argument(
        "--balance-domains", action="store_true", help="with --no-augmentation: all domains alike"
    )
    parser.add_argument("--loss", choices=LOSSES, help="of `fewscope train` (default: that of the recipe)")
    parser.add_argument("--train-backbone", action="store_true", help="canet, hsnet: train the backbone, too")
    parser.add_argument("--rates", nargs="+", default=[], metavar="NETWORK=RATE", help="learning rates")
    parser.add_argument("--crop", type=int, default=128, help="side of the pictures, px (default 128)")
    parser.add_argument("--report-every", type=int, default=50, help="steps between checkpoints (default 50)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    args = parser.parse_args(argv)
    data = Loaded(str(args.data.resolve()), list(ClassFolders(args.data).classes("train")))
    options = RunOptions(args.report_every, 100 * args.report_every, loader_workers=0)
    rates = {name: float(rate) for name, _, rate in (text.partition("=") for text in args.rates)}
    args.out.mkdir(parents=True, exist_ok=True)
    for network in args.networks:
        out, plan = args.out / network, args.out / f"{network}.json"
        if (out / WEIGHTS).exists():
            continue
        config = replace(
            recipe(args.recipe, network, args.loss), crop=args.crop, episodes_per_step=args.episodes
        )
        config = replace(
            config,
            augmented=config.augmented and not args.no_augmentation,
            balance_domains=args.balance_domains,
            learning_rate=rates.get(network, config.learning_rate),
            train_backbone=args.train_backbone,
        )
        initial = None
        if args.backbone is not None:
            initial = (args.out / f"{network}-start.safetensors").resolve()
            source = f"backbone {args.backbone.name}"
            convert = convert_torchvision if args.backbone.suffix == ".pth" else convert_backbone
            save_weights(convert(args.backbone, network), initial, {"network": network, "source": source})
        if not plan.exists():
            seconds = seconds_per_step(config, data, options)
            plan.write_text(
                json.dumps({"s_per_step": seconds, "steps": max(1, int(args.minutes * 60 / seconds))})
            )
        planned = json.loads(plan.read_text())
        began = time.process_time()
        TrainingJob(
            replace(config, steps=planned["steps"]),
            out.resolve(),
            data,
            "train",
            initial=initial,
            options=options,
        ).run()
        used = (time.process_time() - began) / 60
        emit("equal time", {"network": network, "crop": args.crop, "cpu_minutes": used, **planned})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train the new layers of CANet, Guided Network or OSLSM on features that are computed once: minutes instead of hours.

    python benchmarks/new_layers.py --data DATA --network guided --backbone vgg16.pth --steps 2500 --out runs/guided
    python jobs/evaluate.py --data DATA --split val --weights runs/guided --out out/guided

The papers of Guided Network and OSLSM train VGG-16, too, at seconds of a processor a step; CANet's backbone is frozen,
but computed in every step. Here, the features of some pictures of each training class are kept, and a step takes a
tenth of a second or a few: enough of them to see what the rest of the network learns. Of OSLSM, the first fully
connected layer of both branches stays as it is, too: it has 103 million weights, and is random if the file has none.
Whole pictures, not augmented; otherwise the recipe `modern`. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.model.checkpoints import convert_torchvision
from fewscope.model.devices import computes_bfloat16
from fewscope.model.episodes.category import Category, load_categories
from fewscope.model.episodes.fss1000 import pools_of, resized
from fewscope.model.metrics import mean_image_iou
from fewscope.model.networks.canet import BACKBONE, CANet
from fewscope.model.networks.episodic import EpisodicNet
from fewscope.model.networks.guided import GuidedNet
from fewscope.model.networks.names import LOSSES
from fewscope.model.networks.oslsm import OSLSM
from fewscope.model.training.job import WEIGHTS
from fewscope.model.training.objectives import LOSS_FUNCTIONS
from fewscope.model.training.optimisation import clip_gradients, moving_average, optimiser_of, schedule_of
from fewscope.model.training.recipes import PAPER_SHOTS, TrainConfig, recipe
from fewscope.model.weights import save_weights

Kept = tuple[tuple[Tensor, ...], Tensor]
"""Features of the pictures of a class (N, ...) each, and their masks (N, 1, side, side) bool."""

T = TypeVar("T")
NetT = TypeVar("NetT", bound=EpisodicNet)


class NewLayers(Generic[NetT]):
    """A network that is cut where its new layers begin.

    Parameters
    ----------
    net : EpisodicNet
        Of a kind that the subclass is for; its backbone is frozen.
    """

    def __init__(self, net: NetT) -> None:
        self.net = net
        net.freeze(*self.backbone())

    def backbone(self) -> list[str]:
        """Names of the layers that stay as they are."""
        raise NotImplementedError

    def features(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """What the backbone makes of pictures (N, 3, H, W) in [0, 1], and of these as supports with their masks."""
        raise NotImplementedError

    def logits(self, kept: tuple[Tensor, ...], masks: Tensor) -> Tensor:
        """Logits of the queries: the pictures (K + Q) that come after the masks (K, 1, H, W) of the supports."""
        raise NotImplementedError


class GuidedLayers(NewLayers[GuidedNet]):
    """Guided Network from its last pooling on."""

    FIRST = "fc6"

    def backbone(self) -> list[str]:
        """The convolutions of VGG-16."""
        return names_before(self.net.encoder, "encoder", self.FIRST)

    def features(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Maps of the last pooling."""
        maps: Tensor = part(self.net.encoder, None, self.FIRST)(self.net.prepare(images))
        return (maps,)

    def logits(self, kept: tuple[Tensor, ...], masks: Tensor) -> Tensor:
        """As in `EpisodicNet.episode`."""
        k, side = len(masks), masks.shape[-1]
        maps = part(self.net.encoder, self.FIRST, None)(kept[0])
        pack = self.net.compile_features((maps[:k],), masks, 1 - masks)
        return self.net.match((maps[k:],), pack, (side, side))


class OSLSMLayers(NewLayers[OSLSM]):
    """OSLSM from the dropout after the first fully connected layer of both branches on."""

    FIRST = "drop6"

    def backbone(self) -> list[str]:
        """Both VGG-16 with their first fully connected layer."""
        net = self.net
        return names_before(net.conditioning, "conditioning", self.FIRST) + names_before(
            net.segmentation, "segmentation", self.FIRST
        )

    def features(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Vectors of the conditioning branch, and maps of the segmentation branch."""
        net = self.net
        return (
            part(net.conditioning, None, self.FIRST)(net.masked(images, masks)),
            part(net.segmentation, None, self.FIRST)(net.prepare(images)),
        )

    def logits(self, kept: tuple[Tensor, ...], masks: Tensor) -> Tensor:
        """As in `OSLSM.episode`."""
        net, k, side = self.net, len(masks), masks.shape[-1]
        pack = net.classifiers(part(net.conditioning, self.FIRST, None)(kept[0][:k]))
        maps = part(net.segmentation, self.FIRST, None)(kept[1][k:])
        return net.match((maps,), pack, (side, side))


class CANetLayers(NewLayers[CANet]):
    """CANet from its first trained layer on."""

    def backbone(self) -> list[str]:
        """Three stages of ResNet-50."""
        return list(BACKBONE)

    def features(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Maps of the second and third stage."""
        return (self.net.backbone_maps(self.net.prepare(images)),)

    def logits(self, kept: tuple[Tensor, ...], masks: Tensor) -> Tensor:
        """As in `EpisodicNet.episode`."""
        k, side = len(masks), masks.shape[-1]
        maps = self.net.layer5(kept[0])
        pack = self.net.compile_features((maps[:k],), masks, 1 - masks)
        return self.net.match((maps[k:],), pack, (side, side))


CUTS: dict[str, type[NewLayers]] = {
    "canet": CANetLayers,
    "canet-128": CANetLayers,
    "guided": GuidedLayers,
    "oslsm": OSLSMLayers,
}


def part(layers: nn.Sequential, first: str | None, end: str | None) -> nn.Sequential:
    """The layers from that of one name until that of another, which is not among them."""
    names = [name for name, _ in layers.named_children()]
    found: nn.Sequential = layers[
        None if first is None else names.index(first) : None if end is None else names.index(end)
    ]
    return found


def names_before(layers: nn.Sequential, prefix: str, end: str) -> list[str]:
    """Full names of the layers before that of a name."""
    return [f"{prefix}.{name}" for name, _ in part(layers, None, end).named_children()]


def spread(items: Sequence[T], n: int) -> list[T]:
    """At most `n` items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(n, len(items))).astype(int)
    return [items[i] for i in places]


def keep_features(cut: NewLayers, category: Category, side: int, n: int) -> Kept:
    """Features of at most `n` pictures of a class."""
    places = spread(range(len(category.images)), n)
    images, masks = resized(category.images[places], category.masks[places], side)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu"))),
    ):
        features = cut.features(images.to(memory_format=torch.channels_last), masks)
    return tuple(maps.clone() for maps in features), masks > 0.5


def keep_all(
    cut: NewLayers, classes: Sequence[Category], side: int, n: int, path: Path | None
) -> dict[str, Kept]:
    """Features of all classes by name. A file has those of classes that were seen before, and gets those of others."""
    kept: dict[str, Kept] = {}
    if path is not None and path.exists():
        kept = torch.load(path, weights_only=True)
    missing = [category for category in classes if category.name not in kept]
    kept |= {category.name: keep_features(cut, category, side, n) for category in missing}
    if path is not None and missing:
        with atomic_file(str(path)) as temporary:
            torch.save(kept, temporary)
    return kept


def episode(cut: NewLayers, kept: Kept, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Logits of the queries of a random episode of a class, and their masks."""
    drawn = torch.randperm(len(kept[1]))[: config.images_per_episode]
    shots = min(config.shots or PAPER_SHOTS, len(drawn) - 1)
    masks = kept[1][drawn].float()
    return cut.logits(tuple(maps[drawn] for maps in kept[0]), masks[:shots]), masks[shots:]


def train_layers(cut: NewLayers, pools: Sequence[Sequence[Kept]], config: TrainConfig) -> EpisodicNet:
    """Train what is not frozen, on classes of pools that are equally likely.

    Returns the network with the running average of its weights, in eval mode.
    """
    net: EpisodicNet = cut.net
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    averaged = [parameter.detach().clone() for parameter in trained]
    average = moving_average(config.average or 0.0)
    optimiser = optimiser_of(config, net)
    schedule = schedule_of(config, optimiser)
    rows = []
    for step in range(config.steps):
        torch.manual_seed(config.seed * 1_000_003 + step)
        pool = pools[int(torch.randint(len(pools), ()))]
        kept = pool[int(torch.randint(len(pool), ()))]
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu"))):
            logits, truth = episode(cut, kept, config)
        loss = LOSS_FUNCTIONS[config.loss](logits, truth, None)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(config, net)
        optimiser.step()
        schedule.step()
        average(averaged, [parameter.detach() for parameter in trained], step)
        rows.append((float(loss.detach()), float(mean_image_iou(logits.detach() > 0, truth > 0.5))))
        if (step + 1) % 100 == 0:
            loss_now, iou = np.mean(rows[-100:], axis=0)
            print(f"step {step + 1}: loss {loss_now:.3f}, IoU {iou:.3f}", file=sys.stderr, flush=True)
    with torch.no_grad():
        for parameter, mean in zip(trained, averaged, strict=True):
            parameter.copy_(mean)
    return net.eval()


def main(argv: list[str] | None = None) -> int:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--network", choices=CUTS, required=True)
    parser.add_argument(
        "--backbone", type=Path, required=True, help="torchvision's vgg16, or resnet50 for canet (.pth)"
    )
    parser.add_argument("--steps", type=int, default=2500, help="of one episode (default 2500)")
    parser.add_argument("--side", type=int, default=224, help="of the pictures, px (default 224)")
    parser.add_argument(
        "--classes",
        type=int,
        metavar="N",
        help="of each domain, at most, spread over the list (default: all)",
    )
    parser.add_argument("--pictures", type=int, default=10, help="of each class, at most (default 10)")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate (default 3e-4)")
    parser.add_argument(
        "--balance-domains", action="store_true", help="as many episodes of each domain as of others"
    )
    parser.add_argument("--loss", choices=LOSSES, help="of `fewscope train` (default: that of the recipe)")
    parser.add_argument(
        "--features", type=Path, metavar="FILE", help="keep the features here, and reuse those that are there"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = replace(
        recipe("modern", args.network, args.loss),
        steps=args.steps,
        crop=args.side,
        learning_rate=args.rate,
        augmented=False,
        balance_domains=args.balance_domains,
    )
    torch.manual_seed(config.seed)
    net = convert_torchvision(args.backbone, args.network).to(memory_format=torch.channels_last)
    cut = CUTS[args.network](net.eval())
    began = time.process_time()
    classes = load_categories(ClassFolders(args.data), "train")
    if args.classes is not None:
        classes = [category for pool in pools_of(classes) for category in spread(pool, args.classes)]
    kept = keep_all(cut, classes, args.side, args.pictures, args.features)
    features_s = time.process_time() - began
    pools = pools_of(classes) if config.balance_domains else [classes]
    net.train()
    trained = train_layers(cut, [[kept[category.name] for category in pool] for pool in pools], config)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"network": args.network, "backbone": f"{args.backbone.name}, frozen", "recipe": str(config)}
    save_weights(trained, args.out / WEIGHTS, facts)
    minutes = (time.process_time() - began) / 60
    facts = {"network": args.network, "steps": args.steps, "features_s": features_s, "cpu_minutes": minutes}
    emit("new layers", facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

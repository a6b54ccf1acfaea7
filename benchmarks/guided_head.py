"""Train the new layers of Guided Network on a VGG-16 that stays as it is: minutes of a processor instead of hours.

    python benchmarks/guided_head.py --data DATA --backbone vgg16.pth --steps 2500 --out runs/guided-head
    python jobs/evaluate.py --data DATA --split val --weights runs/guided-head --out out/guided-head

The paper trains VGG-16, too, at seconds of a processor a step. Here, the features of a few pictures of each training
class are computed once, and a step takes a twelfth of a second: enough of them to see what the rest of the network
learns. Whole pictures, not augmented; otherwise the recipe `modern`. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.model.checkpoints import convert_torchvision
from fewscope.model.devices import computes_bfloat16
from fewscope.model.episodes.category import Category, load_categories
from fewscope.model.episodes.fss1000 import resized
from fewscope.model.losses import segmentation_loss
from fewscope.model.metrics import mean_image_iou
from fewscope.model.networks.guided import GuidedNet
from fewscope.model.training.job import WEIGHTS
from fewscope.model.training.optimisation import clip_gradients, moving_average, optimiser_of, schedule_of
from fewscope.model.training.recipes import PAPER_SHOTS, TrainConfig, recipe
from fewscope.model.weights import save_weights

PICTURES = 10
"""Of each class, at most: FSS-1000 has as many."""

NEW_LAYERS = 3
"""At the end of the encoder: ``fc6`` with its ReLU and dropout."""


def kept_features(net: GuidedNet, classes: Sequence[Category], side: int) -> list[tuple[Tensor, Tensor]]:
    """Maps of the last pooling (N, 512, h, w) and masks (N, 1, side, side) of some pictures of each class."""
    backbone = net.encoder[:-NEW_LAYERS]
    kept = []
    for category in classes:
        places = torch.linspace(0, len(category.images) - 1, min(PICTURES, len(category.images))).long()
        images, masks = resized(category.images[places], category.masks[places], side)
        with torch.inference_mode():
            prepared = net.prepare(images).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu"))):
                maps = backbone(prepared)
        kept.append((maps.clone(), masks))
    return kept


def episode(net: GuidedNet, maps: Tensor, masks: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Logits of the queries of a random episode of a class, and their masks."""
    drawn = torch.randperm(len(maps))[: config.images_per_episode]
    shots = min(PAPER_SHOTS, len(drawn) - 1)
    features, masks = net.encoder[-NEW_LAYERS:](maps[drawn]), masks[drawn]
    pack = net.compile_features((features[:shots],), masks[:shots], 1 - masks[:shots])
    side = masks.shape[-1]
    return net.match((features[shots:],), pack, (side, side)), masks[shots:]


def train_head(net: GuidedNet, kept: Sequence[tuple[Tensor, Tensor]], config: TrainConfig) -> GuidedNet:
    """Train what is not frozen. Returns the running average of the weights, in eval mode."""
    mean = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=moving_average(config.average or 0.0))
    optimiser = optimiser_of(config, net)
    schedule = schedule_of(config, optimiser)
    rows = []
    for step in range(config.steps):
        torch.manual_seed(config.seed * 1_000_003 + step)
        maps, masks = kept[int(torch.randint(len(kept), ()))]
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu"))):
            logits, truth = episode(net, maps, masks, config)
        loss = segmentation_loss(logits, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(config, net)
        optimiser.step()
        schedule.step()
        mean.update_parameters(net)
        rows.append((float(loss.detach()), float(mean_image_iou(logits.detach() > 0, truth > 0.5))))
        if (step + 1) % 100 == 0:
            loss_now, iou = np.mean(rows[-100:], axis=0)
            print(f"step {step + 1}: loss {loss_now:.3f}, IoU {iou:.3f}", file=sys.stderr, flush=True)
    averaged = mean.module
    assert isinstance(averaged, GuidedNet)
    return averaged.eval()


def main(argv: list[str] | None = None) -> int:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--backbone", type=Path, required=True, help="torchvision's vgg16 (.pth)")
    parser.add_argument("--steps", type=int, default=2500, help="of one episode (default 2500)")
    parser.add_argument("--side", type=int, default=128, help="of the pictures, px (default 128)")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate (default 3e-4)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = replace(recipe("modern", "guided"), steps=args.steps, learning_rate=args.rate, augmented=False)
    torch.manual_seed(config.seed)
    net = convert_torchvision(args.backbone, "guided").to(memory_format=torch.channels_last)
    assert isinstance(net, GuidedNet)
    net.freeze(*(f"encoder.{name}" for name, layer in net.encoder[:-NEW_LAYERS].named_children()))
    began = time.process_time()
    kept = kept_features(net.eval(), load_categories(ClassFolders(args.data), "train"), args.side)
    features_s = time.process_time() - began
    trained = train_head(net.train(), kept, config)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"network": "guided", "backbone": f"{args.backbone.name}, frozen", "recipe": str(config)}
    save_weights(trained, args.out / WEIGHTS, facts)
    seconds = time.process_time() - began
    emit("guided head", {"steps": args.steps, "features_s": features_s, "cpu_minutes": seconds / 60})
    return 0


if __name__ == "__main__":
    sys.exit(main())

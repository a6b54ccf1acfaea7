"""Teach torchvision's VGG-16 or ResNet-50 the features of a small encoder, where no ImageNet weights can be had.

    python benchmarks/distil_backbone.py --data DATA --encoder efficientnet-lite0 --backbone vgg16 --out v.pth
    python benchmarks/equal_time.py --data DATA --minutes 8 --networks panet --backbone v.pth --out runs/distilled

The pictures are those of the training classes, without their masks. The encoder is any of `fewscope segment --encoder`
(docs/encoders.md), with maps at strides 8, 16 and 32. The student predicts each by a 1x1 convolution, standardised
(Romero et al., FitNets, ICLR 2015), and the cosine of two positions of its own maps follows that of the encoder's (Tung
and Mori, ICCV 2019): prototype networks compare positions by it. VGG-16 learns with batch norm, which is folded. The
file is a `state_dict` of torchvision's network, for `fewscope convert torchvision`. Stopped, the same command goes on.

The last steps (`--settle`) have the statistics of batch norm as they are kept, and pictures as training episodes have
them. Without, a saturated colour can pass from block to block and arrive a hundred times as large as other features:
batch statistics hide that from the teaching, and no network withstands it that does not normalise what it gets.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.model.episodes.sampler import synthetic_pictures, vary_task
from fewscope.model.networks.folding import fold_batch_norm
from fewscope.model.networks.frozen_encoder import IMAGENET_MEAN, IMAGENET_STD, FrozenEncoder, load_encoder

STRIDES = (8, 16, 32)
BATCH = 16
RATE, DECAY, WARMUP = 1e-3, 1e-4, 200
SETTLING_RATE = 2e-4
PAIRS = 96  # positions of each picture that are compared
BACKBONES = ("vgg16", "resnet50")
P_GENERATED = 0.25
"""Share of generated pictures in the last steps."""


class Student(nn.Module):
    """Torchvision's network without its classifier, and the convolutions that predict the encoder's maps.

    Parameters
    ----------
    backbone : str
        One of `BACKBONES`.
    channels : dict[int, int]
        Channels of the encoder's map at each stride.
    """

    def __init__(self, backbone: str, channels: dict[int, int]) -> None:
        from torchvision.models import resnet50, vgg16_bn

        super().__init__()
        if backbone == "vgg16":
            self.net: nn.Module = vgg16_bn(weights=None).features
            own = dict(zip(STRIDES, (256, 512, 512), strict=True))
        else:
            self.net = resnet50(weights=None)
            self.net.fc = nn.Identity()
            own = dict(zip(STRIDES, (512, 1024, 2048), strict=True))
        self.heads = nn.ModuleDict({str(s): nn.Conv2d(own[s], channels[s], 1) for s in STRIDES})

    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """Own maps by stride: the pooled ones of VGG-16, the last of each stage of ResNet-50."""
        found: list[Tensor] = []
        if isinstance(self.net, nn.Sequential):
            for layer in self.net:
                x = layer(x)
                if isinstance(layer, nn.MaxPool2d):
                    found.append(x)
        else:
            for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
                x = self.net.get_submodule(name)(x)
                found.append(x)
        return dict(zip(STRIDES, found[-3:], strict=True))

    def state(self) -> dict[str, Tensor]:
        """The ``state_dict`` of torchvision's ``vgg16`` without its classifier, or of ``resnet50`` without its own."""
        if not isinstance(self.net, nn.Sequential):
            return {name: tensor.cpu() for name, tensor in self.net.state_dict().items()}
        plain = nn.Sequential(*self.net)
        folded = fold_batch_norm(nn.ModuleDict({"features": plain}).eval())
        layers = [
            layer for layer in folded.get_submodule("features") if not isinstance(layer, nn.BatchNorm2d)
        ]
        return {f"features.{name}": tensor for name, tensor in nn.Sequential(*layers).state_dict().items()}


def crops(pictures: NDArray[np.uint8], rng: np.random.Generator, side: int) -> Tensor:
    """A batch of random parts of pictures (N, 224, 224, 3), mirrored or not, (BATCH, 3, side, side) float in [0, 1]."""
    batch = []
    for index in rng.integers(0, len(pictures), BATCH):
        size = int(pictures.shape[1] * rng.uniform(0.45, 1))
        row, col = rng.integers(0, pictures.shape[1] - size + 1, 2)
        part = torch.from_numpy(pictures[index, row : row + size, col : col + size])
        part = part.permute(2, 0, 1)[None].float() / 255
        if rng.random() < 0.5:
            part = part.flip(-1)
        batch.append(F.interpolate(part, size=(side, side), mode="bilinear", antialias=True))
    return torch.cat(batch)


def varied(pictures: Tensor, seed: int) -> Tensor:
    """Pictures (N, 3, side, side) in [0, 1] as training episodes have them: some are generated, and of all, colour,
    contrast, sharpness and noise are changed."""
    g = torch.Generator().manual_seed(seed)
    batch = []
    for picture in pictures.split(1):
        if torch.rand((), generator=g) < P_GENERATED:
            picture = synthetic_pictures(1, picture.shape[-1], g)[0]
        batch.append(vary_task(picture, torch.zeros_like(picture[:, :1]), g)[0])
    return torch.cat(batch)


def of_stride(maps: list[Tensor], side: int) -> dict[int, Tensor]:
    """The encoder's maps at `STRIDES`; SystemExit if it has none there."""
    found = {side // one.shape[-1]: one for one in maps}
    if not set(STRIDES) <= set(found):
        raise SystemExit(f"the encoder has maps at strides {sorted(found)}, {STRIDES} are needed")
    return {stride: found[stride] for stride in STRIDES}


def cosines(one: Tensor, places: Tensor) -> Tensor:
    """Cosines of all pairs of places, (P,), of a map (N, D, h, w): (N, P, P)."""
    vectors = F.normalize(one.flatten(2)[..., places].float(), dim=1)
    return vectors.mT @ vectors


class Teacher:
    """The encoder's maps, each channel with mean 0 and variance 1 over some pictures."""

    def __init__(self, encoder: FrozenEncoder, pictures: NDArray[np.uint8], side: int) -> None:
        self.encoder, self.side = encoder, side
        rng = np.random.default_rng(0)
        seen = [of_stride(encoder(crops(pictures, rng, side)), side) for _ in range(16)]
        joined = {s: torch.cat([maps[s] for maps in seen]) for s in STRIDES}
        self.mean = {s: m.mean((0, 2, 3), keepdim=True) for s, m in joined.items()}
        self.std = {s: m.std((0, 2, 3), keepdim=True) + 1e-3 for s, m in joined.items()}
        self.channels = {s: m.shape[1] for s, m in joined.items()}

    def __call__(self, images: Tensor) -> dict[int, Tensor]:
        """Standardised maps by stride."""
        maps = of_stride(self.encoder(images), self.side)
        return {s: ((m - self.mean[s]) / self.std[s]).clamp(-5, 5) for s, m in maps.items()}


def loss_of(student: Student, own: dict[int, Tensor], wanted: dict[int, Tensor], places: Tensor) -> Tensor:
    """Error of the predicted maps, and of the cosines at the two coarser strides."""
    total = torch.zeros(())
    for stride in STRIDES:
        total = total + F.smooth_l1_loss(student.heads[str(stride)](own[stride]).float(), wanted[stride])
    for stride in STRIDES[1:]:
        at = places % own[stride][0, 0].numel()
        total = total + F.mse_loss(cosines(own[stride], at), cosines(wanted[stride], at).clamp_min(0))
    return total


def rate_of(step: int, steps: int, settle: int) -> float:
    """Learning rate: half a cosine after a warm-up over the first `steps`, and a lower one over those that follow."""
    if step >= steps:
        return SETTLING_RATE * 0.5 * (1 + math.cos(math.pi * (step - steps) / settle))
    return RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def main(argv: list[str] | None = None) -> int:
    """Train, and write the file at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--encoder", required=True, help="the teacher, as `fewscope segment --encoder`")
    parser.add_argument("--backbone", choices=BACKBONES, required=True)
    parser.add_argument("--steps", type=int, default=4000, help=f"of {BATCH} pictures (default 4000)")
    parser.add_argument("--side", type=int, default=128, help="of the pictures, px (default 128)")
    parser.add_argument(
        "--settle",
        type=int,
        default=100,
        help="more steps, with the kept statistics of batch norm (default 100)",
    )
    parser.add_argument("--out", type=Path, required=True, help="state_dict (.pth)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pictures = np.concatenate([one.images for one in ClassFolders(args.data).classes("train")])
    teacher = Teacher(load_encoder(args.encoder), pictures, args.side)
    student = Student(args.backbone, teacher.channels).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=DECAY)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    first, kept = 0, args.out.with_suffix(".state")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        saved = torch.load(kept, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    began, losses = time.process_time(), []
    for step in range(first, args.steps + args.settle):
        rng = np.random.default_rng((0, step))
        rate = rate_of(step, args.steps, args.settle)
        for group in optimiser.param_groups:
            group["lr"] = rate
        images = crops(pictures, rng, args.side)
        if step >= args.steps:
            student.eval()
            images = varied(images, int(rng.integers(2**31)))
        wanted = teacher(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            own = student.maps(((images - mean) / std).to(memory_format=torch.channels_last))
            places = torch.from_numpy(rng.integers(0, 2**31, PAIRS))
            loss = loss_of(student, own, wanted, places)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            seconds = (time.process_time() - began) / (step + 1 - first)
            print(
                json.dumps(
                    {"step": step + 1, "loss": round(float(np.mean(losses[-50:])), 4), "s_per_step": seconds}
                ),
                flush=True,
            )
            with atomic_file(str(kept)) as path:
                torch.save(
                    {
                        "student": student.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "step": step + 1,
                    },
                    path,
                )
    torch.save(student.eval().state(), args.out)
    facts = {"backbone": args.backbone, "steps": args.steps, "settled": args.settle, "loss": losses[-1:]}
    emit("distilled backbone", facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Teach `compact` to predict from one look at a tile what it predicts from two: its shipped weights.

    python benchmarks/teach_one_look.py --data DATA --minutes 95 --processes 2 --out runs/one-look
    fewscope segment slide.svs --support five/ --weights runs/one-look/weights.safetensors --out out/slide

The teacher is the network of `--looks 2` (`model.views.TWO_LOOKS`), the student the same network with one look
(`SIDES`), on the episodes of training with five supports and whole pictures of 224 px. The student learns the
teacher's probability and depth at every pixel (Hinton et al., 2015: cross-entropy with soft targets), and a quarter as
much the labels. Norms keep the statistics of the training before; those of the support set are blended in, as in a job.
The weights that are kept are a running average. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.episodes.category import load_categories
from fewscope.model.episodes.sampler import EpisodeSampler
from fewscope.model.losses import readout_loss, segmentation_loss
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.compact_encoder import TaskNorm
from fewscope.model.networks.pixel_classifier import (
    JITTER,
    QUICK_BATCH,
    QUICK_STEPS,
    TexturePack,
    fit_textures,
)
from fewscope.model.networks.texture_statistics import STRIDE, texture_statistics
from fewscope.model.training import distributed
from fewscope.model.training.episode_batch import EpisodeBatch, predict_episodes
from fewscope.model.training.optimisation import micro_colour_weighted, moving_average
from fewscope.model.views import SIDES, TWO_LOOKS
from fewscope.model.weights import SHIPPED, load_weights, save_weights

SHOTS, QUERIES = 5, 9
EPISODES = 2
"""Of a step, in each process."""

RATE, DECAY, WARMUP = 5e-4, 1e-2, 20
AVERAGE = 0.99
LABELS = 0.25
"""Weight of the labels beside that of the teacher."""

MIX = {"micro": 0.34, "sat": 0.22, "natural": 0.12, "synthetic": 0.2, "appearance": 0.08, "superpixel": 0.04}
"""Kinds of episodes: real ones more often than in training, as they differ more from job to job."""

PIXELS = 6000
"""Of each scale, plain and jittered, that an episode's pixel classifier is fitted to."""

KEPT_EVERY = 25
"""Steps from checkpoint to checkpoint."""

CERTAIN = 0.2
"""Depth is learned where the teacher's probability is above this."""


class WithKeptStatistics:
    """`CompactEncoder.forward_episodes` with the statistics of the training before in place of those of a batch."""

    def __init__(self, net: CompactNet) -> None:
        self.encoder = net.encoder

    def __call__(self, images: Tensor, n_episodes: int, shots: int) -> dict[int, Tensor]:
        """Maps by stride of (E * N, 3, H, W)."""

        def step(layer: nn.Module, x: Tensor) -> Tensor:
            if isinstance(layer, TaskNorm):
                return normalised(layer, x, n_episodes, shots)
            made: Tensor = layer(x)
            return made

        return self.encoder._maps(images, step)


def normalised(norm: TaskNorm, x: Tensor, n_episodes: int, shots: int) -> Tensor:
    """What `TaskNorm.adapt_statistics` makes of the maps (E * N, C, H, W) of E episodes, with gradients."""
    images = x.unflatten(0, (n_episodes, -1))
    variance, mean = torch.var_mean(images[:, :shots].float(), dim=(1, 3, 4), correction=0)
    share = torch.sigmoid(norm.share)
    mean = torch.lerp(norm.running_mean.expand_as(mean), mean, share)
    variance = torch.lerp(norm.running_var.expand_as(variance), variance, share)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - mean * scale
    scale, shift = (v[:, None, :, None, None] for v in (scale, shift))
    return torch.addcmul(shift, images, scale).flatten(0, 1)


def two_looks_network() -> CompactNet:
    """The network of two looks, to be taught or to teach."""
    net = CompactNet("S")
    net.load_state_dict(load_weights(SHIPPED / "compact-two-looks.safetensors"))
    net.encoder.forward_episodes = WithKeptStatistics(net)
    return net.to(memory_format=torch.channels_last).eval()


def seen_at(batch: EpisodeBatch, side: int) -> EpisodeBatch:
    """Episodes with their pictures resized, as a job resizes patches and tiles."""

    def resized(maps: Tensor, mode: str) -> Tensor:
        smooth = {"antialias": True} if mode == "bilinear" else {}
        made = F.interpolate(maps.flatten(0, 1).float(), size=(side, side), mode=mode, **smooth)
        return made.round().clamp(0, 255).to(torch.uint8).unflatten(0, maps.shape[:2])

    return replace(
        batch,
        images=resized(batch.images, "bilinear"),
        masks=resized(batch.masks, "nearest-exact"),
        labelled=resized(batch.labelled, "nearest-exact"),
        depths=resized(batch.depths, "bilinear"),
        known=None if batch.known is None else resized(batch.known, "nearest-exact"),
    )


@torch.no_grad()
def fitted_classifiers(views: Sequence[EpisodeBatch], generator: torch.Generator) -> TexturePack:
    """One pixel classifier of each episode for all of its views; the tensors have a leading dimension E."""
    rows, shares, known = [], [], []
    for view in views:
        images = view.images[:, : view.shots].float() / 255
        truth, labelled = view.masks[:, : view.shots].float(), view.labelled.float()
        sides = torch.cat([truth * labelled, (1 - truth) * labelled], dim=2).flatten(0, 1)
        fg, bg = F.avg_pool2d(sides, STRIDE).unflatten(0, images.shape[:2]).unbind(2)
        fg, bg = fg.flatten(1), bg.flatten(1)
        gain, shift = 1 + JITTER * torch.randn(2, *images.shape[:2], 1, 1, 1, generator=generator)
        for seen in (images, ((images - 0.5) * gain + 0.5 + (shift - 1) / 2).clamp(0, 1)):
            x = texture_statistics(seen.flatten(0, 1)).unflatten(0, images.shape[:2])
            drawn = torch.randperm(fg.shape[1], generator=generator)[:PIXELS]
            rows.append(x.permute(0, 1, 3, 4, 2).flatten(1, 3)[:, drawn])
            shares.append((fg / (fg + bg).clamp_min(1e-6))[:, drawn])
            known.append((fg + bg > 0.5)[:, drawn])
    return fit_textures(
        torch.cat(rows, 1),
        torch.cat(shares, 1),
        torch.cat(known, 1),
        generator,
        steps=QUICK_STEPS,
        batch=QUICK_BATCH,
    )


def loss_of(
    student: CompactNet, teacher: CompactNet, batch: EpisodeBatch, seed: int
) -> tuple[Tensor, Tensor]:
    """What the student loses on episodes, and of it, without gradient, how far it is from the teacher."""
    (side,) = SIDES
    views = {s: seen_at(batch, s) for s in (*TWO_LOOKS, side)}
    texture = fitted_classifiers(list(views.values()), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        looks = [predict_episodes(teacher, views[s], texture=texture)[0].float() for s in TWO_LOOKS]
        looks = [F.interpolate(look, size=(side, side), mode="bilinear", antialias=True) for look in looks]
        found, depth = torch.sigmoid(torch.stack(looks).mean(0)).split(1, dim=1)
    logits, scores = predict_episodes(student, views[side], texture=texture)
    own, own_depth = logits.float().split(1, dim=1)
    certain = (found > CERTAIN).float()
    taught = divergence(own, found).mean() + (divergence(own_depth, depth) * certain).mean()
    target = views[side].masks[:, batch.shots :].flatten(0, 1).float()
    known = None if views[side].known is None else views[side].known.flatten(0, 1).float()
    labels = segmentation_loss(own, target, known)
    for score in scores.values():
        labels = labels + 0.05 * readout_loss(score, target, known)
    return taught + LABELS * labels, taught.detach()


def divergence(logits: Tensor, probability: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli distributions at every pixel, of logits from a probability."""
    certainty = F.binary_cross_entropy(probability, probability, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, probability, reduction="none") - certainty


@dataclass(slots=True)
class Taught:
    """The state of a run."""

    student: CompactNet
    mean: torch.optim.swa_utils.AveragedModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls) -> Taught:
        student = two_looks_network()
        decayed = [p for p in student.parameters() if p.ndim > 1]
        others = [p for p in student.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        mean = torch.optim.swa_utils.AveragedModel(
            student, multi_avg_fn=moving_average(AVERAGE), use_buffers=True
        )
        return cls(student, mean, torch.optim.AdamW(groups, lr=RATE))

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("student", "mean", "optimiser")}
        with atomic_file(str(path)) as temporary:
            torch.save({**parts, "step": self.step, "seconds": self.seconds}, temporary)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        for name in ("student", "mean", "optimiser"):
            getattr(self, name).load_state_dict(saved[name])
        self.step, self.seconds = saved["step"], saved["seconds"]


class _Steps(torch.utils.data.Dataset[list[EpisodeBatch]]):
    """This process's episodes of each step."""

    def __init__(self, data: Path) -> None:
        classes = micro_colour_weighted(load_categories(ClassFolders(data), "train", shippable_only=True))
        self.rank, self.ranks = distributed.rank(), distributed.world_size()
        self.source = EpisodeSampler(
            classes, size=PATCH_SIZE, images_per_episode=SHOTS + QUERIES, seed=7000, mix=MIX, shots=SHOTS
        )

    def __getitem__(self, step: int) -> list[EpisodeBatch]:
        own = range(self.rank, EPISODES * self.ranks, self.ranks)
        return EpisodeBatch.grouped([self.source[step * EPISODES * self.ranks + i] for i in own])


def teach(rank: int, args: argparse.Namespace) -> None:
    """One of the processes of a run."""
    torch.set_num_threads(1)
    if args.processes > 1:
        place = f"file://{(args.out / 'meeting').resolve()}"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=args.processes)
    teacher, run, kept = two_looks_network().requires_grad_(False), Taught.start(), args.out / "checkpoint.pt"
    if kept.exists():
        run.load(kept)
    began, limit = time.monotonic() - run.seconds, 60 * args.minutes
    losses: list[float] = []
    for batches in _loaded(args.data, run.step):
        run.seconds = time.monotonic() - began
        done = float(distributed.mean_over_ranks(torch.tensor([run.seconds / limit])))
        done = max(done, run.step / args.steps)
        if done >= 1:
            break
        rate = RATE * min(1, (run.step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        run.optimiser.zero_grad(set_to_none=True)
        n = sum(len(batch) for batch in batches)
        for batch in batches:
            loss, far = loss_of(run.student, teacher, batch, run.step * args.processes + rank)
            (loss * len(batch) / n).backward()
            losses.append(float(far))
        for parameter in run.student.parameters():
            if parameter.grad is not None:
                distributed.mean_over_ranks(parameter.grad)
        nn.utils.clip_grad_norm_(run.student.parameters(), 1.0)
        run.optimiser.step()
        run.mean.update_parameters(run.student)
        run.step += 1
        if rank == 0 and run.step % KEPT_EVERY == 0:
            run.seconds = time.monotonic() - began
            run.save(kept)
            print(
                f"step {run.step}, {done:.0%}: {sum(losses) / len(losses):.4f} from the teacher", flush=True
            )
            losses.clear()
    if rank == 0:
        taught: nn.Module = run.mean.module
        facts = {"network": "compact-S", "taught by": "compact-two-looks.safetensors", "steps": str(run.step)}
        save_weights(taught, args.out / "weights.safetensors", facts)
        emit("one look taught", {"steps": run.step, "processes": args.processes, "minutes": args.minutes})


def _loaded(data: Path, first: int) -> Iterator[list[EpisodeBatch]]:
    loader = torch.utils.data.DataLoader(
        _Steps(data), batch_size=None, sampler=range(first, 10**6), num_workers=1, prefetch_factor=3
    )
    return iter(loader)


def main(argv: Sequence[str] | None = None) -> int:
    """Teach, and write ``weights.safetensors`` at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="class folders with splits/train.txt")
    parser.add_argument("--minutes", type=float, default=95.0, help="of teaching (default 95)")
    parser.add_argument(
        "--steps", type=float, default=math.inf, help="at most (default: no end but the time's)"
    )
    parser.add_argument("--processes", type=int, default=1, help="of one thread each (default 1)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "meeting").unlink(missing_ok=True)
    if args.processes == 1:
        teach(0, args)
    else:
        torch.multiprocessing.spawn(teach, (args,), nprocs=args.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training of `CompactNet` on episodes: one loop, resumable, its log one JSON line per report."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.compact import CompactNet
from model.episodes import Category, Episode, EpisodeSampler
from model.losses import depth_loss, readout_loss, segmentation_loss
from model.metrics import mean_image_iou

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What determines a training run, together with the corpus."""

    size: str = "S"
    steps: int = 8000
    episodes_per_step: int = 4
    crop: int = 112
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup: int = 100
    average: float = 0.998  # decay of the running average of the weights, which is what is kept
    seed: int = 0
    bf16: bool = True


def micro_colour_weighted(corpus: list[Category]) -> list[Category]:
    """The corpus with every coloured microscopy class three times: grey fluorescence is most of what there is."""
    weighted = []
    for category in corpus:
        sample = category.images[:10].float() / 255
        colourful = float((sample.amax(1) - sample.amin(1)).mean()) > 0.05
        weighted += [category] * (3 if category.domain == "micro" and colourful else 1)
    return weighted


class _Episodes(torch.utils.data.Dataset[list[Episode]]):
    def __init__(self, sampler: EpisodeSampler, per_step: int) -> None:
        self.sampler, self.per_step = sampler, per_step

    def __getitem__(self, step: int) -> list[Episode]:
        return [self.sampler[step * self.per_step + i] for i in range(self.per_step)]


def episode_losses(net: CompactNet, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
    """Loss of a step (scalar), and the mean IoU of its queries; all episodes are encoded as one batch."""
    images = torch.cat([e.images for e in episodes]).to(memory_format=torch.channels_last)
    sizes = [n for e in episodes for n in (e.shots, len(e.images) - e.shots)]
    maps = {
        s: m.split(sizes) for s, m in net.encoder(images).items()
    }  # views; their gradient is one concatenation
    views = images.split(sizes)
    told: list[dict[int, Tensor]] = []
    extra = images.new_zeros(())
    for i, e in enumerate(episodes):
        sides = e.masks[: e.shots] * e.labelled, (1 - e.masks[: e.shots]) * e.labelled
        pack = net.compile_maps(views[2 * i], {s: m[2 * i] for s, m in maps.items()}, *sides)
        said = net.consult(views[2 * i + 1], {s: m[2 * i + 1] for s, m in maps.items()}, pack)
        target = e.masks[e.shots :]
        for s in (4, 8, 16):
            extra = extra + 0.05 * readout_loss(said[s][:, -3:-2], target)
        extra = extra + 0.1 * readout_loss(said[2][:, :1], target)
        told.append(said)
    logits = net.decode(
        {s: torch.cat(m[1::2]) for s, m in maps.items()},
        {s: torch.cat([t[s] for t in told]) for s in told[0]},
    )
    target = torch.cat([e.masks[e.shots :] for e in episodes])
    with torch.no_grad():
        iou = mean_image_iou(logits[:, :1].float() > 0, target > 0.5)
    loss = segmentation_loss(logits[:, :1], target) + extra / len(episodes)
    if net.has_depth:
        shares = logits[:, 1:].split(sizes[1::2])
        told_apart = [
            (d, e.depths[e.shots :]) for d, e in zip(shares, episodes, strict=True) if e.depths is not None
        ]
        for depth, true in told_apart:
            loss = loss + depth_loss(depth, true) / len(episodes)
    return loss, iou


def train(
    config: TrainConfig,
    corpus: list[Category],
    out: Path,
    *,
    initial: dict[str, Tensor] | None = None,
    loader_workers: int = 1,
    report_every: int = 50,
    threads: int = 1,
    on_step: Callable[[int], None] | None = None,
) -> CompactNet:
    """Train, and return the network with averaged weights, in eval mode.

    Writes ``log.jsonl`` and ``checkpoint.pt`` (atomically, every report) to `out`; called again with the same arguments
    it goes on from the checkpoint. Step i sees the same episodes in either case. `threads` are torch's: two processes
    of one thread train more than one of two. `on_step` is called before each step.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    net = CompactNet(config.size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if initial is not None:
        missing, unexpected = net.load_state_dict(initial, strict=False)
        wrong = [*unexpected, *(name for name in missing if not name.startswith("depth_head."))]
        if wrong:
            raise ValueError(
                f"the initial weights are of another network than compact {config.size}: {wrong[:3]}"
            )
    mean = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average), use_buffers=True
    )
    decay = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        config.learning_rate,
        total_steps=config.steps,
        pct_start=min(0.3, config.warmup / config.steps),
    )
    checkpoint = out / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["config"] != asdict(config):
            raise ValueError(f"{checkpoint} is of another run: {saved['config']}; use another --out")
        net.load_state_dict(saved["net"])
        mean.load_state_dict(saved["mean"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["step"]
        log.info("resumed at step %d", start)
    sampler = EpisodeSampler(micro_colour_weighted(corpus), size=config.crop, seed=config.seed)
    net.train()
    began, sums, n = time.perf_counter(), torch.zeros(2), 0
    with (out / "log.jsonl").open("a") as journal:
        for step, episodes in enumerate(_stream(sampler, config, start, loader_workers), start=start):
            if on_step is not None:
                on_step(step)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
                loss, iou = episode_losses(net, episodes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            mean.update_parameters(net)
            sums += torch.stack([loss.detach().float(), iou.float()])
            n += 1
            if (step + 1) % report_every == 0 or step + 1 == config.steps:
                seconds = (time.perf_counter() - began) / n
                row = {
                    "step": step + 1,
                    "loss": float(sums[0] / n),
                    "iou": float(sums[1] / n),
                    "s_per_step": seconds,
                }
                journal.write(json.dumps(row) + "\n")
                journal.flush()
                log.info("step %(step)d loss %(loss).4f iou %(iou).3f %(s_per_step).2f s/step", row)
                _save(
                    checkpoint,
                    {
                        "config": asdict(config),
                        "step": step + 1,
                        "net": net.state_dict(),
                        "mean": mean.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "schedule": schedule.state_dict(),
                    },
                )
                began, sums, n = time.perf_counter(), torch.zeros(2), 0
    averaged = mean.module
    assert isinstance(averaged, CompactNet)
    return averaged.eval()


def _stream(
    sampler: EpisodeSampler, config: TrainConfig, start: int, workers: int
) -> Iterator[list[Episode]]:
    loader = torch.utils.data.DataLoader(
        _Episodes(sampler, config.episodes_per_step),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


def _save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)

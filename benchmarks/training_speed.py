"""Seconds of a training step of each network, and the steps that fit into the same time.

    python benchmarks/training_speed.py --minutes 600
    python benchmarks/training_speed.py --minutes 60 --networks compact-S vgg16-paper --steps 3

Compact networks by the modern recipe, relation networks by the paper's; on generated pictures, whose making is left out
of the time, on CUDA where there is one. One JSON line a network, the first of them the baseline.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.records import emit
from fewscope.model.devices import computes_bfloat16, default_device
from fewscope.model.networks.registry import NETWORKS, build_network
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.objectives import objective_of
from fewscope.model.training.optimisation import clip_gradients, episode_source, optimiser_of
from fewscope.model.training.recipes import TrainConfig, recipe


def seconds_per_step(config: TrainConfig, n_steps: int, device: torch.device) -> float:
    """Median of some steps, after one that does not count."""
    net = build_network(config.network).to(device=device, memory_format=torch.channels_last)
    objective, optimiser = objective_of(net, config.loss), optimiser_of(config, net)
    source = episode_source(config, [], seed=0)
    batches = EpisodeBatch.grouped([source[i] for i in range(config.episodes_per_step)])
    batches = [batch.to(device) for batch in batches]
    bf16 = computes_bfloat16(device)
    seconds = []
    for _ in range(n_steps + 1):
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, _ = objective(batches)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(config, net)
        optimiser.step()
        float(loss.detach())  # waits for the GPU
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[n_steps // 2]


def main(argv: list[str] | None = None) -> int:
    """Measure one network after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True, help="that each network may train")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["compact-S", "vgg16-paper"])
    parser.add_argument("--steps", type=int, default=5, help="that are measured (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (default 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = default_device()
    baseline = None
    for name in args.networks:
        config = recipe("modern" if NETWORKS[name].family == "compact" else "paper", name)
        seconds = seconds_per_step(config, args.steps, device)
        baseline = baseline or seconds
        emit(
            "training step",
            {
                "ratio": seconds / baseline,
                "network": name,
                "s_per_step": seconds,
                "episodes_per_step": config.episodes_per_step,
                "crop": config.crop,
                "device": device.type,
                "steps_in_the_time": int(args.minutes * 60 / seconds),
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Data-parallel training with ``torch.distributed``, if it has been initialised; else one process trains alone.

Every rank takes its share of a step's episodes; gradients are averaged by DistributedDataParallel, the running
statistics of batch norm here, so that all ranks hold the same network after every step.
"""

from __future__ import annotations

import hashlib

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fewscope.errors import ConfigError


def rank() -> int:
    """Rank of this process; 0 if it trains alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 if this one trains alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def in_parallel(objective: nn.Module) -> nn.Module:
    """Wrap the objective so that gradients are averaged over the ranks. Every step must use all parameters."""
    if world_size() == 1:
        return objective
    return DistributedDataParallel(objective, broadcast_buffers=False)


def average_statistics(net: nn.Module) -> None:
    """Average the running statistics of all batch norms over the ranks, in place."""
    if world_size() == 1:
        return
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    statistics = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
    together = nn.utils.parameters_to_vector(statistics)
    nn.utils.vector_to_parameters(mean_over_ranks(together), statistics)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor over the ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def same_step(step: int) -> None:
    """Check that all ranks start from the same checkpoint.

    Raises
    ------
    ConfigError
        They do not: they see different run folders.
    """
    if world_size() == 1:
        return
    steps: list[int] = [step] * world_size()
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise ConfigError(
            f"workers would start from the steps {sorted(set(steps))}: they do not see the same --out; give a folder "
            "that all machines share"
        )


def digests(net: nn.Module) -> list[str]:
    """SHA-256 of the network's state on every rank, in hex. They must be equal."""
    own = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        own.update(name.encode())
        own.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    found: list[str] = [own.hexdigest()] * world_size()
    if world_size() > 1:
        dist.all_gather_object(found, own.hexdigest())
    return found

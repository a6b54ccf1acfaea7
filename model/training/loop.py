"""The training loop: the same for all networks, resumable, on one device or data-parallel."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewscope.errors import ConfigError
from fewscope.model.atomic import atomic_file
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.devices import computes_bfloat16, default_device
from fewscope.model.episodes.category import Category
from fewscope.model.episodes.sampler import EpisodeSource
from fewscope.model.networks.episodic import EpisodicNet
from fewscope.model.networks.imagenet import load_imagenet, load_imagenet_backbone
from fewscope.model.networks.registry import NETWORKS, build_network, start_from
from fewscope.model.networks.relation import RelationNet
from fewscope.model.training import distributed
from fewscope.model.training.episode_batch import EpisodeBatch
from fewscope.model.training.objectives import objective_of
from fewscope.model.training.optimisation import (
    clip_gradients,
    episode_source,
    moving_average,
    optimiser_of,
    schedule_of,
)
from fewscope.model.training.recipes import TrainConfig
from fewscope.model.training.run_log import RunLog
from fewscope.model.training.validation import NoValidation, Validation, ValidationClasses, picture_of
from fewscope.model.weights import save_weights

if TYPE_CHECKING:
    from fewscope.model.networks.registry import Network

log = logging.getLogger(__name__)

VALIDATION_SIDE = PATCH_SIZE
"""Side of validation images, px: that of the tiles of jobs."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run that do not change the resulting weights.

    Attributes
    ----------
    report_every : int
        Steps between log rows and checkpoints.
    validate_every : int
        Steps between validations and images of predictions; a multiple of `report_every`.
    loader_workers : int
        Processes that prepare episodes.
    threads : int
        Threads of torch; two processes of one thread train faster than one of two.

    Raises
    ------
    ConfigError
        A number is too small, or `validate_every` is not a multiple of `report_every`.
    """

    report_every: int = 50
    validate_every: int = 500
    loader_workers: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--report-every", self.report_every, 1),
            ("--validate-every", self.validate_every, 1),
            ("--loader-workers", self.loader_workers, 0),
            ("--threads", self.threads, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} {value} is below {least}; give {least} or more")
        if self.validate_every % self.report_every:
            raise ConfigError(
                f"validate_every {self.validate_every} is not a multiple of report_every {self.report_every}"
            )


_PARTS = ("net", "mean", "optimiser", "schedule")


@dataclass(slots=True)
class _State:
    """State of a run. `mean` is None if no moving average is kept."""

    net: Network
    mean: torch.optim.swa_utils.AveragedModel | None
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    step: int = 0
    best: float = -math.inf

    @property
    def kept(self) -> Network:
        """The network that is validated and kept."""
        if self.mean is None:
            return self.net
        averaged: Network = self.mean.module  # type: ignore[assignment]
        return averaged

    def save(self, path: Path, run: dict[str, Any]) -> None:
        """Write a checkpoint, atomically."""
        state = {name: getattr(self, name) for name in _PARTS}
        saved = {name: part.state_dict() for name, part in state.items() if part is not None}
        with atomic_file(path) as temporary:
            torch.save({"run": run, "step": self.step, "best": self.best, **saved}, temporary)

    def load(self, path: Path, run: dict[str, Any], device: torch.device) -> None:
        """Resume from a checkpoint of the same run; ConfigError if it is of another run."""
        saved = torch.load(path, weights_only=True, map_location=device)
        if saved.get("run") != run:
            theirs = saved.get("run") or {}
            differ = [f"{k}: {theirs.get(k)} there, {v} now" for k, v in run.items() if theirs.get(k) != v]
            raise ConfigError(f"{path} is of another run ({'; '.join(differ)}); use another --out")
        for name in _PARTS:
            if getattr(self, name) is not None:
                getattr(self, name).load_state_dict(saved[name])
        self.step, self.best = saved["step"], saved["best"]


class _Steps(torch.utils.data.Dataset[list[EpisodeBatch]]):
    """This rank's episodes of each step."""

    def __init__(self, source: EpisodeSource, per_step: int, rank: int, world_size: int) -> None:
        self.source, self.per_step = source, per_step
        self.own = range(rank, per_step, world_size)

    def __getitem__(self, step: int) -> list[EpisodeBatch]:
        return EpisodeBatch.grouped([self.source[step * self.per_step + i] for i in self.own])


def train(
    config: TrainConfig,
    classes: list[Category],
    out: Path,
    *,
    initial: dict[str, Tensor] | None = None,
    validation: list[Category] | None = None,
    options: RunOptions | None = None,
    device: torch.device | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Network:
    """Train, and return the network that is kept, in eval mode.

    Writes ``log.jsonl``, ``predictions.png``, ``tensorboard/`` and ``checkpoint.pt`` to `out`, and with `validation`
    classes the weights that score best on them, ``weights-best.safetensors``. Called again with the same settings and
    data, it resumes from the checkpoint: step i sees the same episodes in either case. If ``torch.distributed`` is
    initialised, its ranks share the episodes of a step, and rank 0 writes.

    Parameters
    ----------
    config : TrainConfig
        Settings that determine the result.
    classes : list[Category]
        Training classes; empty for synthetic episodes only.
    out : Path
        Folder of the run.
    initial : dict[str, Tensor] | None
        Weights to start from; None for random ones.
    validation : list[Category] | None
        Validation classes.
    options : RunOptions | None
        None for the defaults of `RunOptions`.
    device : torch.device | None
        None for CUDA if available.
    on_step : Callable[[int], None] | None
        Called with the step's number before each step.

    Raises
    ------
    ConfigError
        The checkpoint is of another run, or episodes cannot be shared evenly.
    WeightsError
        The initial weights are of another network.
    FloatingPointError
        The loss is no longer finite. The last checkpoint is from before.
    """
    options = options or RunOptions()
    device = device or default_device()
    config.share(distributed.world_size())
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    run = asdict(config) | {"corpus": {c.name: len(c.images) for c in classes}}
    checkpoint = out / "checkpoint.pt"
    fresh = not checkpoint.exists()
    state = _start(config, initial, device, fresh=fresh)
    if not fresh:
        state.load(checkpoint, run, device)
        log.info("resuming from step %d of %d", state.step, config.steps)
    distributed.same_step(state.step)
    source = episode_source(config, classes, config.seed)
    validation_episodes: Validation = (
        ValidationClasses(validation, VALIDATION_SIDE)
        if validation
        else NoValidation(episode_source(config, classes, config.seed + 1))
    )
    bf16 = computes_bfloat16(device) if config.bf16 is None else config.bf16
    objective = distributed.in_parallel(objective_of(state.net, config.loss))
    with contextlib.ExitStack() as stack:
        run_log = None
        if distributed.rank() == 0:
            run_log = stack.enter_context(RunLog(out, state.step, config.steps))
        began, sums, n = time.perf_counter(), torch.zeros(3, device=device), 0
        state.net.train()
        for batches in _batches(source, config, state.step, options):
            if on_step is not None:
                on_step(state.step)
            # dropout, too, is the same in a resumed run
            torch.manual_seed((config.seed * 1_000_003 + state.step) * 1_009 + distributed.rank())
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss, iou = objective([batch.to(device) for batch in batches])
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_gradients(config, state.net)
            state.optimiser.step()
            state.schedule.step()
            distributed.average_statistics(state.net)
            if state.mean is not None:
                state.mean.update_parameters(state.net)
            sums += torch.stack([loss.detach().float(), iou.float(), norm.float()])
            n += 1
            state.step += 1
            if run_log is not None:
                run_log.advance()
            last = state.step == config.steps
            if last or state.step % options.report_every == 0:
                means = distributed.mean_over_ranks(sums / n).tolist()
                row = dict(zip(("loss", "iou", "gradient_norm"), means, strict=True))
                if not math.isfinite(row["loss"]):
                    raise FloatingPointError(
                        f"the loss is {row['loss']} at step {state.step}; give a smaller --learning-rate"
                    )
                row["learning_rate"] = state.schedule.get_last_lr()[0]
                row["s_per_step"] = (time.perf_counter() - began) / n
                if run_log is not None:
                    if last or state.step % options.validate_every == 0:
                        row |= _validate(state, config, validation_episodes, run_log, out, device, bf16)
                    run_log.write({"step": state.step, **row})
                    state.save(checkpoint, run)
                began, n = time.perf_counter(), 0
                sums.zero_()
    return state.kept.eval()


def _start(
    config: TrainConfig, initial: dict[str, Tensor] | None, device: torch.device, *, fresh: bool
) -> _State:
    """State at step 0; nothing is downloaded if a checkpoint follows (not `fresh`)."""
    torch.manual_seed(config.seed)
    net = build_network(config.network)
    if config.imagenet and fresh:
        if isinstance(net, EpisodicNet):
            load_imagenet_backbone(net, NETWORKS[config.network].encoder)
        else:
            assert isinstance(net, RelationNet)
            load_imagenet(net.encoder, NETWORKS[config.network].encoder)
    if initial is not None:
        start_from(net, initial, config.network)
    if config.train_backbone:
        assert isinstance(net, EpisodicNet)
        net.unfreeze()
    net = net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = None
    if config.average is not None:
        mean = torch.optim.swa_utils.AveragedModel(
            net, multi_avg_fn=moving_average(config.average), use_buffers=True
        )
        mean.eval()
    optimiser = optimiser_of(config, net)
    return _State(net, mean, optimiser, schedule_of(config, optimiser))


def _validate(
    state: _State,
    config: TrainConfig,
    validation_episodes: Validation,
    run_log: RunLog,
    out: Path,
    device: torch.device,
    bf16: bool,
) -> dict[str, float]:
    """Validate the network that is kept, draw its predictions, keep the best one. Returns what the log row adds."""
    state.kept.eval()
    score = validation_episodes.score(state.kept, device, bf16=bf16)
    run_log.show(state.step, picture_of(state.kept, validation_episodes.preview(), device, bf16=bf16))
    if score is not None and score > state.best:
        state.best = score
        facts = {"recipe": str(config), "step": str(state.step), "validation_iou": f"{score:.4f}"}
        save_weights(state.kept, out / "weights-best.safetensors", facts)
    state.net.train()
    return {} if score is None else {"validation_iou": score}


def _batches(
    source: EpisodeSource, config: TrainConfig, start: int, options: RunOptions
) -> Iterator[list[EpisodeBatch]]:
    loader = torch.utils.data.DataLoader(
        _Steps(source, config.episodes_per_step, distributed.rank(), distributed.world_size()),
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=options.loader_workers,
        prefetch_factor=4 if options.loader_workers else None,
    )
    return iter(loader)

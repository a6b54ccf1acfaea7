"""Training objectives: the loss of a step's episodes, for each family of networks.

They are modules around the network, so that data-parallel training sees one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn

from fewscope.model.losses import (
    cross_entropy,
    depth_loss,
    readout_loss,
    segmentation_loss,
    soft_dice,
    squared_error,
)
from fewscope.model.metrics import mean_image_iou
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.episodic import EpisodicNet
from fewscope.model.networks.names import LOSSES
from fewscope.model.networks.relation import RelationNet
from fewscope.model.training.episode_batch import EpisodeBatch, predict_episodes

if TYPE_CHECKING:
    from fewscope.model.networks.registry import Network

LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = dict(
    zip(LOSSES, (cross_entropy, squared_error, segmentation_loss, soft_dice), strict=True)
)
"""Of logits (N, 1, H, W), targets in {0, 1}, and where these are known (None: everywhere): see `model.losses`."""


NetworkT = TypeVar("NetworkT", bound=nn.Module)


class _Objective(nn.Module, Generic[NetworkT]):
    """Loss of a network over the batches of a step; what a batch loses is the network's own."""

    net: NetworkT

    def __init__(self, net: NetworkT, loss: str) -> None:
        super().__init__()
        self.net = net
        self.loss = LOSS_FUNCTIONS[loss]

    def forward(self, batches: Sequence[EpisodeBatch]) -> tuple[Tensor, Tensor]:
        """Loss of the episodes, and the mean IoU of their queries: two scalars."""
        return _mean_over(batches, self._of_batch)

    def _of_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class CompactObjective(_Objective[CompactNet]):
    """Loss of a compact network: of its logits, its ridge regressions and the depth."""

    def _of_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        logits, scores = predict_episodes(self.net, batch)
        deep = batch.has_depth.float()[:, None, None, None, None].expand_as(batch.masks[:, batch.shots :])
        target, true, deep = (
            maps.flatten(0, 1).float()
            for maps in (batch.masks[:, batch.shots :], batch.depths[:, batch.shots :] / 255, deep)
        )
        known = None if batch.known is None else batch.known.flatten(0, 1).float()
        loss = self.loss(logits[:, :1], target, known)
        for score in scores.values():
            loss = loss + 0.05 * readout_loss(score, target, known)
        if self.net.has_depth:
            deep = deep if known is None else deep * known
            loss = loss + depth_loss(logits[:, 1:], true, deep) * deep.mean()
        return loss, _iou(logits[:, :1], target, known)


class RelationObjective(_Objective[RelationNet]):
    """Loss of a relation network, episode by episode.

    Supports and queries of an episode are encoded as one batch: so batch norm is trained on the mixture that its
    running statistics describe, and the gradient does not depend on the other episodes of the step.
    """

    def _of_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        losses, ious = [], []
        for e in batch.episodes():
            shown = torch.zeros_like(e.masks)  # the masks of queries stay hidden
            shown[: e.shots] = e.masks[: e.shots] * e.labelled
            pairs = torch.cat([e.images, shown], dim=1).to(memory_format=torch.channels_last)
            deepest, taps = self.net.encoder(pairs)
            pack = self.net.compile_maps(deepest[: e.shots], tuple(t[: e.shots] for t in taps))
            logits = self.net.decode(deepest[e.shots :], tuple(t[e.shots :] for t in taps), pack)
            target = e.masks[e.shots :]
            losses.append(self.loss(logits, target, e.known))
            ious.append(_iou(logits, target, e.known))
        return torch.stack(losses).mean(), torch.stack(ious).mean()


class EpisodicObjective(_Objective[EpisodicNet]):
    """Loss of a published network, episode by episode, with what the network itself adds to it."""

    def _of_batch(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        losses, ious = [], []
        for e in batch.episodes():
            truth = e.masks[: e.shots]
            images = e.images.to(memory_format=torch.channels_last)
            logits, own = self.net.episode(images, truth * e.labelled, (1 - truth) * e.labelled)
            target = e.masks[e.shots :]
            loss = self.loss(logits, target, e.known)
            losses.append(loss if own is None else loss + own)
            ious.append(_iou(logits, target, e.known))
        return torch.stack(losses).mean(), torch.stack(ious).mean()


def _mean_over(
    batches: Sequence[EpisodeBatch], each: Callable[[EpisodeBatch], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Mean loss and IoU over all episodes."""
    total = sum(len(batch) for batch in batches)
    shares = [torch.stack(each(batch)) * (len(batch) / total) for batch in batches]
    loss, iou = torch.stack(shares).sum(0)
    return loss, iou


def objective_of(net: Network, loss: str) -> CompactObjective | RelationObjective | EpisodicObjective:
    """The objective for a network's family."""
    if isinstance(net, CompactNet):
        return CompactObjective(net, loss)
    if isinstance(net, EpisodicNet):
        return EpisodicObjective(net, loss)
    return RelationObjective(net, loss)


@torch.no_grad()
def _iou(logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    counted = torch.ones_like(target, dtype=torch.bool) if known is None else known > 0.5
    return mean_image_iou((logits.float() > 0) & counted, (target > 0.5) & counted)

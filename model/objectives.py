"""What training makes small: for each kind of network, the loss of some episodes.

Modules around the network, so that data-parallel training sees one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.compact import CompactNet
from model.episodes import Episode
from model.losses import cross_entropy, depth_loss, readout_loss, segmentation_loss, squared_error
from model.metrics import mean_image_iou
from model.relation import RelationNet

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": cross_entropy,
    "mse": squared_error,
    "bce+dice": segmentation_loss,
}
"""Of logits (N, 1, H, W) and targets in {0, 1}."""


class CompactObjective(nn.Module):
    """Loss of a compact network: of its answers, its read-outs and the depth. All episodes are encoded as one batch."""

    def __init__(self, net: CompactNet, loss: str) -> None:
        super().__init__()
        self.net = net
        self.loss = LOSSES[loss]

    def forward(self, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
        """Loss of the episodes, and the mean IoU of their queries: two scalars."""
        net = self.net
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
        loss = self.loss(logits[:, :1], target) + extra / len(episodes)
        if net.has_depth:
            shares = logits[:, 1:].split(sizes[1::2])
            told_apart = [
                (d, e.depths[e.shots :])
                for d, e in zip(shares, episodes, strict=True)
                if e.depths is not None
            ]
            for depth, true in told_apart:
                loss = loss + depth_loss(depth, true) / len(episodes)
        return loss, _iou(logits[:, :1], target)


class RelationObjective(nn.Module):
    """Loss of a relation network, one episode after the other.

    Supports and queries of an episode are encoded as one batch: then batch norm sees in training the mixture that its
    running statistics describe, and the gradient does not depend on what else is in the step.
    """

    def __init__(self, net: RelationNet, loss: str) -> None:
        super().__init__()
        self.net = net
        self.loss = LOSSES[loss]

    def forward(self, episodes: list[Episode]) -> tuple[Tensor, Tensor]:
        """Loss of the episodes, and the mean IoU of their queries: two scalars."""
        losses, ious = [], []
        for e in episodes:
            known = torch.zeros_like(e.masks)  # a query's mask is not told
            known[: e.shots] = e.masks[: e.shots] * e.labelled
            pairs = torch.cat([e.images, known], dim=1).to(memory_format=torch.channels_last)
            deepest, taps = self.net.encoder(pairs)
            pack = self.net.compile_maps(deepest[: e.shots], tuple(t[: e.shots] for t in taps))
            logits = self.net.decode(deepest[e.shots :], tuple(t[e.shots :] for t in taps), pack)
            target = e.masks[e.shots :]
            losses.append(self.loss(logits, target))
            ious.append(_iou(logits, target))
        return torch.stack(losses).mean(), torch.stack(ious).mean()


def objective_of(net: CompactNet | RelationNet, loss: str) -> CompactObjective | RelationObjective:
    """What is made small for this network."""
    return CompactObjective(net, loss) if isinstance(net, CompactNet) else RelationObjective(net, loss)


@torch.no_grad()
def _iou(logits: Tensor, target: Tensor) -> Tensor:
    return mean_image_iou(logits.float() > 0, target > 0.5)

"""What the losses prefer where a network knows no more than the share of the object."""

import torch

from fewscope.model.losses import cross_entropy, segmentation_loss, soft_dice


def constant(probability: float) -> torch.Tensor:
    """Logits of one probability everywhere."""
    return torch.logit(torch.tensor(probability)).expand(1, 1, 20, 20)


def test_without_knowledge_dice_prefers_all_and_cross_entropy_the_share_of_the_object() -> None:
    target = torch.zeros(1, 1, 20, 20)
    target[..., :5] = 1  # a quarter
    constants = [0.01, 0.25, 0.5, 0.75, 0.99]
    best = {
        loss: min(constants, key=lambda p: float(loss(constant(p), target)))
        for loss in (cross_entropy, segmentation_loss, soft_dice)
    }
    assert best == {cross_entropy: 0.25, segmentation_loss: 0.25, soft_dice: 0.99}

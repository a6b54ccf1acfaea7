"""Batch norms folded into the convolutions before them, for prediction."""

from __future__ import annotations

import torch
from torch import nn


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution in a `Sequential` into it. The module must be in eval mode."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            layers = list(child)
            folded: list[nn.Module] = []
            for layer in layers:
                if isinstance(layer, nn.BatchNorm2d) and folded and isinstance(folded[-1], nn.Conv2d):
                    folded[-1] = torch.nn.utils.fusion.fuse_conv_bn_eval(folded[-1], layer)
                else:
                    folded.append(fold_batch_norm(layer))
            setattr(module, name, nn.Sequential(*folded))
        else:
            setattr(module, name, fold_batch_norm(child))
    return module

"""A class to train on."""

import numpy as np
import torch

from fewscope.model.episodes.category import Category


def one_class() -> list[Category]:
    """Ten pictures, each of its own grey, with a brighter square."""
    images = (
        torch.zeros(10, 3, 224, 224, dtype=torch.uint8)
        + torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    )
    masks = torch.zeros(10, 224, 224, dtype=torch.bool)
    for i in range(10):
        masks[i, 20 + 8 * i : 120 + 8 * i, 30:190] = True
    return [Category("squares", "", images + 150 * masks[:, None].to(torch.uint8), masks)]


def arrays_of(category: Category) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 224, 224, 3) and labels (N, 224, 224), uint8, as `Segmenter` takes them."""
    images = np.ascontiguousarray(category.images.permute(0, 2, 3, 1).numpy())
    return images, category.masks.numpy().astype(np.uint8)

"""Published figures of the FSS-1000 paper's tables, and the rows in which ours stand beside them.

Percent. Li et al., *FSS-1000: A 1000-Class Dataset for Few-Shot Segmentation*, CVPR 2020; folds and shots of the other
methods as that paper prints them. (a) is the mean image IoU, (b) the mIoU of PASCAL-5i. Figures that we could not check
against a publication are left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A cell of a table that a run can fill.

    Attributes
    ----------
    label : str
        Name of the row.
    networks : tuple[str, ...]
        Names of the networks that fill it, without the size of their paper; the first is what one would train.
    shots : int
        K of the evaluation.
    paper : float | None
        The printed figure; None if the paper has none.
    loss : str
        Loss of the training; "" for any.
    differs : str
        What differs from the paper's protocol.
    train : str
        Options of ``train`` that make a run for it; "" if there is nothing to train.
    side : int | None
        Side of the images in the network's own paper, px, if a variant of the network works at it.
    """

    label: str
    networks: tuple[str, ...]
    shots: int
    paper: float | None
    loss: str = ""
    differs: str = ""
    train: str = "--recipe paper"
    side: int | None = None


_ENCODERS = (
    ("VGG-16", "vgg16-paper", 80.12, 79.66),
    ("ResNet-101", "resnet101-paper", 79.43, 79.12),
    ("InceptionV3", "inception-paper", 79.02, 79.22),
)

TABLE_2 = tuple(
    Row(
        f"{label}, {loss.upper()}",
        (network,),
        5,
        figure,
        loss,
        "running statistics",
        f"--recipe paper --loss {loss}",
    )
    for label, network, *figures in _ENCODERS
    for loss, figure in zip(("bce", "mse"), figures, strict=True)
)
"""Encoders and losses, 5 shots, (a) on FSS-1000's test classes."""


def _both(
    label: str,
    networks: tuple[str, ...],
    papers: tuple[float | None, float | None],
    differs: str | tuple[str, str] = "",
    train: str = "--recipe paper",
    side: int | None = None,
) -> tuple[Row, ...]:
    each = (differs, differs) if isinstance(differs, str) else differs
    return tuple(
        Row(label, networks, shots, paper, differs=what, train=train, side=side)
        for shots, paper, what in zip((1, 5), papers, each, strict=True)
    )


TABLE_3 = (
    *_both("OSLSM", ("oslsm",), (70.29, 73.02), "hash of seed 0"),
    *_both("Guided Network", ("guided",), (71.94, 74.27), "the repository's network"),
    *_both("FSS-1000, as in the paper", ("vgg16-paper",), (73.47, 80.12), "running statistics"),
    *_both("FSS-1000, published code", ("vgg16-released",), (73.47, 80.12), "running statistics"),
    *_both("FSS-1000, the authors' weights", ("vgg16-hkustcv",), (73.47, 80.12), "batch of one", ""),
    *_both("PANet", ("panet",), (None, None), side=417),
    *_both("CANet", ("canet",), (None, None), ("one scale", "no attention, one scale"), side=321),
    *_both("HSNet, VGG-16", ("hsnet-vgg16",), (None, None), side=400),
    *_both("HSNet, ResNet-50", ("hsnet-resnet50",), (None, None), side=400),
    *_both("HSNet, ResNet-101", ("hsnet-resnet101",), (None, None), side=400),
    *_both("prototypes, compact", ("prototype-compact",), (None, None), "not trained", ""),
    *_both("prototypes, VGG-16", ("prototype-vgg16",), (None, None), "not trained", ""),
    *_both("prototypes, ResNet-50", ("prototype-resnet50",), (None, None), "not trained", ""),
    *_both("compact", ("compact-S", "compact-L"), (None, None), "not in the paper", "--recipe modern"),
)
"""Methods, 1 and 5 shots, (a) on FSS-1000's test classes."""

THIRD_PARTY = (
    "The authors' repository has no evaluation script. One that was proposed to it (pull request 13, not merged) "
    "measured 80.82 ± 1.53 with their weights, for 80.12 printed."
)

TABLE_4: tuple[tuple[str, tuple[str, ...], tuple[float | None, ...], float | None], ...] = (
    ("OSLSM", ("oslsm",), (34.2, 57.9, 43.2, 37.8), 43.3),
    ("Guided Network", ("guided",), (33.1, 58.9, 44.3, 39.9), 44.1),
    ("PANet", ("panet",), (51.8, 64.6, 59.8, 46.5), 55.7),
    ("CANet", ("canet",), (55.5, 67.8, 51.9, 53.2), 57.1),
    ("FSS-1000's network, trained on PASCAL", ("vgg16-paper", "vgg16-released"), (None,) * 4, 46.8),
    ("FSS-1000's network, trained on FSS-1000", ("vgg16-paper", "vgg16-released"), (None,) * 4, 58.6),
)
"""Methods on the four folds of PASCAL-5i and their mean, 5 shots, (b)."""

OF_FSS = "FSS-1000's network, trained on FSS-1000"

TABLE_5 = (("ImageNet → FSS-1000", 79.30), ("FSS-1000 → fsCOCO", 82.66))
"""Pre-training and training, with the paper's figure."""

TABLE_6 = "The paper: 500 images in 9 min 13 s on a CPU, 16.9 s on a GPU."

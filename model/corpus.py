"""Classes of labelled pictures, from a folder laid out like FSS-1000.

``<class>/<k>.jpg`` with ``<class>/<k>.png``, 224x224; masks with 0 for background. Other files in a class folder are
passed over, as are the known defects of the published data set (extra images without a mask, a colour image stored as
a mask, sizes other than 224).
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

PATCH = 224


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """One class of a corpus: all its pairs, in memory."""

    name: str
    domain: str
    images: Tensor  # (N, 3, 224, 224) uint8
    masks: Tensor  # (N, 224, 224) bool


def allowed_for_shipping(licence: str) -> bool:
    """Whether weights trained on a pair of this licence may ship.

    No non-commercial (NC) and no no-derivatives (ND) licence, nothing for research only, nothing unknown. A source that
    states no licence at all is allowed, and named in the model card.
    """
    text = licence.lower()
    return not ("-nc" in text or "-nd" in text or "research" in text or text.startswith("unknown"))


def load_corpus(
    root: str | Path, split: str | None = None, *, shippable_only: bool = False
) -> list[Category]:
    """All classes of a corpus folder, or those listed in ``splits/<split>.txt``.

    Parameters
    ----------
    root : folder of class folders; ``classes.csv`` (class, domain) and ``pairs.csv`` (class, k, licence) are used
        when they are there.
    shippable_only : leave out the pairs that `allowed_for_shipping` refuses (needs ``pairs.csv``).
    """
    root = Path(root)
    if split is not None:
        names = (root / "splits" / f"{split}.txt").read_text().split("\n")
        names = [n.strip() for n in names if n.strip()]
    else:
        names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != "splits")
    domains = {row["class"]: row["domain"] for row in _rows(root / "classes.csv")}
    licences = {(row["class"], row["k"]): row["licence"] for row in _rows(root / "pairs.csv")}
    if shippable_only and not licences:
        raise ValueError(
            f"{root} has no pairs.csv, so the licence of its pairs is not known; train without --shippable"
        )
    categories = []
    for name in names:
        pairs = []
        for image_path in sorted((root / name).glob("*.jpg"), key=lambda p: (len(p.stem), p.stem)):
            if shippable_only and not allowed_for_shipping(licences.get((name, image_path.stem), "unknown")):
                continue
            pair = read_pair(image_path)
            if pair is not None:
                pairs.append(pair)
        if len(pairs) >= 2:
            images = torch.from_numpy(np.stack([p[0] for p in pairs])).permute(0, 3, 1, 2).contiguous()
            masks = torch.from_numpy(np.stack([p[1] for p in pairs]))
            categories.append(Category(name, domains.get(name, ""), images, masks))
    if not categories:
        raise ValueError(f"{root} has no class folder with two or more <k>.jpg/<k>.png pairs")
    log.info("%d classes, %d pairs from %s", len(categories), sum(len(c.images) for c in categories), root)
    return categories


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def read_pair(image_path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """One pair as (224, 224, 3) uint8 and (224, 224) bool, or None if there is no usable mask beside the image."""
    mask_path = image_path.with_suffix(".png")
    if not mask_path.exists():
        return None
    with Image.open(image_path) as im:
        image = np.asarray(
            im.convert("RGB").resize((PATCH, PATCH)) if im.size != (PATCH, PATCH) else im.convert("RGB")
        )
    with Image.open(mask_path) as im:
        grey = im.convert("L")
        mask = np.asarray(
            grey.resize((PATCH, PATCH), Image.Resampling.NEAREST) if im.size != (PATCH, PATCH) else grey
        )
    mask = mask > (127 if mask.max() > 1 else 0)
    return (image, mask) if mask.any() and not mask.all() else None

"""Classes of labelled pictures, from a folder laid out like FSS-1000.

``<class>/<k>.jpg`` (RGB) with ``<class>/<k>.png`` (mask, 0 = background) and, where objects are told apart,
``<class>/<k>.inst.png`` (0 = background, 1..n = one object each), 224x224. Beside the classes, where they are there:

- ``splits/<name>.txt``, ``<name>.txt`` or ``splits/fss/<name>.txt``: the classes of a split, one a line; ``trn`` is
  another name of ``train``, and ``fss_test_set.txt`` of ``test``
- ``classes.csv``: class, domain (or supercategory); ``supercategories.csv``: class, supercategory
- ``pairs.csv``: class, k, licence

The known defects of FSS-1000 are survived: other files in a class folder (``10.jpeg``) are passed over; an RGB picture
as mask and a mask of more than two values are cut at half of their range, as everybody's loaders do, and the latter is
named in the log; pictures of another size are resized; apostrophes in class names may be there or not.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

PATCH = 224

SPLIT_FILES = {
    "train": ("splits/train.txt", "train.txt", "splits/trn.txt", "trn.txt", "splits/fss/trn.txt"),
    "val": ("splits/val.txt", "val.txt", "splits/fss/val.txt"),
    "test": ("splits/test.txt", "test.txt", "splits/fss/test.txt", "fss_test_set.txt"),
}

FSS1000_TEST = "af9c51828a33248ad3584050b5c77879f5a7e3007497d8c223988e9dd9f61bc3"
"""`fingerprint` of the 240 test classes that the authors of FSS-1000 name, the only official split."""

WHERE_SPLITS_COME_FROM = (
    "for FSS-1000, the 240 test classes are in fss_test_set.txt of the authors' repository (HKUSTCV/FSS-1000), and the "
    "lists of train and validation classes that everybody uses in data/splits/fss of HSNet's (juhongm999/hsnet)"
)


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """One class of a corpus: all its pairs, in memory.

    Attributes
    ----------
    domain : its domain or super-category, "" where no table says
    images : (N, 3, 224, 224) uint8
    masks : (N, 224, 224) bool
    instances : (N, 224, 224) int32, 0 = background, 1..n = one object each; None unless every pair has them
    keys : (N,) the k of each pair
    """

    name: str
    domain: str
    images: Tensor
    masks: Tensor
    instances: Tensor | None = None
    keys: tuple[str, ...] = ()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pictures (N, 224, 224, 3) uint8, labels (N, 224, 224) uint8 of 0 and 1, objects: for `Segmenter`."""
        return (
            np.ascontiguousarray(self.images.permute(0, 2, 3, 1).numpy()),
            self.masks.numpy().astype(np.uint8),
            None if self.instances is None else self.instances.numpy(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A picture (224, 224, 3) uint8, its mask (224, 224) bool, and its objects (224, 224) int32 or None."""

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray | None


def load_corpus(
    root: str | Path,
    split: str | None = None,
    *,
    domains: Collection[str] = (),
    shippable_only: bool = False,
) -> list[Category]:
    """All classes of a corpus, or those of a split, in memory: `iter_corpus` as a list."""
    categories = list(iter_corpus(root, split, domains=domains, shippable_only=shippable_only))
    log.info("%d classes, %d pairs from %s", len(categories), sum(len(c.images) for c in categories), root)
    return categories


def iter_corpus(
    root: str | Path,
    split: str | None = None,
    *,
    domains: Collection[str] = (),
    shippable_only: bool = False,
) -> Iterator[Category]:
    """Classes of a corpus one after the other, each with two pairs or more.

    Parameters
    ----------
    split : "train", "val", "test", or another name of a list in ``splits/``; None for all folders
    domains : only classes of these domains or super-categories
    shippable_only : leave out the pairs that `allowed_for_shipping` refuses (needs ``pairs.csv``)

    Raises
    ------
    FileNotFoundError
        The folder, the split's list, or a class that the list names is not there.
    ValueError
        No class is left, or licences are asked for and not known.
    """
    root = corpus_root(root)
    licences = {(row["class"], row["k"]): row["licence"] for row in _rows(root / "pairs.csv")}
    if shippable_only and not licences:
        raise ValueError(
            f"{root} has no pairs.csv, so the licence of its pairs is not known; train without --shippable"
        )
    groups = domains_of(root)
    names = class_names(root, split)
    if domains:
        known = {groups.get(name, "") for name in names}
        if unknown := sorted(set(domains) - known):
            raise ValueError(f"no class of the domain {unknown[0]!r} in {root}; there are {sorted(known)}")
        names = [name for name in names if groups.get(name, "") in domains]
    n_found = 0
    for name in names:
        pairs = {}
        for path in picture_files(root / name):
            licence = licences.get((name, path.stem), "unknown")
            if shippable_only and not allowed_for_shipping(licence):
                continue
            if (pair := read_pair(path)) is not None:
                pairs[path.stem] = pair
        if len(pairs) >= 2:
            n_found += 1
            yield _category(name, groups.get(name, ""), pairs)
    if not n_found:
        raise ValueError(f"{root} has no class folder with two or more <k>.jpg/<k>.png pairs")


def _category(name: str, domain: str, pairs: dict[str, Pair]) -> Category:
    images = np.stack([pair.image for pair in pairs.values()])
    instances = [pair.instances for pair in pairs.values() if pair.instances is not None]
    return Category(
        name,
        domain,
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([pair.mask for pair in pairs.values()])),
        torch.from_numpy(np.stack(instances)) if len(instances) == len(pairs) else None,
        tuple(pairs),
    )


def corpus_root(root: str | Path) -> Path:
    """The folder of the class folders: `root`, or what FSS-1000's archive puts between (``fewshot_data``)."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the folder that holds the class folders")
    while not (root / "splits").exists() and (root / "fewshot_data").is_dir():
        root = root / "fewshot_data"
    return root


def class_names(root: str | Path, split: str | None = None) -> list[str]:
    """The folders of a split's classes in the list's order, or of all classes in the order of the alphabet."""
    root = corpus_root(root)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != "splits")
    if split is None:
        return folders
    by_name = {_plain(folder): folder for folder in folders}
    listed = [line.strip() for line in split_file(root, split).read_text().splitlines() if line.strip()]
    missing = [name for name in listed if _plain(name) not in by_name]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(listed)} classes of the split {split!r} have no folder in {root}, the first "
            f"is {missing[0]!r}; complete the download, or use the list that belongs to this folder"
        )
    return [by_name[_plain(name)] for name in listed]


def split_file(root: Path, split: str) -> Path:
    """The list of a split.

    Raises
    ------
    FileNotFoundError
        There is none; the message says where it was looked for and where lists come from.
    """
    candidates = SPLIT_FILES.get(split, (f"splits/{split}.txt", f"{split}.txt"))
    for candidate in candidates:
        # the lists of HSNet lie in a folder beside the data as often as in it
        for folder in (root, root.parent):
            if (folder / candidate).is_file():
                return folder / candidate
    raise FileNotFoundError(
        f"{root} has no list of the classes of the split {split!r} (looked for {', '.join(candidates)}); put one "
        f"there, one class a line: {WHERE_SPLITS_COME_FROM}"
    )


def fingerprint(names: Iterable[str]) -> str:
    """SHA-256 of a set of class names, in whatever order and with or without apostrophes."""
    return hashlib.sha256("\n".join(sorted(map(_plain, names))).encode()).hexdigest()


def _plain(name: str) -> str:
    return name.replace("'", "").lower()


def domains_of(root: str | Path) -> dict[str, str]:
    """Domain or super-category of every class that ``supercategories.csv`` or ``classes.csv`` names."""
    root = corpus_root(root)
    found = {}
    for table in ("classes.csv", "supercategories.csv"):
        for row in _rows(root / table):
            domain = row.get("supercategory") or row.get("domain")
            if "class" not in row or domain is None:
                raise ValueError(
                    f"{root / table} has the columns {', '.join(row)}; expected class and domain or supercategory"
                )
            found[row["class"]] = domain
    return found


def allowed_for_shipping(licence: str) -> bool:
    """Whether weights trained on a pair of this licence may ship.

    No non-commercial (NC) and no no-derivatives (ND) licence, nothing for research only, nothing unknown. A source that
    states no licence at all is allowed, and named in the model card.
    """
    text = licence.lower()
    return not ("-nc" in text or "-nd" in text or "research" in text or text.startswith("unknown"))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def picture_files(folder: Path) -> list[Path]:
    """``<k>.jpg`` of a class folder in the order of numbers."""
    return sorted(folder.glob("*.jpg"), key=lambda p: (len(p.stem), p.stem))


def read_pair(image_path: Path) -> Pair | None:
    """One pair at 224x224, or None if there is no usable mask beside the image: missing, empty, or full."""
    mask_path = image_path.with_suffix(".png")
    if not mask_path.exists():
        return None
    with Image.open(image_path) as picture:
        image = np.asarray(_fit(picture.convert("RGB"), Image.Resampling.BICUBIC))
    with Image.open(mask_path) as picture:
        grey = np.asarray(_fit(picture.convert("L"), Image.Resampling.NEAREST))
    if np.mean((grey > 0) & (grey < grey.max())) > 0.05:  # a smoothed rim is less
        log.warning("%s is not a mask of two values; cut at half of its range", mask_path)
    mask = grey > int(grey.max()) / 2
    if not mask.any() or mask.all():
        return None
    return Pair(image, mask, _read_instances(image_path.with_suffix(".inst.png"), mask))


def _read_instances(path: Path, mask: np.ndarray) -> np.ndarray | None:
    """Objects inside the mask, (224, 224) int32, or None if they are not told apart."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        # resized as float, the one mode of Pillow that every number of objects fits in
        values = np.asarray(_fit(picture.convert("F"), Image.Resampling.NEAREST))
    instances = np.rint(values).astype(np.int32)
    return instances if np.array_equal(instances > 0, mask) else None


def _fit(picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
    return picture if picture.size == (PATCH, PATCH) else picture.resize((PATCH, PATCH), resampling)

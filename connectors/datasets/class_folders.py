"""Classes of labelled images, from a folder in the layout of FSS-1000 (Li et al., CVPR 2020).

``<class>/<k>.jpg`` (RGB) with ``<class>/<k>.png`` (mask, 0 = background) and, if objects are separated,
``<class>/<k>.inst.png`` (0 = background, 1..n = one object each), 224x224. Pixels above 0 in ``<class>/<k>.void.png``
are neither object nor background: a support set does not label them, and an evaluation does not count them. Beside the
classes, all optional:

- ``splits/<name>.txt``, ``<name>.txt`` or ``splits/fss/<name>.txt``: the classes of a split, one a line; ``trn`` is
  another name for ``train``, and ``fss_test_set.txt`` for ``test``
- ``classes.csv``: class, domain (or supercategory); ``supercategories.csv``: class, supercategory
- ``pairs.csv``: class, k, licence

The known defects of FSS-1000 are handled: other files in a class folder (``10.jpeg``) are ignored; an RGB mask and a
mask of more than two values are thresholded at half of their range, as other loaders do, and the latter is logged;
images of another size are resized; apostrophes in class names are optional.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.errors import DatasetError

log = logging.getLogger(__name__)

SPLIT_FILES = {
    "train": ("splits/train.txt", "train.txt", "splits/trn.txt", "trn.txt", "splits/fss/trn.txt"),
    "val": ("splits/val.txt", "val.txt", "splits/fss/val.txt"),
    "test": ("splits/test.txt", "test.txt", "splits/fss/test.txt", "fss_test_set.txt"),
}

FSS1000_TEST = "af9c51828a33248ad3584050b5c77879f5a7e3007497d8c223988e9dd9f61bc3"
"""`fingerprint` of the 240 test classes of FSS-1000's authors, the only official split."""

WHERE_SPLITS_COME_FROM = (
    "for FSS-1000, the 240 test classes are in fss_test_set.txt of the authors' repository (HKUSTCV/FSS-1000), and the "
    "usual lists of train and validation classes in data/splits/fss of HSNet's (juhongm999/hsnet)"
)


@dataclass(frozen=True, slots=True, eq=False)
class ClassImages:
    """One class of a data set: all its pairs, in memory.

    Attributes
    ----------
    name
        Name of the class, as its folder has it.
    domain
        Its domain or super-category; "" where no table says.
    images
        uint8 (N, 224, 224, 3).
    masks
        bool (N, 224, 224).
    instances
        int32 (N, 224, 224), 0 = background, 1..n = one object each; None unless every pair has them.
    keys
        The <k> of each pair, (N,).
    void
        bool (N, 224, 224), pixels that are neither object nor background; None without any.
    """

    name: str
    domain: str
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    instances: NDArray[np.int32] | None = None
    keys: tuple[str, ...] = ()
    void: NDArray[np.bool_] | None = None

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32] | None]:
        """Images, labels and instances, as a support set has them; labels are uint8 (N, 224, 224): 0, 1 or, where
        pixels are void, 255."""
        labels = self.masks.astype(np.uint8)
        if self.void is not None:
            labels[self.void] = IGNORE_LABEL
        return self.images, labels, self.instances


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A picture, uint8 (224, 224, 3), its mask, bool (224, 224), its objects, int32 (224, 224), or None, and its void
    pixels, bool (224, 224), or None."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    instances: NDArray[np.int32] | None
    void: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """A data set in the layout of FSS-1000. Picklable: every training worker reads it itself.

    Attributes
    ----------
    root
        The folder of the class folders, or the one above it, as FSS-1000's archive unpacks.
    supercategories
        A table of class and supercategory that takes precedence over those in the folder; None for those alone.
    """

    root: Path
    supercategories: Path | None = None

    def __str__(self) -> str:
        return str(self.root)

    def classes(
        self,
        split: str | None = None,
        *,
        domains: Collection[str] = (),
        shippable_only: bool = False,
    ) -> Iterator[ClassImages]:
        """Read one class after the other, each with two pairs or more.

        Parameters
        ----------
        split
            "train", "val", "test", or another name of a list in ``splits/``; None for all folders.
        domains
            Only classes of these domains or super-categories; empty for all.
        shippable_only
            Leave out the pairs that `allowed_for_shipping` refuses (needs ``pairs.csv``).

        Raises
        ------
        DatasetError
            The folder, the split's list, or a class that the list names is missing; no class is left; or licences
            are asked for and not known.
        """
        root = dataset_root(self.root)
        licences = {(row["class"], row["k"]): row["licence"] for row in _rows(root / "pairs.csv")}
        if shippable_only and not licences:
            raise DatasetError(
                f"{root} has no pairs.csv, so the licence of its pairs is not known; train without --shippable"
            )
        groups = domains_of(root, self.supercategories)
        names = class_names(root, split)
        if domains:
            known = {groups.get(name, "") for name in names}
            if unknown := sorted(set(domains) - known):
                raise DatasetError(
                    f"no class of the domain {unknown[0]!r} in {root}; there are {sorted(known)}"
                )
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
                yield _class_images(name, groups.get(name, ""), pairs)
        if not n_found:
            raise DatasetError(f"{root} has no class folder with two or more <k>.jpg/<k>.png pairs")


def _class_images(name: str, domain: str, pairs: dict[str, Pair]) -> ClassImages:
    instances = [pair.instances for pair in pairs.values() if pair.instances is not None]
    return ClassImages(
        name,
        domain,
        np.stack([pair.image for pair in pairs.values()]),
        np.stack([pair.mask for pair in pairs.values()]),
        np.stack(instances) if len(instances) == len(pairs) else None,
        tuple(pairs),
        _void(pairs),
    )


def _void(pairs: dict[str, Pair]) -> NDArray[np.bool_] | None:
    if all(pair.void is None for pair in pairs.values()):
        return None
    return np.stack([np.zeros_like(p.mask) if p.void is None else p.void for p in pairs.values()])


def dataset_root(root: str | Path) -> Path:
    """The folder of the class folders: `root`, or the ``fewshot_data`` in it, as FSS-1000's archive unpacks."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; give the folder that holds the class folders")
    while not (root / "splits").exists() and (root / "fewshot_data").is_dir():
        root = root / "fewshot_data"
    return root


def class_names(root: str | Path, split: str | None = None) -> list[str]:
    """Class folders of a split, in the order of its list, or all of them in alphabetical order."""
    root = dataset_root(root)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != "splits")
    if split is None:
        return folders
    by_name = {_plain(folder): folder for folder in folders}
    listed = [line.strip() for line in split_file(root, split).read_text().splitlines() if line.strip()]
    missing = [name for name in listed if _plain(name) not in by_name]
    if missing:
        raise DatasetError(
            f"{len(missing)} of the {len(listed)} classes of the split {split!r} have no folder in {root}, the first "
            f"is {missing[0]!r}; complete the download, or use the list that belongs to this folder"
        )
    return [by_name[_plain(name)] for name in listed]


def split_file(root: Path, split: str) -> Path:
    """The file that lists the classes of a split.

    Raises
    ------
    DatasetError
        There is none; the message says where lists can be found.
    """
    candidates = SPLIT_FILES.get(split, (f"splits/{split}.txt", f"{split}.txt"))
    for candidate in candidates:
        # the lists of HSNet are often unpacked beside the data
        for folder in (root, root.parent):
            if (folder / candidate).is_file():
                return folder / candidate
    raise DatasetError(
        f"{root} has no list of the classes of the split {split!r} (looked for {', '.join(candidates)}); put one "
        f"there, one class a line: {WHERE_SPLITS_COME_FROM}"
    )


def fingerprint(names: Iterable[str]) -> str:
    """SHA-256 of a set of class names, regardless of order, case and apostrophes."""
    return hashlib.sha256("\n".join(sorted(map(_plain, names))).encode()).hexdigest()


def _plain(name: str) -> str:
    return name.replace("'", "").lower()


def domains_of(root: str | Path, table: Path | None = None) -> dict[str, str]:
    """Domain or super-category of every class.

    Parameters
    ----------
    root
        Folder with ``classes.csv`` or ``supercategories.csv``; the latter wins.
    table
        Another table of super-categories, which wins over both; apostrophes and case of its names are optional.

    Raises
    ------
    DatasetError
        A table has other columns, or the given one does not exist.
    """
    root = dataset_root(root)
    if table is not None and not table.is_file():
        raise DatasetError(f"{table}: no such file; give a table of class,supercategory")
    tables = [root / "classes.csv", root / "supercategories.csv"]
    found: dict[str, str] = {}
    for path in tables:
        found |= dict(_domains(path))
    if table is not None:
        folders = {_plain(p.name): p.name for p in root.iterdir() if p.is_dir()}
        found |= {folders.get(_plain(name), name): domain for name, domain in _domains(table)}
    return found


def _domains(path: Path) -> Iterator[tuple[str, str]]:
    for row in _rows(path):
        domain = row.get("supercategory") or row.get("domain")
        if "class" not in row or domain is None:
            raise DatasetError(
                f"{path} has the columns {', '.join(row)}; expected class and domain or supercategory"
            )
        yield row["class"], domain


def allowed_for_shipping(licence: str) -> bool:
    """Whether weights trained on a pair with this licence may be shipped.

    Not with a non-commercial (NC), no-derivatives (ND), research-only or unknown licence. A source that states no
    licence at all is allowed, and named in the model card.
    """
    text = licence.lower()
    return not ("-nc" in text or "-nd" in text or "research" in text or text.startswith("unknown"))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as f:
        return list(csv.DictReader(f))


def picture_files(folder: Path) -> list[Path]:
    """``<k>.jpg`` of a class folder, in numerical order."""
    return sorted(folder.glob("*.jpg"), key=lambda p: (len(p.stem), p.stem))


def read_pair(image_path: Path) -> Pair | None:
    """Read one pair at 224x224; None without a usable mask: missing, empty, or full."""
    mask_path = image_path.with_suffix(".png")
    if not mask_path.exists():
        return None
    with Image.open(image_path) as picture:
        image = np.asarray(_fit(picture.convert("RGB"), Image.Resampling.BICUBIC))
    with Image.open(mask_path) as picture:
        grey = np.asarray(_fit(picture.convert("L"), Image.Resampling.NEAREST))
    if np.mean((grey > 0) & (grey < grey.max())) > 0.05:  # smoothed edges are less
        log.warning("%s is not a mask of two values; cut at half of its range", mask_path)
    mask = grey > int(grey.max()) / 2
    if not mask.any() or mask.all():
        return None
    void, void_path = None, image_path.with_suffix(".void.png")
    if void_path.exists():
        with Image.open(void_path) as picture:
            void = (np.asarray(_fit(picture.convert("L"), Image.Resampling.NEAREST)) > 0) & ~mask
    return Pair(image, mask, _read_instances(image_path.with_suffix(".inst.png"), mask), void)


def _read_instances(path: Path, mask: NDArray[Any]) -> NDArray[Any] | None:
    """Objects in the mask, int32 (224, 224); None if they are not separated, or differ from the mask."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        # float is the one mode of Pillow that can resize any number of objects
        values = np.asarray(_fit(picture.convert("F"), Image.Resampling.NEAREST))
    instances = np.rint(values).astype(np.int32)
    return instances if np.array_equal(instances > 0, mask) else None


def _fit(picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
    return (
        picture
        if picture.size == (PATCH_SIZE, PATCH_SIZE)
        else picture.resize((PATCH_SIZE, PATCH_SIZE), resampling)
    )

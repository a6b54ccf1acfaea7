"""PASCAL VOC and COCO, converted to class folders in FSS-1000's layout (docs/protocol.md).

One pair for each image and each class in it: the mask holds all objects of the class, so that no background is an
unlabelled object. Images are resized to 224x224 without keeping their aspect ratio, as in few-shot benchmarks; masks by
nearest pixel.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.pixels.run_lengths import decode_run_lengths
from fewscope.errors import ConfigError, DatasetError, MissingPackageError, RunMismatch

log = logging.getLogger(__name__)

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Classes 1 to 20 of PASCAL VOC; each fold of PASCAL-5i tests on five of them (Shaban et al., BMVC 2017)."""

VOC_VOID = 255
"""Label of outlines and difficult pixels, which are neither object nor background."""

N_FOLDS = 4

FOLD_ORDERS = ("interleaved", "consecutive")

MIN_AREA = 0.01
"""Least share of an image that a class must cover by default: less is a few pixels of 224x224."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """All objects of one class in one image.

    Attributes
    ----------
    category : str
        Name of the class.
    picture : Path
        File of the image.
    mask : (H, W) bool
    instances : NDArray[np.int32] | None
        (H, W) int32, 0 outside the mask, 1..n one object each; None if objects are not separated.
    void : NDArray[np.bool_] | None
        (H, W) bool, pixels that are neither object nor background; None without any.
    """

    category: str
    picture: Path
    mask: NDArray[np.bool_]
    instances: NDArray[np.int32] | None
    void: NDArray[np.bool_] | None = None


def read_voc(root: Path, image_set: str, classes: Sequence[str] = VOC_CLASSES) -> Iterator[Labelled]:
    """Read a PASCAL VOC folder (``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation``).

    Objects are separated if ``SegmentationObject`` exists.

    Parameters
    ----------
    root : Path
        The folder.
    image_set : str
        "train", "val" or "trainval".
    classes : Sequence[str]
        Only these.

    Raises
    ------
    DatasetError
        The folder has another layout, or a mask no palette.
    """
    listed = root / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    if not listed.is_file():
        raise DatasetError(
            f"{listed} is missing; give the folder that holds JPEGImages, SegmentationClass and ImageSets (VOC2012)"
        )
    for name in listed.read_text().split():
        values = _palette_values(root / "SegmentationClass" / f"{name}.png")
        objects_file = root / "SegmentationObject" / f"{name}.png"
        objects = _palette_values(objects_file) if objects_file.exists() else None
        for value, category in enumerate(VOC_CLASSES, start=1):
            mask = values == value
            if category in classes and mask.any():
                instances = None
                if objects is not None and not np.isin(objects[mask], (0, VOC_VOID)).any():
                    instances = np.where(mask, objects, 0).astype(np.int32)
                picture = root / "JPEGImages" / f"{name}.jpg"
                yield Labelled(category, picture, mask, instances, values == VOC_VOID)


def voc_names(root: Path, image_set: str) -> frozenset[str]:
    """Names of the images of a set, "train", "val" or "trainval"; DatasetError if its list is missing."""
    listed = root / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    if not listed.is_file():
        raise DatasetError(f"{listed} is missing; give the folder that holds ImageSets (VOC2012)")
    return frozenset(listed.read_text().split())


def read_sbd(
    root: Path, voc: Path, without: Collection[str], classes: Sequence[str] = VOC_CLASSES
) -> Iterator[Labelled]:
    """Read the labels that SBD adds to PASCAL VOC's images (Hariharan et al., ICCV 2011).

    Objects are not separated: SBD's classes alone are read.

    Parameters
    ----------
    root : Path
        SBD's ``dataset`` folder (``cls/*.mat`` and ``img/*.jpg``), or a folder of palette PNGs, as
        ``SegmentationClassAug`` is.
    voc : Path
        VOC's folder, for images that are not in `root`.
    without : Collection[str]
        Names of images to leave out: those of VOC's validation set, and those that VOC itself labels.
    classes : Sequence[str]
        Only these.

    Raises
    ------
    DatasetError
        The folder has another layout.
    """
    files = sorted((root / "cls").glob("*.mat")) or sorted(root.glob("*.png"))
    if not files:
        raise DatasetError(
            f"{root}: has neither cls/*.mat nor *.png; give SBD's dataset folder, or SegmentationClassAug"
        )
    for path in files:
        if path.stem in without:
            continue
        values = _sbd_values(path) if path.suffix == ".mat" else _palette_values(path)
        own = root / "img" / f"{path.stem}.jpg"
        picture = own if own.exists() else voc / "JPEGImages" / f"{path.stem}.jpg"
        for value, category in enumerate(VOC_CLASSES, start=1):
            if category in classes and (values == value).any():
                yield Labelled(category, picture, values == value, None, values == VOC_VOID)


def _sbd_values(path: Path) -> NDArray[np.uint8]:
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0], np.uint8)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DatasetError(f"{path}: is not one of SBD's label files ({error}); download it again") from error


def _palette_values(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        if picture.mode not in ("P", "L"):
            raise DatasetError(
                f"{path} is of mode {picture.mode}; expected a palette PNG of class numbers, as VOC's archive has them"
            )
        return np.asarray(picture)


def read_coco(annotations: Path, images: Path) -> Iterator[Labelled]:
    """Read COCO's instance annotations: polygons and run lengths, compressed or not.

    An image with a crowd of a class (``iscrowd``) is skipped for that class: its objects cannot be counted.

    Parameters
    ----------
    annotations : Path
        JSON file.
    images : Path
        Folder of the images.

    Raises
    ------
    MissingPackageError
        pycocotools is not installed.
    DatasetError
        The file is not in COCO's format.
    """
    content = json.loads(annotations.read_text())
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise DatasetError(
            f"{annotations} is not in COCO's format; expected images, annotations and categories, as in "
            "instances_val2017.json"
        )
    names = {category["id"]: category["name"] for category in content["categories"]}
    pictures = {picture["id"]: picture for picture in content["images"]}
    objects_of: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        objects_of.setdefault((annotation["image_id"], annotation["category_id"]), []).append(annotation)
    for (image_id, category_id), objects in sorted(objects_of.items(), key=lambda item: item[0]):
        if any(one.get("iscrowd") for one in objects):
            continue
        picture = pictures[image_id]
        instances = np.zeros((picture["height"], picture["width"]), np.int32)
        for number, one in enumerate(objects, start=1):
            instances[_coco_mask(one["segmentation"], *instances.shape)] = number
        yield Labelled(names[category_id], images / picture["file_name"], instances > 0, instances)


def _coco_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """One object, (height, width): a list of polygons, or run lengths as a list or as COCO's text."""
    if not isinstance(segmentation, list):
        return decode_run_lengths(segmentation["counts"], height, width)
    try:
        from pycocotools import mask as coco
    except ImportError as e:
        raise MissingPackageError(
            "pycocotools is not installed; install it with: pip install fewscope[eval]"
        ) from e
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width))), bool)


def coco_names(annotations: Path) -> tuple[str, ...]:
    """Names of the categories of a COCO annotation file, in the order of their numbers."""
    categories = json.loads(annotations.read_text())["categories"]
    return tuple(category["name"] for category in sorted(categories, key=lambda c: int(c["id"])))


def coco_fold(names: Sequence[str], fold: int, order: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The training and test classes of a fold of COCO-20i, 0..3.

    Parameters
    ----------
    names : Sequence[str]
        All classes, in the order of their numbers.
    fold : int
        0..3.
    order : str
        "interleaved", every fourth class from `fold` on, as HSNet and its successors have it, or "consecutive", a
        quarter in a row, as PANet has it.

    Raises
    ------
    ConfigError
        There is no such fold or order.

    >>> coco_fold("abcdefgh", 1, "interleaved")[1], coco_fold("abcdefgh", 1, "consecutive")[1]
    (('b', 'f'), ('c', 'd'))
    """
    if not 0 <= fold < N_FOLDS:
        raise ConfigError(f"fold {fold} is not in 0..{N_FOLDS - 1}")
    if order not in FOLD_ORDERS:
        raise ConfigError(f"fold order {order!r} is not one of {', '.join(FOLD_ORDERS)}")
    n = len(names) // N_FOLDS
    test = tuple(names[fold::N_FOLDS] if order == "interleaved" else names[fold * n : (fold + 1) * n])
    return tuple(name for name in names if name not in test), test


def draw_classes(names: Sequence[str], n_train: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw `n_train` training classes; the others are test classes. Both in the order of `names`.

    Raises
    ------
    ConfigError
        No class would be left for one side.
    """
    if not 0 < n_train < len(names):
        raise ConfigError(f"--train-classes {n_train} of {len(names)} classes: give 1 to {len(names) - 1}")
    drawn = set(np.random.default_rng(seed).permutation(len(names))[:n_train].tolist())
    train = tuple(name for i, name in enumerate(names) if i in drawn)
    return train, tuple(name for name in names if name not in train)


def coco_groups(annotations: Path) -> dict[str, str]:
    """Super-category of every category in a COCO annotation file."""
    categories = json.loads(annotations.read_text())["categories"]
    return {category["name"]: category.get("supercategory", "") for category in categories}


def fold_classes(fold: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 15 training and 5 test classes of a fold of PASCAL-5i, 0..3; ConfigError for another fold.

    >>> fold_classes(1)[1]
    ('bus', 'car', 'cat', 'chair', 'cow')
    """
    if not 0 <= fold < N_FOLDS:
        raise ConfigError(f"fold {fold} is not in 0..{N_FOLDS - 1}")
    test = VOC_CLASSES[5 * fold : 5 * fold + 5]
    return tuple(name for name in VOC_CLASSES if name not in test), test


def write_pairs(
    pairs: Iterable[Labelled],
    out: Path,
    *,
    min_area: float = MIN_AREA,
    most: int | None = None,
    max_aspect: float | None = None,
    min_side: int = 1,
) -> dict[str, int]:
    """Write pairs as class folders.

    Parameters
    ----------
    pairs : Iterable[Labelled]
        To write.
    out : Path
        The folder of the class folders.
    min_area : float
        Least share of the image that a class must cover.
    most : int | None
        Pairs per class, the first ones; None for all.
    max_aspect : float | None
        Largest ratio of the sides of an image; None for any.
    min_side : int
        Least height and width of an image, px.

    Returns
    -------
    Number of pairs by class folder.

    Raises
    ------
    RunMismatch
        A class folder is not empty.
    DatasetError
        An image and its mask differ in size.
    """
    written: dict[str, int] = {}
    for pair in pairs:
        folder = out / folder_name(pair.category)
        n = written.get(folder.name, 0)
        sides = sorted(pair.mask.shape)
        if sides[0] < min_side or (max_aspect is not None and sides[1] > max_aspect * sides[0]):
            continue
        if (most is not None and n >= most) or pair.mask.mean() < min_area or pair.mask.all():
            continue
        if n == 0 and folder.exists() and any(folder.iterdir()):
            raise RunMismatch(f"{folder} is not empty; give another --out")
        mask = _resized(pair.mask.astype(np.uint8))
        if not mask.any() or mask.all():
            continue
        if not pair.picture.is_file():
            raise DatasetError(f"{pair.picture}: no such file; complete the download")
        with Image.open(pair.picture) as picture:
            if picture.size != pair.mask.shape[::-1]:
                raise DatasetError(
                    f"{pair.picture} is {picture.size[0]}x{picture.size[1]}, its annotation "
                    f"{pair.mask.shape[1]}x{pair.mask.shape[0]}; they must be the same"
                )
            small = picture.convert("RGB").resize((PATCH_SIZE, PATCH_SIZE), Image.Resampling.BICUBIC)
        folder.mkdir(parents=True, exist_ok=True)
        written[folder.name] = k = n + 1
        Image.fromarray(255 * mask).save(folder / f"{k}.png")
        if pair.instances is not None:
            objects = _resized(pair.instances)
            _, numbered = np.unique(objects, return_inverse=True)
            Image.fromarray(numbered.reshape(objects.shape).astype(np.uint16)).save(folder / f"{k}.inst.png")
        if pair.void is not None and pair.void.any():
            void = _resized(pair.void.astype(np.uint8))
            Image.fromarray(255 * void).save(folder / f"{k}.void.png")
        small.save(folder / f"{k}.jpg", quality=95)
    log.info("%d pairs of %d classes in %s", sum(written.values()), len(written), out)
    return written


def write_lists(out: Path, splits: Mapping[str, Sequence[str]], groups: dict[str, str] | None = None) -> None:
    """Write ``splits/<name>.txt``, and ``supercategories.csv`` if groups (class to super-category) are given."""
    for name, classes in splits.items():
        (out / "splits").mkdir(parents=True, exist_ok=True)
        (out / "splits" / f"{name}.txt").write_text("".join(f"{c}\n" for c in classes))
    if groups:
        with (out / "supercategories.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "supercategory"))
            writer.writerows((folder_name(name), group) for name, group in groups.items())


def folder_name(category: str) -> str:
    """A category's name without characters that are awkward in folder names."""
    return category.replace("/", "_").replace(" ", "_")


def _resized(values: NDArray[Any]) -> NDArray[Any]:
    """Resize (H, W) to (224, 224) by nearest pixel."""
    row = (np.arange(PATCH_SIZE) * 2 + 1) * values.shape[0] // (2 * PATCH_SIZE)
    col = (np.arange(PATCH_SIZE) * 2 + 1) * values.shape[1] // (2 * PATCH_SIZE)
    return values[np.ix_(row, col)]

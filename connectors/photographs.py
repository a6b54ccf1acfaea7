"""Folders of ordinary photographs (PNG, JPEG, WebP, BMP), and support sets of them: whole images, resized, not cut."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.pixels.stretch import stretch_channels
from fewscope.connectors.support.folder import PAIRS, open_pictures
from fewscope.connectors.support.label_files import is_label_file
from fewscope.connectors.support.support_set import BOX, POINT, SupportSet, joined_rough
from fewscope.errors import SourceError, SupportError

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURES = (*PHOTOGRAPHS, ".tif", ".tiff", ".gif")
"""Names of pictures that are read as photographs where that is asked for; else they are slides."""

SMALL, SMALL_IN_A_CROWD = 0.01, 0.05
"""Share of its picture below which an object is small, and below which it is where there are at least `CROWD` in a
picture: of one that is 25 px wide where the picture is 224, and of 57 px."""

CROWD = 8

SLIDE_PARTS = (".dcm", ".mrxs", ".ini", ".vms", ".zattrs", ".zgroup")
"""Endings of files that make a folder a slide, whatever pictures are in it."""

SPECK = 1e-4
"""Share of its picture below which a piece of a mask is no object that is counted."""

LOOKED_AT = 20
"""Labelled pictures whose objects are measured."""

MAX_PIXELS = 100_000_000
"""Larger images are scans, not photographs, and take more memory than they are worth."""


def photograph_files(folder: Path, endings: Sequence[str] = PHOTOGRAPHS) -> list[Path]:
    """Photographs of a folder in the order of their names; empty if it is none, or holds a slide."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if any(path.suffix.lower() in SLIDE_PARTS for path in files):
        return []
    return sorted(path for path in files if path.suffix.lower() in endings)


def has_small_objects(support: str, class_names: Sequence[str] = ()) -> bool:
    """Whether the labelled pictures of a folder are fields of view of many small objects, not photographs of one thing.

    So they are if half of the labelled pixels are of objects that take up less than `SMALL` of their picture, or less
    than `SMALL_IN_A_CROWD` and half of the pictures show `CROWD` of them. Touching objects are one here, unless their
    labels number them.

    Raises
    ------
    SupportError
        There is no such folder, or it is not certain what its pictures and labels mean.
    """
    pictures = open_pictures(support, class_names)
    shares, numbers = [np.zeros(0)], []
    for picture in pictures.pictures[:LOOKED_AT] if pictures else []:
        labelled = picture.read()
        objects = labelled.instances
        if objects is None:
            is_object = (labelled.labels > 0) & (labelled.labels != IGNORE_LABEL)
            objects, _ = ndimage.label(is_object)
        areas = np.bincount(objects.ravel())[1:]
        if labelled.rough is not None:
            boxes = np.unique(objects[labelled.rough == BOX])
            areas[boxes - 1] = areas[boxes - 1] * np.pi / 4  # as of the ellipse in it
        shares.append(np.repeat(areas / objects.size, areas))
        numbers.append(np.count_nonzero(areas > SPECK * objects.size))
    of_pixels = np.concatenate(shares)
    if not of_pixels.size:
        return False
    return bool(np.median(of_pixels) < (SMALL_IN_A_CROWD if np.median(numbers) >= CROWD else SMALL))


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """A photograph upright, as its EXIF orientation says, over white where it is transparent: uint8 (H, W, 3), RGB.

    A grey one of more than 8 bits is stretched as slides of one channel are.

    Raises
    ------
    SourceError
        It cannot be decoded, or has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is tighter
            with Image.open(path) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise SourceError(
                        f"{path}: has {picture.width * picture.height / 1e6:.0f} million px, at most "
                        f"{MAX_PIXELS / 1e6:.0f} are read; make it smaller"
                    )
                upright = ImageOps.exif_transpose(picture)
                if upright.mode.startswith(("I", "F")):
                    values = np.asarray(upright)
                    return stretch_channels(values[np.isfinite(values)][None], None)(values[None])
                if upright.has_transparency_data:
                    white = Image.new("RGBA", upright.size, "white")
                    return np.array(Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB"))
                return np.array(upright.convert("RGB"))
    except SourceError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        reason = " ".join(str(error).split())
        raise SourceError(f"{path}: cannot be decoded ({reason}); save it again") from error


def resize_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) at 224x224, without keeping its aspect ratio, as FSS-1000 has its images."""
    small = Image.fromarray(image).resize(
        (PATCH_SIZE, PATCH_SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    return np.array(small)


def _resize_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels or numbers (H, W) at 224x224, as `resize_image` of their picture."""
    small = Image.fromarray(labels).resize((PATCH_SIZE, PATCH_SIZE), Image.Resampling.NEAREST)
    return np.asarray(small)


def load_photograph_support(folder: Path, class_names: Sequence[str] = ()) -> SupportSet:
    """A support set of whole photographs with labels of one class.

    Parameters
    ----------
    folder : Path
        As for `connectors.support.load.load_support`, with pictures of any size; or a file of labels beside them.
    class_names : Sequence[str]
        Name of the class; empty for that of the folder, or for the only one of labels that name theirs.

    Raises
    ------
    SupportError
        No picture is labelled, a mask is not of its image's size or is ambiguous, objects are marked by points, or
        there are several classes.
    """
    uri = str(folder)
    if len(class_names) > 1:
        raise SupportError(
            f"{uri}: photographs have one class, not {', '.join(class_names)}; run each by itself"
        )
    if not folder.is_dir() and not is_label_file(uri):
        raise SupportError(f"{uri}: no such folder; give a folder of photographs with masks")
    pictures = open_pictures(uri, class_names)
    if pictures is None:
        raise SupportError(
            f"{uri}: has no labelled pair; expected {PAIRS}, or labels of COCO, LabelMe, YOLO or VOC"
        )
    if len(pictures.class_names) > 1:
        raise SupportError(
            f"{uri}: has the classes {', '.join(pictures.class_names)}; choose one of them with --class"
        )
    images, labels, objects, rough = [], [], [], []
    for picture in pictures.pictures:
        whole = picture.read()
        images.append(resize_image(whole.image))
        labels.append(_resize_labels(whole.labels))
        rough.append(None if whole.rough is None else _resize_labels(whole.rough))
        if whole.rough is not None and (whole.rough == POINT).any():
            raise SupportError(
                f"{picture.labelled_by}: marks objects by points, from which those of photographs are not inferred; "
                "draw boxes or outlines, or give --pictures tiles"
            )
        if whole.instances is not None:
            objects.append(_resize_labels(whole.instances))
    joined = joined_rough(rough)
    try:
        return SupportSet(
            images=np.stack(images),
            labels=np.stack(labels),
            instances=None if joined is None else np.stack(objects),
            rough=joined,
            names=tuple(picture.name for picture in pictures.pictures),
            mpp=None,
            class_names=pictures.class_names,
            notes=tuple(pictures.notes),
            assumptions=tuple(pictures.assumptions),
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error

"""Image files of a support folder: images, and masks with an unambiguous meaning."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.rasters.alpha import looks_like_opacity
from fewscope.connectors.support.support_set import BOX, POINT
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

MAX_SIDE = (
    4096  # px; larger images are not patches, and a decompression bomb is rejected before it is decoded
)
MAX_FILE_BYTES = 64 * 2**20
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GEO_KEYS = 34735  # tag of a GeoTIFF that holds its CRS
GDAL_NODATA = 42113  # tag of a TIFF: https://gdal.org/en/stable/drivers/raster/gtiff.html
LARGEST_FLOAT = 2**24  # up to which a float of 32 bits holds every whole number
NEAR_ENDS = (64, 191)  # a lossy black-and-white mask must not have grey levels in this range


def read_bytes(filesystem: Any, path: str, shown: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """Content of a file of any fsspec filesystem; SupportError if it cannot be read, is empty, or exceeds the limit.

    ``shown`` is the path for errors.
    """
    try:
        size = filesystem.info(path).get("size") or 0
        if size > limit:
            raise SupportError(
                f"{shown}: has {size / 2**20:.0f} MiB, more than the {limit // 2**20} MiB allowed"
            )
        content: bytes = filesystem.cat_file(path)
    except SupportError:
        raise
    except FileNotFoundError as error:
        raise SupportError(f"{shown}: no such file; check the path") from error
    except Exception as error:  # each driver has its own exceptions
        raise SupportError(f"{shown}: cannot be read ({' '.join(str(error).split())})") from error
    if not content:
        raise SupportError(f"{shown}: is empty (0 bytes); save it again")
    return content


def _open_picture(filesystem: Any, path: str) -> Image.Image:
    """Open and decode an image of at most 4096 px a side."""
    content = read_bytes(filesystem, path, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is tighter
            try:
                picture: Image.Image = Image.open(io.BytesIO(content))
            except UnidentifiedImageError:
                picture = _of_64_bits(content)
        if max(picture.size) > MAX_SIDE:
            raise SupportError(
                f"{path}: is {picture.height} x {picture.width} px, at most {MAX_SIDE} a side; cut out "
                "the part that is labelled"
            )
        n_frames = getattr(picture, "n_frames", 1)
        if n_frames > 1:
            raise SupportError(f"{path}: has {n_frames} images, expected one; save it separately")
        if picture.getexif().get(0x0112, 1) != 1:
            raise SupportError(f"{path}: is rotated by its EXIF orientation; save it upright")
        picture.load()
    except SupportError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        reason = " ".join(str(error).split())
        if "cannot identify" in reason:
            reason = "not a picture"
        raise SupportError(f"{path}: cannot be decoded ({reason}); save it again as PNG") from error
    return picture


def _of_64_bits(content: bytes) -> Image.Image:
    """A TIFF of 64-bit numbers, which Pillow does not know and NumPy's users write; UnidentifiedImageError if it is
    none."""
    if content[:4] not in TIFF_STARTS:
        raise UnidentifiedImageError("cannot identify image file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(content) as memory, memory.open(driver="GTiff") as tiff:
            if (
                set(tiff.dtypes) - {"int64", "uint64", "float64"}
                or tiff.count > 1
                or max(tiff.shape) > MAX_SIDE
            ):
                raise UnidentifiedImageError("cannot identify image file")
            values = tiff.read(1)
    narrow = values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
    if not np.array_equal(narrow, values):
        raise ValueError("it holds numbers of more than 32 bits")
    return Image.fromarray(narrow)


def decode_png_mask(content: bytes) -> NDArray[np.bool_]:
    """A PNG that is part of another file as a mask, bool (H, W): what is above 0; ValueError if it is none."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if max(picture.size) > MAX_SIDE:
                raise ValueError(f"a mask of {picture.height} x {picture.width} px")
            values = np.asarray(picture.convert("L"))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise ValueError(f"its mask cannot be decoded: {error}") from error
    return values > 0


def _without_alpha(picture: Image.Image, path: str) -> Image.Image:
    stated = "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB")
    if picture.mode in ("RGBA", "LA", "PA") or stated:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if picture.mode == "RGBA" and _is_on_map(picture) and not looks_like_opacity(alpha):
            log.info("%s: its fourth band is marked as opacity, but was taken for data and left out", path)
        elif (alpha != 255).any():
            raise SupportError(f"{path}: has transparent pixels, whose meaning is not certain; flatten it")
        if picture.mode != "P":
            return picture.convert("L" if picture.mode in ("L", "LA") else "RGB")
    return picture


def decode_image(filesystem: Any, path: str) -> NDArray[np.uint8]:
    """Decode an image: uint8 (H, W, 3), RGB. SupportError if it is not an 8-bit image."""
    picture = _without_alpha(_open_picture(filesystem, path), path)
    if picture.mode not in ("RGB", "L", "P", "1"):
        raise SupportError(f"{path}: has mode {picture.mode}, expected 8-bit RGB or grey; convert it to RGB")
    return np.asarray(picture.convert("RGB"))


def decode_mask(filesystem: Any, path: str) -> NDArray[np.uint8]:
    """Decode a mask: uint8 (H, W), 0 background, 1 object, and 255 where a raster declares no data. SupportError if its
    meaning is ambiguous."""
    picture = _without_alpha(_open_picture(filesystem, path), path)
    if picture.mode == "P":
        return _decode_palette(picture, path)
    values = _whole_numbers(picture, path)
    if values.ndim == 3:
        if (values == values[..., :1]).all():
            values = values[..., 0]
        else:
            colours = np.unique(values.reshape(-1, 3), axis=0)
            if len(colours) != 2 or colours[0].any():
                raise SupportError(
                    f"{path}: is a mask of {len(colours)} colours, expected black and one other; "
                    "save background as 0 and object as 255"
                )
            values = values.max(axis=2)
    found = np.unique(values)
    nodata = _nodata_of(picture)
    if nodata in found:
        if len(found) == 2 and found[0] == 0:
            raise SupportError(
                f"{path}: declares {nodata} as no data, and holds it and 0 alone: whether {nodata} is object is not "
                "certain; save object as 1, or take the declaration out with `gdal_edit.py -unsetnodata`"
            )
        if len(found) == 3 and found[0] == 0:
            return np.where(values == nodata, IGNORE_LABEL, values > 0).astype(np.uint8)
    if _are_two(found):
        return (values > 0).astype(np.uint8)
    is_lossy = picture.format == "JPEG" and values.dtype == np.uint8
    if is_lossy and not ((values >= NEAR_ENDS[0]) & (values <= NEAR_ENDS[1])).any():
        return (values > 127).astype(np.uint8)
    shown = ", ".join(str(value) for value in found[:6]) + (", ..." if len(found) > 6 else "")
    cure = "save background as 0 and object as 255"
    if picture.format == "JPEG":
        cure += ", as PNG: JPEG smears the values"
    elif found[0] == 0:
        cure += '; or say in support.json what the values are: "classes": [names], or "instances": true'
    raise SupportError(f"{path}: is a mask of {len(found)} values ({shown}), expected 2; {cure}")


def _is_on_map(picture: Image.Image) -> bool:
    """Whether it is a GeoTIFF, whose fourth band is often near infrared."""
    return GEO_KEYS in getattr(picture, "tag_v2", {})


def _nodata_of(picture: Image.Image) -> int | None:
    """The whole number above 0 that a GeoTIFF declares as no data; None where there is none. 0 is background."""
    text = str(getattr(picture, "tag_v2", {}).get(GDAL_NODATA, "")).strip("\0 ")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _are_two(found: NDArray[Any]) -> bool:
    """Whether the values of a mask, sorted, are background and object, or one of them."""
    if len(found) == 1:
        return bool(found[0] in (0, 1, 255, 65535))
    return len(found) == 2 and found[0] == 0


def decode_numbers(filesystem: Any, path: str) -> NDArray[np.int32] | None:
    """Decode a mask that may hold object numbers: int32 (H, W), 0 background; None if it can be none.

    In a palette image whose first colour is black, indexes count. A mask of two values is none: `decode_mask` reads it.
    """
    picture = _without_alpha(_open_picture(filesystem, path), path)
    if picture.format == "JPEG":
        return None
    if picture.mode == "P":
        values = np.asarray(picture)
        if np.asarray(picture.convert("RGB"))[values == 0].any():
            return None
    else:
        values = _whole_numbers(picture, path)
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            return None
        values = values[..., 0]
    found = np.unique(values)
    is_palette_of_two = picture.mode == "P" and len(found) <= 2
    is_two_and_nodata = len(found) == 3 and found[0] == 0 and _nodata_of(picture) in found
    if _are_two(found) or is_palette_of_two or is_two_and_nodata or found[0] < 0:
        return None
    return values.astype(np.int32)


def decode_classes(filesystem: Any, path: str, n_classes: int) -> NDArray[np.uint8]:
    """Decode a mask of classes: uint8 (H, W), 0 background, 1..n_classes, 255 not labelled.

    In a palette image, indexes count, not colours. SupportError for other values.
    """
    picture = _without_alpha(_open_picture(filesystem, path), path)
    values = np.asarray(picture) if picture.mode == "P" else _whole_numbers(picture, path)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim == 3 or not np.isin(values, (*range(n_classes + 1), IGNORE_LABEL)).all():
        what = "colours" if values.ndim == 3 else ", ".join(map(str, np.unique(values)[:6]))
        raise SupportError(
            f"{path}: is a mask of {what}, expected 0 for background, 1 to {n_classes} for the classes of "
            f"support.json, and {IGNORE_LABEL} where nothing is labelled"
        )
    return values.astype(np.uint8)


def _decode_palette(picture: Image.Image, path: str) -> NDArray[np.uint8]:
    """Decode a palette mask; its indexes and its colours must not contradict each other."""
    index = np.asarray(picture)
    colours = np.asarray(picture.convert("RGB"))
    used = np.unique(index)
    is_black = {int(value): not colours[index == value][0].any() for value in used}
    if len(used) > 2:
        raise SupportError(f"{path}: is a mask of {len(used)} colours, expected 2; save them as 0 and 255")
    by_number = used[0] == 0 if len(used) == 2 else used[0] in (0, 1, 255)
    by_colour = len(used) == 2 and sum(is_black.values()) == 1
    if by_colour and not (by_number and not is_black[0]):
        return (colours.max(axis=2) > 0).astype(np.uint8)
    if by_number and not by_colour and not (len(used) == 1 and is_black[int(used[0])] == bool(used[0])):
        return (index > 0).astype(np.uint8)
    raise SupportError(
        f"{path}: its palette maps {used.tolist()} to {_colours_of(colours)}: which is object "
        "is ambiguous; save it without a palette, background as 0 and object as 255"
    )


def _colours_of(colours: NDArray[np.uint8]) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in np.unique(colours.reshape(-1, 3), axis=0)[:2]]


def _whole_numbers(picture: Image.Image, path: str) -> NDArray[Any]:
    values = np.asarray(picture)
    if picture.mode == "F" and (np.abs(values) < LARGEST_FLOAT).all() and (values == np.rint(values)).all():
        return values.astype(np.int32)  # label images of ImageJ
    if picture.mode not in ("1", "L", "RGB", "I", "I;16", "I;16B", "I;16L"):
        raise SupportError(f"{path}: has mode {picture.mode}, expected whole numbers; save it as 8-bit grey")
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def decode_instances(filesystem: Any, path: str, label: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Decode an instance map: int32 (H, W), 0 = background. SupportError if it differs from the mask ``label`` (H,
    W)."""
    picture = _open_picture(filesystem, path)
    values = _whole_numbers(picture, path)
    if values.shape != label.shape:
        raise SupportError(
            f"{path}: is {size_text(values)}, its mask is {size_text(label)}; they must be the same"
        )
    is_object = (label > 0) & (label != IGNORE_LABEL)
    if values.min() < 0 or not np.array_equal(values > 0, is_object):
        differ = int(((values > 0) != is_object).sum())
        raise SupportError(
            f"{path}: differs from its mask in {differ} px; it must have objects exactly where the mask has"
        )
    return values.astype(np.int32)


def decode_rough(filesystem: Any, path: str, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a map of points and boxes: uint8 (H, W), as in `SupportSet.rough`.

    SupportError if it is not of the size of the mask ``label`` (H, W), or marks anything else than its objects.
    """
    values = _whole_numbers(_open_picture(filesystem, path), path)
    if values.shape != label.shape:
        raise SupportError(
            f"{path}: is {size_text(values)}, its mask is {size_text(label)}; they must be the same"
        )
    is_object = (label > 0) & (label != IGNORE_LABEL)
    if not np.isin(values, (0, POINT, BOX)).all() or (values[~is_object] > 0).any():
        raise SupportError(
            f"{path}: holds {np.unique(values)[:6].tolist()}, expected {POINT} at objects of the mask that are points, "
            f"{BOX} at those that are boxes, and 0 elsewhere"
        )
    return values.astype(np.uint8)


def size_text(array: NDArray[Any]) -> str:
    """``H x W px``."""
    return f"{array.shape[0]} x {array.shape[1]} px"

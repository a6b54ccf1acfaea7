"""Slides as scanners write them, which say where on the glass they lie: Leica's and Hamamatsu's."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

NM_PER_PX = 500
MARGIN_PX = 64


def write_leica(path: Path, image: NDArray[np.uint8], origin: tuple[int, int]) -> None:
    """Write a .scn file, 0.5 um per px, whose scanned area is ``image`` and begins at level-0 ``origin`` (x, y)."""
    height, width = image.shape[:2]
    whole = [
        (side + start + MARGIN_PX) * NM_PER_PX for side, start in zip((width, height), origin, strict=True)
    ]
    thumbnail = np.full((256 * whole[1] // whole[0], 256, 3), 230, np.uint8)
    pictures = "".join(
        f'<image name="{name}" uuid="urn:uuid:{name}"><creationDate>2020-01-01T00:00:00.0Z</creationDate>'
        f'<device model="m" version="1"/><pixels sizeX="{cols}" sizeY="{rows}">'
        f'<dimension sizeX="{cols}" sizeY="{rows}" r="0" ifd="{ifd}"/></pixels>'
        f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{view[2]}" offsetY="{view[3]}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{power}</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
        for name, cols, rows, ifd, view, power in (
            ("macro", 256, len(thumbnail), 0, (*whole, 0, 0), 0.6),
            ("scan", width, height, 1, [n * NM_PER_PX for n in (width, height, *origin)], 20),
        )
    )
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">'
        f'<collection name="c" uuid="urn:uuid:2" sizeX="{whole[0]}" sizeY="{whole[1]}"><barcode>MQ==</barcode>'
        f"{pictures}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        common = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        writer.write(thumbnail, description=description, **common)
        writer.write(image, resolution=(20000, 20000), resolutionunit="CENTIMETER", **common)


def write_hamamatsu(
    path: Path,
    image: NDArray[np.uint8],
    centre_nm: tuple[int, int],
    px_per_cm: tuple[int, int] = (20000, 20000),
) -> None:
    """Write a .ndpi file of one level, 0.5 um per px, whose centre lies ``centre_nm`` (x, y) from that of the glass.

    A TIFF whose offsets of directories have 64 bits, with Hamamatsu's own tags from 65420 on.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=100, subsampling=0)
    jpeg, (height, width) = buffer.getvalue(), image.shape[:2]
    jpeg += b"\0" * (len(jpeg) % 2)
    start = 12
    resolutions = start + len(jpeg)
    directory = resolutions + 16
    short, long, rational, signed, real = 3, 4, 5, 9, 11
    entries = [
        (256, long, width), (257, long, height), (258, short, 8), (259, short, 7), (262, short, 6),
        (273, long, start), (277, short, 3), (278, long, height), (279, long, len(jpeg)),
        (282, rational, resolutions), (283, rational, resolutions + 8), (296, short, 3), (65420, long, 1),
        (65421, real, 20.0), (65422, signed, centre_nm[0]), (65423, signed, centre_nm[1]), (65424, signed, 0),
    ]  # fmt: skip
    codes = {long: "I", rational: "I", signed: "i", real: "f"}
    packed = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + (struct.pack("<HH", value, 0) if kind == short else struct.pack("<" + codes[kind], value))
        for tag, kind, value in entries
    )
    path.write_bytes(
        struct.pack("<2sHQ", b"II", 42, directory)
        + jpeg
        + struct.pack("<IIII", px_per_cm[0], 1, px_per_cm[1], 1)
        + struct.pack("<H", len(entries))
        + packed
        + bytes(8 + 4 * len(entries))
    )

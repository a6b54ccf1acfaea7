"""Slides whose scanned area begins somewhere else than at the corner of the file, as Leica's do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

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

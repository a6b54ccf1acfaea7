"""ROIs of ImageJ and Fiji: one ``.roi``, or the ``.zip`` of the ROI Manager, in pixels of the slide at full resolution.

Integer coordinates of areas are corners of pixels, as everywhere in Fewscope; those of points and lines are centres of
pixels (https://imagej.net/ij/developer/api/ij/ij/gui/Roi.html).
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from pathlib import PurePosixPath

import numpy as np
import shapely
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.support.annotation_files import MARKS, AnnotationFile
from fewscope.connectors.support.program_files import Shape, annotations_of, ellipse, name_in, outline
from fewscope.connectors.vectors.polygon_files import polygons_of
from fewscope.errors import SupportError

ROI_HEAD = b"Iout"
ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")
MAX_ROIS = 200_000
MAX_UNPACKED_BYTES = 512 * 2**20
PIXEL_CENTRE = 0.5
WITHOUT_AREA = {
    ROI_SUBTYPE.TEXT: "is a text",
    ROI_SUBTYPE.ARROW: "is an arrow",
    ROI_SUBTYPE.IMAGE: "is an image",
}
LINES = (ROI_TYPE.LINE, ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE, ROI_TYPE.ANGLE)
COUNTED = re.compile(r"-\d+$")
"""What the ROI Manager adds to a name that it holds already: Nucleus-12."""

PLACE = re.compile(r"\d+(-\d+)*")
"""What it calls a ROI that nobody named: slice and place, 0012-0345."""


def read_rois(uri: str, content: bytes) -> AnnotationFile:
    """Annotations of a ``.roi``, or of all in a ``.zip``."""
    members = _members(uri, content) if content.startswith(ZIP_HEADS) else [("", content)]
    shapes: list[Shape] = []
    n_splines = 0
    for number, (member, data) in enumerate(members, start=1):
        try:
            roi = ImagejRoi.frombytes(data)
            geometry = _geometry(roi)
        except Exception as error:  # of roifile, numpy and struct, whatever a broken ROI makes them raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SupportError(
                f"{uri}: {repr(member[:80]) + ' in it' if member else 'it'} is not a ROI of ImageJ that can be read "
                f"({reason}); save it again"
            ) from error
        n_splines += bool(roi.options & ROI_OPTIONS.SPLINE_FIT)
        own = class_in(roi.name or PurePosixPath(member).stem)
        group = f"group {roi.group}" if roi.group > 0 else ""
        what = WITHOUT_AREA.get(roi.subtype, "")
        shapes.append(Shape(geometry, number, group if own.casefold() in MARKS else "", own or group, what))
    annotations = annotations_of("ImageJ", "the names of the ROIs", shapes)
    annotations.assumptions.append(
        f"{uri}: ROIs of ImageJ do not say which image they were drawn on; they were taken as pixels of the whole "
        "slide at its full resolution."
    )
    if n_splines:
        annotations.assumptions.append(
            f"{uri}: {n_splines} outline{'s' if n_splines > 1 else ''} with a fitted spline were taken as polygons "
            "through their points."
        )
    return annotations


def class_in(name: str) -> str:
    """The class in the name of a ROI, without what ImageJ adds; nothing where it only says a place.

    >>> [class_in(name) for name in ("Nucleus-12", "Nucleus", "CD3-2", "0012-0345", "0001-0012-0345", "7")]
    ['Nucleus', 'Nucleus', 'CD3', '', '', '']
    """
    own = name_in(name)
    return "" if PLACE.fullmatch(own) else COUNTED.sub("", own)


def _members(uri: str, content: bytes) -> list[tuple[str, bytes]]:
    """Name and content of each ROI in an archive, in its order."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [
                entry
                for entry in archive.infolist()
                if entry.filename.lower().endswith(".roi") and not entry.filename.startswith("__MACOSX/")
            ]
            if len(entries) > MAX_ROIS or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise SupportError(
                    f"{uri}: holds more than {MAX_ROIS} ROIs, or {MAX_UNPACKED_BYTES // 2**20} MiB of them; keep those "
                    "that are needed"
                )
            members = [(entry.filename, archive.read(entry)) for entry in entries]
    except SupportError:
        raise
    except (  # encrypted and damaged ones
        *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise SupportError(
            f"{uri}: is a ZIP archive that cannot be read ({reason}); save it again"
        ) from error
    if not members:
        raise SupportError(
            f"{uri}: is a ZIP archive without a ROI of ImageJ (.roi), which one on a slide must hold; save all of the "
            "ROI Manager, or give the file in it"
        )
    return members


def _geometry(roi: ImagejRoi) -> BaseGeometry | None:
    """A polygon, points or a line, in pixels from corner to corner; None for what is not drawn around anything."""
    if roi.subtype in WITHOUT_AREA or roi.roitype == ROI_TYPE.NOROI:
        return None
    if roi.composite:
        return _composite(roi)
    if roi.roitype in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        bounds: list[float] = [roi.left, roi.top, roi.right, roi.bottom]
        if roi.subpixelrect:
            bounds = [roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd]
        _check_finite(np.array(bounds, np.float64))
        return shapely.box(*bounds) if roi.roitype == ROI_TYPE.RECT else ellipse(*bounds)
    points = _check_finite(np.asarray(roi.coordinates(), np.float64))
    if not len(points):
        return None
    if roi.roitype == ROI_TYPE.POINT:
        return shapely.MultiPoint(points + PIXEL_CENTRE)
    if roi.roitype in LINES:
        return shapely.LineString(points + PIXEL_CENTRE) if len(points) > 1 else None
    return outline(points)


def _composite(roi: ImagejRoi) -> BaseGeometry | None:
    """Several outlines as one shape; what two of them cover is a hole, as ImageJ fills them."""
    shapes = [
        outline(_check_finite(np.asarray(part, np.float64).reshape(-1, 2)))
        for part in roi.coordinates(multi=True)
    ]
    areas = [area for shape in shapes if shape is not None and (area := polygons_of(shape)) is not None]
    while len(areas) > 1:  # in pairs: one after the other takes the square of their number
        paired = [shapely.symmetric_difference(*pair) for pair in zip(areas[::2], areas[1::2], strict=False)]
        areas = paired + areas[2 * len(paired) :]
    return areas[0] if areas else None


def _check_finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise ValueError("coordinates that are not finite")
    return values

"""Outlines as ROIs of ImageJ and Fiji: the ``.zip`` of the ROI Manager, in level-0 pixels."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable

import numpy as np
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from fewscope.connectors.colours import class_colour
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.outline import Outline

MAX_ROIS = 65_535
"""Files of a ZIP archive without its 64-bit extension; the ROI Manager is slow long before."""

MAX_GROUP = 255
NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f]')
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0
"""Segments of a composite ROI, as java.awt.geom.PathIterator numbers them."""


def write_rois(uri: str, outlines: Iterable[Outline]) -> None:
    """Write a ``RoiSet.zip`` of at most `MAX_ROIS` instances; the same outlines give the same bytes."""
    with output_errors(uri), atomic_file(uri) as path, zipfile.ZipFile(path, "w") as archive:
        for outline in outlines:
            entry = zipfile.ZipInfo(f"{NOT_IN_NAMES.sub('_', outline.title)}.roi")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, roi_of(outline).tobytes())


def roi_of(outline: Outline) -> ImagejRoi:
    """The ROI of an instance: a polygon, or a composite one if it has holes or several parts.

    Its group is its class, and so is its colour.
    """
    rings = [ring for polygon in outline.polygons for ring in polygon]
    roi = ImagejRoi.frompoints(rings[0], name=outline.title)
    roi.roitype = ROI_TYPE.POLYGON
    if len(rings) > 1:
        path = [
            np.column_stack([np.r_[MOVE_TO, np.full(len(ring) - 1, LINE_TO)], ring]).ravel() for ring in rings
        ]
        roi.multi_coordinates = np.concatenate(
            [part for ring in path for part in (ring, [CLOSE])], dtype=np.float32
        )
        roi.roitype, roi.shape_roi_size = ROI_TYPE.RECT, len(roi.multi_coordinates)
        roi.options &= ~ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.integer_coordinates = roi.subpixel_coordinates = None
        roi.n_coordinates = 0
        left, top, right, bottom = outline.bounds
        roi.left, roi.top, roi.right, roi.bottom = (
            int(left),
            int(top),
            int(np.ceil(right)),
            int(np.ceil(bottom)),
        )
    roi.stroke_color = bytes([255, *class_colour(outline.value)])
    roi.group = min(outline.value, MAX_GROUP)
    return roi

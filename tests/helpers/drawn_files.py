"""The same drawing as the files of several programs: (class, outline) pairs, in level-0 pixels of a slide."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import shapely
from affine import Affine
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import Source
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.slide_files import read_slide_file
from fewscope.connectors.support_options import SupportOptions

Drawing = Sequence[tuple[str, BaseGeometry]]

REGION = box(100, 100, 300, 300)
SQUARE = box(140, 140, 180, 200)


def corners(shape: BaseGeometry) -> np.ndarray:
    """(n, 2) points of an outline, the first not repeated."""
    return shapely.get_coordinates(shape.exterior)[:-1]


def qupath(drawing: Drawing) -> bytes:
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shape),
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, shape in drawing
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def region(points: np.ndarray, **attributes: str) -> str:
    """A ``Region`` element of ImageScope."""
    stated = {"Id": "1", "Type": "0", "NegativeROA": "0", "Text": "", **attributes}
    vertices = "".join(f'<Vertex X="{x:.3f}" Y="{y:.3f}" Z="0"/>' for x, y in points)
    listed = " ".join(f"{key}={quoteattr(value)}" for key, value in stated.items())
    return f"<Region {listed}><Attributes/><Vertices>{vertices}</Vertices></Region>"


def layer(name: str, *regions: str, attributes: str = "") -> str:
    """An ``Annotation`` element of ImageScope."""
    return (
        f'<Annotation Id="1" Name={quoteattr(name)} Type="4" LineColor="65280"><Attributes>{attributes}</Attributes>'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def imagescope(drawing: Drawing) -> bytes:
    """One layer for each class."""
    layers = [
        layer(name, *(region(corners(shape)) for other, shape in drawing if other == name))
        for name in dict.fromkeys(name for name, _ in drawing)
    ]
    return f'<Annotations MicronsPerPixel="0.5">{"".join(layers)}</Annotations>'.encode()


def annotation(group: str, points: np.ndarray, kind: str = "Polygon", name: str = "Annotation 0") -> str:
    """An ``Annotation`` element of ASAP, its coordinates not in their order."""
    listed = [f'<Coordinate Order="{k}" X="{x:.3f}" Y="{y:.3f}"/>' for k, (x, y) in enumerate(points)]
    return (
        f'<Annotation Name={quoteattr(name)} Type="{kind}" PartOfGroup={quoteattr(group)} Color="#64FE2E">'
        f"<Coordinates>{''.join(listed[::-1])}</Coordinates></Annotation>"
    )


def asap_document(*annotations: str) -> bytes:
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>{"".join(annotations)}</Annotations>'
        '<AnnotationGroups><Group Name="a" PartOfGroup="None" Color="#0"><Attributes/></Group></AnnotationGroups>'
        "</ASAP_Annotations>"
    ).encode()


def asap(drawing: Drawing) -> bytes:
    return asap_document(*(annotation(name, corners(shape)) for name, shape in drawing))


def view(title: str, inner: str, details: str = "", unit: str = "nanometers") -> str:
    """An ``ndpviewstate`` element of NDP.view."""
    return (
        f'<ndpviewstate id="1"><title>{title}</title><details>{details}</details><coordformat>{unit}</coordformat>'
        f"<lens>20</lens><x>0</x><y>0</y><z>0</z>{inner}</ndpviewstate>"
    )


def freehand(points: np.ndarray, closed: int = 1) -> str:
    """Its ``annotation`` element of an outline in nanometres."""
    listed = "".join(f"<point><x>{x:.0f}</x><y>{y:.0f}</y></point>" for x, y in points)
    return (
        f'<annotation type="freehand" displayname="AnnotateFreehand" color="#000000"><closed>{closed}</closed>'
        f"<pointlist>{listed}</pointlist></annotation>"
    )


def ndpview_document(*views: str) -> bytes:
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{"".join(views)}</annotations>'.encode()


def ndpview(drawing: Drawing, to_nm: Affine) -> bytes:
    """In nanometres, by ``to_nm`` from level-0 pixels."""
    return ndpview_document(
        *(
            view(name, freehand(np.array([to_nm @ (x, y) for x, y in corners(shape)])))
            for name, shape in drawing
        )
    )


def roi(name: str, shape: BaseGeometry, index: int = 0) -> ImagejRoi:
    """A rectangle where it is one of whole pixels, else a polygon; numbered as the ROI Manager does."""
    name = f"{name}-{index}" if index else name
    if shape.equals(shape.envelope) and not np.mod(shape.bounds, 1).any():
        left, top, right, bottom = (int(value) for value in shape.bounds)
        return ImagejRoi(
            roitype=ROI_TYPE.RECT, left=left, top=top, right=right, bottom=bottom, name=name,
            options=ROI_OPTIONS.OVERLAY_LABELS,
        )  # fmt: skip
    points = corners(shape)
    is_whole = not np.mod(points, 1).any()
    made = ImagejRoi.frompoints(points.astype(int) if is_whole else points, name=name)
    made.roitype = ROI_TYPE.POLYGON
    return made


def roi_set(*rois: ImagejRoi) -> bytes:
    """The ROI Manager's ``.zip``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, one in enumerate(rois):
            archive.writestr(zipfile.ZipInfo(f"{number:04}-{one.name}.roi"), one.tobytes())
    return buffer.getvalue()


def imagej(drawing: Drawing) -> bytes:
    return roi_set(*(roi(name, shape, index) for index, (name, shape) in enumerate(drawing)))


WRITERS: dict[str, Callable[[Drawing], bytes]] = {
    "drawn.geojson": qupath,
    "imagescope.xml": imagescope,
    "asap.xml": asap,
    "RoiSet.zip": imagej,
}
"""Name of a file, and what writes it; NDP.view's need the slide."""


def write(folder: Path, name: str, drawing: Drawing) -> str:
    return file(folder, name, WRITERS[name](drawing))


def file(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def read(folder: Path, source: Source, name: str, content: bytes) -> AnnotationFile:
    return read_slide_file(file(folder, name, content), source.info, SupportOptions())

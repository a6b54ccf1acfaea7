"""Reads a support set, whichever way it was made. A new format is a file of its own and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.connectors.source import Source
from fewscope.connectors.storage.library_errors import library_errors
from fewscope.connectors.support.support_set import SupportSet
from fewscope.connectors.support_options import SLIDES_ONLY, CellPart, GeoJsonOrigin, SupportOptions
from fewscope.errors import SupportError


@dataclass(frozen=True, slots=True)
class SupportFormat:
    """One line of `FORMATS`.

    Attributes
    ----------
    endings
        Endings of the names it reads, in lower case and without ``.gz``; "" stands for any name.
    on_source
        Whether it is drawn on a slide or raster, which must be open to read it.
    load
        Reads ``(uri, source, options)``.
    """

    endings: tuple[str, ...]
    on_source: bool
    load: Callable[[str, Source | None, SupportOptions], SupportSet]


def _annotations(uri: str, source: Source | None, options: SupportOptions) -> SupportSet:
    from fewscope.connectors.support.annotations import load_annotations

    return load_annotations(uri, source, options)


def _folder(uri: str, _source: Source | None, options: SupportOptions) -> SupportSet:
    from fewscope.connectors.support.folder import load_folder

    return load_folder(uri, options.class_names, options.stack, options.mpp)


ANNOTATIONS = (
    *(".geojson", ".json", ".geojsonl", ".geojsons", ".topojson", ".gpkg", ".fgb", ".parquet", ".geoparquet"),
    *(".shp", ".shz", ".zip", ".dbf", ".kml", ".kmz", ".gml", ".gpx", ".sqlite", ".db", ".gdb"),
    *(".tab", ".mif", ".dxf", ".dgn", ".jml", ".gmt", ".csv"),
    *SLIDES_ONLY,
)
"""On a slide GeoJSON and what ImageScope, ASAP, NDP.view and ImageJ write; on a raster what GDAL reads, and
GeoParquet."""

OF_PICTURES = SupportFormat(("",), False, _folder)
"""Folders, and JSON of labels that lies beside its pictures."""

FORMATS: tuple[SupportFormat, ...] = (SupportFormat(ANNOTATIONS, True, _annotations), OF_PICTURES)
"""The first that reads the ending is taken."""


def _format_of(uri: str) -> SupportFormat:
    name = uri.lower().rstrip("/")
    if name.startswith(("http://", "https://")):
        name = name.partition("?")[0]  # signed addresses
    name = name.removesuffix(".gz")
    found = next(one for one in FORMATS if name.endswith(one.endings))
    if name.endswith((".json", ".xml")):
        from fewscope.connectors.support.label_files import is_label_file

        return OF_PICTURES if is_label_file(uri) else found
    return found


def is_annotations(uri: str) -> bool:
    """Whether a support set is annotations drawn on a slide or raster; else it is labelled pictures.

    Its name decides; of ``.json`` and ``.xml`` the content, which may be COCO's, LabelMe's or Pascal VOC's labels
    of pictures.
    """
    return _format_of(uri).on_source


def load_support(
    uri: str,
    *,
    source: Source | None = None,
    class_names: Sequence[str] = (),
    cell_part: CellPart = "auto",
    geojson_origin: GeoJsonOrigin = "scan",
    stack: StackOptions = NO_STACK,
    mpp: float | None = None,
) -> SupportSet:
    """Read a support set.

    Parameters
    ----------
    uri
        A folder (path or fsspec URL) of pairs: ``image/`` and ``label/`` with the same names, ``1.jpg 1.png`` or
        ``NAME.png NAME_mask.png`` side by side, with optional ``1.inst.png`` and ``support.json`` (``{"mpp": 0.5,
        "class": "nucleus"}``, or ``"classes": ["nucleus", "vessel"]`` for masks with the values 1, 2...). Or a folder
        of such folders, one for each class. Or a folder of pictures with COCO's or LabelMe's JSON, Pascal VOC's XML or
        YOLO's text, or a file of the former three itself. Or annotations, regions and the objects in them, drawn on
        ``source``: GeoJSON of QuPath (``.geojson``, ``.json``, either with ``.gz``) or a file of ImageScope, ASAP
        (``.xml``), NDP.view (``.ndpa``) or ImageJ (``.roi``, ``.zip``) on a slide, any vector file on a raster.
    source
        The slide or raster of the annotations.
    class_names
        Which classes to look for, in this order, where there are several; all by default. A name that differs in case
        alone will do where only one class has it. A single name for a folder of one class only names it.
    cell_part, geojson_origin, stack, mpp
        See `connectors.support_options.SupportOptions`.

    Raises
    ------
    SupportError
        One line: the file, what is wrong, and what to do.
    """
    options = SupportOptions(tuple(class_names), cell_part, geojson_origin, stack, mpp)
    with library_errors(SupportError, uri):
        return _format_of(uri).load(uri, source, options)

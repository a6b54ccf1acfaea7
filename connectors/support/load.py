"""Reading a support set, whichever way it was made."""

from __future__ import annotations

from collections.abc import Sequence

from fewscope.connectors.source import Source
from fewscope.connectors.support.annotations import load_annotations
from fewscope.connectors.support.folder import load_folder
from fewscope.connectors.support.support_set import SupportSet


def is_drawn(uri: str) -> bool:
    """Whether a support set is annotations drawn on a slide, by its name; else it is a folder of pairs."""
    return uri.lower().removesuffix(".gz").endswith((".geojson", ".json", ".gpkg", ".shp", ".fgb"))


def load_support(uri: str, *, source: Source | None = None, class_names: Sequence[str] = ()) -> SupportSet:
    """Read a support set.

    Parameters
    ----------
    uri
        A folder (path or fsspec URL) of pairs: ``image/`` and ``label/`` with the same names, or ``1.jpg
        1.png`` side by side, with optional ``1.inst.png`` and ``support.json`` (``{"mpp": 0.5, "class":
        "nucleus"}``, or ``"classes": ["nucleus", "vessel"]`` for masks with the values 1, 2...). Or a folder of
        such folders, one for each class. Or a ``.geojson`` / ``.json`` (``.gz``) of QuPath with regions and the
        objects in them, drawn on ``source``.
    source
        The slide of the annotations.
    class_names
        Which classes to look for, in this order, where there are several; all by default. A single name for a folder
        of one class only names it.

    Raises
    ------
    SupportError
        One line: the file, what is wrong, and what to do.
    """
    if is_drawn(uri):
        return load_annotations(uri, source, class_names)
    return load_folder(uri, class_names)

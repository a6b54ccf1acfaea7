"""The slides and pictures in a folder, and the annotations that lie beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS, OME_ZARR_ENDINGS, PICTURE_ENDINGS
from fewscope.connectors.support.pair_names import mask_names
from fewscope.connectors.support.voc_boxes import HEAD_BYTES, is_voc
from fewscope.errors import SourceError, SupportError

ONE_FILE = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi")
"""Names of slides each of which is given by one file; DICOM and VMS have several that may be given."""

IN_FOLDER = (*ONE_FILE, *CHANNEL_TIFF_ENDINGS, *OME_ZARR_ENDINGS, *PICTURE_ENDINGS)


DRAWN = (".geojson", ".geojson.gz", ".xml", ".ndpa", ".roi", ".zip")
"""Endings of annotations that lie beside the slide or picture that they were drawn on."""


def drawn_in(folder: str) -> list[tuple[str, str]]:
    """(annotations, slide) for each slide or picture of a local folder beside which annotations lie; empty if none has.

    They have its name, with or without its ending: ``a.png`` and ``a.geojson``, or ``a.svs`` and ``a.svs.geojson``.

    Raises
    ------
    SupportError
        Two files may be the annotations of a slide, or two slides that of a file.
    """
    if "://" in folder or not os.path.isdir(folder):
        return []
    return [(path, slide) for slide, path in named_after(folder, slides_in(folder)).items()]


def names_of(slide: str) -> set[str]:
    """What annotations of a slide are called before their ending: its name with all, some or none of its own.

    >>> sorted(names_of("a.ome.tif"))
    ['a', 'a.ome', 'a.ome.tif']
    """
    return {slide, os.path.splitext(slide)[0], slide.split(".")[0]}


def named_after(folder: str, paths: Iterable[str]) -> dict[str, str]:
    """Annotations in a local folder by the slide or picture that they are named after; see `drawn_in`."""
    slides: dict[str, list[str]] = {}
    for path in paths:
        for name in names_of(os.path.basename(path.rstrip("/"))):
            slides.setdefault(name, []).append(path)
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        ending = next((ending for ending in DRAWN if name.lower().endswith(ending)), None)
        of_name = slides.get(name[: -len(ending)], []) if ending and not name.startswith(".") else []
        path = os.path.join(folder, name)
        if of_name and ending == ".xml" and _is_of_picture(path):
            continue
        if len(of_name) > 1:
            raise SupportError(
                f"{path}: may be of {of_name[0]} or {of_name[1]}; name it {of_name[0]}.geojson"
            )
        if of_name and (other := found.setdefault(of_name[0], path)) != path:
            raise SupportError(f"{of_name[0]}: its annotations may be {other} or {path}; keep one of them")
    return found


def _is_of_picture(path: str) -> bool:
    """Whether XML is the labels of a picture, which `connectors.support.folder` reads."""
    with open(path, "rb") as file:
        return is_voc(file.read(HEAD_BYTES))


def areas_of(aoi: str, slides: Sequence[str]) -> list[str]:
    """The file that outlines the area to segment of each slide: ``aoi`` itself, or those of a folder with their names.

    Raises
    ------
    SourceError
        One file for several slides; or a slide has none in the folder, or may have two.
    """
    if "://" in aoi or not os.path.isdir(aoi):
        if len(slides) > 1:
            raise SourceError(
                f"--aoi {aoi}: is one file, but {len(slides)} slides are given, each with an outline of its own; give "
                f"a folder of files named after the slides, such as {os.path.basename(slides[0]).split('.')[0]}.geojson"
            )
        return [aoi]
    try:
        found = named_after(aoi, slides)
    except SupportError as error:
        raise SourceError(str(error)) from error
    lacking = [slide for slide in slides if slide not in found]
    if lacking:
        name = os.path.basename(lacking[0].rstrip("/")).split(".")[0]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise SourceError(
            f"--aoi {aoi}: holds no outline of {lacking[0]}{more}; name it {name}.geojson, or leave out the slide"
        )
    return [found[slide] for slide in slides]


def slides_of(source: str) -> list[str]:
    """The slides that are meant by one argument: those in a folder, if it is one of slides, else itself."""
    is_folder = "://" not in source and os.path.isdir(source)
    return (slides_in(source) if is_folder else []) or [source]


def slides_in(folder: str) -> list[str]:
    """Paths of the slides and pictures in a local folder, in the order of their names; none in one that is a slide.

    Masks, which by their names belong to another picture of the folder, are left out.
    """
    if folder.lower().endswith(OME_ZARR_ENDINGS):
        return []
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    names = [name for name in names if name.lower().endswith(IN_FOLDER)]
    return [os.path.join(folder, name) for name in sorted(set(names) - mask_names(names))]

"""The slides and pictures in a folder."""

from __future__ import annotations

import os

from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS, OME_ZARR_ENDINGS, PICTURE_ENDINGS
from fewscope.connectors.support.pair_names import mask_names

ONE_FILE = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi")
"""Names of slides each of which is given by one file; DICOM and VMS have several that may be given."""

IN_FOLDER = (*ONE_FILE, *CHANNEL_TIFF_ENDINGS, *OME_ZARR_ENDINGS, *PICTURE_ENDINGS)


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

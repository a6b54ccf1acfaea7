"""One support set from the annotations of several slides or rasters, and its folder of patches."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from fewscope.connectors.source import Source
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.annotations import (
    FilePatches,
    corrections,
    load_annotations,
    patches_on,
    read_annotations,
)
from fewscope.connectors.support.support_set import SupportSet, choose_classes, doubts, joined_rough
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError


def load_several(files: Sequence[tuple[str, Source]], options: SupportOptions) -> SupportSet:
    """Support set of all annotations together, as of one file.

    Classes are those of all files, in the order of their names; a file may lack any of them, or hold regions without
    an object.

    Parameters
    ----------
    files : Sequence[tuple[str, Source]]
        Each file, and the slide or raster that it was drawn on, all at the same resolution.
    options : SupportOptions
        How they are read; ``class_names``: objects of other classes are background.

    Raises
    ------
    SupportError
        A file cannot be used, or all of them together hold no object or no background.
    """
    if len(files) == 1:
        return load_annotations(*files[0], options)
    every = [(uri, source, read_annotations(uri, source, options)) for uri, source in files]
    names = sorted({one.name for _, _, read in every for one in read.objects})
    if not names:
        raise SupportError(f"{files[0][0]}: neither it nor the other files hold an object; draw one")
    names = [names[i] for i in choose_classes(files[0][0], names, options.class_names)]
    found = [_patches(uri, source, read, names, options) for uri, source, read in every]
    in_one_folder = len({Path(uri).parent for uri, _ in files}) == 1
    shown = [Path(uri).name if in_one_folder else Path(uri).parent.name for uri, _ in files]
    titles = [
        [f"{name}: {patch.title}" for patch in of_file.patches]
        for name, of_file in zip(shown, found, strict=True)
    ]
    order = [
        (k, i)
        for dense in (True, False)
        for k, of_file in enumerate(found)
        for i in range(len(of_file.patches))
        if (i < of_file.n_dense) == dense
    ]
    if not order:
        raise SupportError(f"{files[0][0]}: neither it nor the other files hold a label; draw some")
    patches = [found[k].patches[i] for k, i in order]
    labels = np.stack([patch.labels for patch in patches])
    n_dense = sum(of_file.n_dense for of_file in found)
    shown = [titles[k][i] for k, i in order]
    some = slice(n_dense or None)
    counts = [corrections(read) for _, _, read in every]
    rough = joined_rough([patch.rough for patch in patches])
    are_whole = rough is not None or all(of_file.are_whole for of_file in found)
    return SupportSet(
        images=np.stack([patch.image for patch in patches]),
        labels=labels,
        instances=np.stack([patch.instances for patch in patches]) if are_whole else None,
        names=tuple(shown),
        mpp=files[0][1].info.mpp,
        class_names=tuple(names),
        notes=(
            *(note for one in found for note in one.notes),
            *doubts(files[0][0], labels[some], names, shown[some]),
        ),
        assumptions=tuple(text for _, _, read in every for text in read.assumptions),
        n_sparse=len(patches) - n_dense,
        corrected=(sum(accepted for accepted, _ in counts), sum(rejected for _, rejected in counts)),
        ranges=files[0][1].info.ranges,
        rough=rough,
    )


def _patches(
    uri: str, source: Source, read: AnnotationFile, names: list[str], options: SupportOptions
) -> FilePatches:
    if not read.regions and not read.has_marks:
        return FilePatches([], 0, True, [])
    chosen = [one for one in read.objects if one.name in names]
    if len(names) > 1:  # where two overlap the smaller one counts, as in `load_annotations`
        chosen.sort(key=lambda drawn: -drawn.geometry.area)
    values = np.array([names.index(drawn.name) + 1 for drawn in chosen], np.int64)
    return patches_on(uri, source, read, chosen, values, options)


def write_folder(folder: str, support: SupportSet) -> None:
    """Write a support set as a folder of patches, which `load_support` reads back to the same.

    Parameters
    ----------
    folder : str
        A local path; files in it of the same names are replaced.
    support : SupportSet
        With all classes complete; of points and boxes, only what the patches show is kept.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    filesystem, root = open_filesystem(folder)

    def put(name: str, image: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        write_atomic(filesystem, f"{root}/{name}", buffer.getvalue())

    n_channels = support.images.shape[-1]
    for number, (image, label) in enumerate(zip(support.images, support.labels, strict=True), start=1):
        if n_channels > 3:
            write_atomic(filesystem, f"{root}/image/{number}.tif", _tiff_of(image))
        else:
            put(f"image/{number}.png", image)
        put(f"label/{number}.png", label)
        if support.instances is not None:
            put(f"label/{number}.inst.png", support.instances[number - 1].astype(np.uint16))
        if support.rough is not None and support.rough[number - 1].any():
            put(f"label/{number}.rough.png", support.rough[number - 1])
    stated: dict[str, Any] = {"mpp": support.mpp, "classes": list(support.class_names)}
    if support.n_sparse:
        stated["sparse"] = support.n_sparse
    ranges = support.ranges or (((0.0, 255.0),) * n_channels if n_channels > 3 else ())
    if ranges:
        stated["ranges"] = [list(one) for one in ranges]
    if any(support.corrected):
        stated["corrected"] = list(support.corrected)
    text = json.dumps({name: value for name, value in stated.items() if value is not None}, indent=1)
    write_atomic(filesystem, f"{root}/support.json", text.encode())


def _tiff_of(image: NDArray[np.uint8]) -> bytes:
    """A picture of any number of channels (H, W, C) as a TIFF of one page."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.moveaxis(image, 2, 0), photometric="minisblack", planarconfig="separate", metadata=None
    )
    return buffer.getvalue()

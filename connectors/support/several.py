"""One support set from the annotations of several slides or rasters, and its folder of patches."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    AnnotationReader,
    FilePatches,
    corrections,
    load_annotations,
    patches_on,
    read_annotations,
)
from fewscope.connectors.support.joined_sets import (
    NamedSet,
    Part,
    check_alike,
    join_parts,
    joined_names,
    part_of,
)
from fewscope.connectors.support.support_set import MAX_CLASSES, SupportSet, choose_classes, doubts
from fewscope.connectors.support.without_regions import stand_in_for_regions
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError


def load_several(
    files: Sequence[tuple[str, Source]],
    options: SupportOptions,
    sets: Sequence[NamedSet] = (),
    read: AnnotationReader = read_annotations,
) -> SupportSet:
    """Support set of all annotations together, as of one file, and of other support sets, such as labelled pictures.

    Classes are those of all, in the order of their names; a name that differs in case alone from one of a set means the
    same. A file may lack any of them, or hold regions without an object: in its regions, everything is labelled. The
    patches of a set say nothing of classes that it does not have.

    Parameters
    ----------
    files : Sequence[tuple[str, Source]]
        Each file, and the slide or raster that it was drawn on, all at the same resolution.
    options : SupportOptions
        How they are read; ``class_names``: objects of other classes are background.
    sets : Sequence[NamedSet]
        Read with all of their classes.
    read : AnnotationReader
        Reads a file.

    Raises
    ------
    SupportError
        A file cannot be used, sets and files do not fit together, or all of them together hold no object or no
        background.
    """
    if len(files) == 1 and not sets:
        return load_annotations(*files[0], options, read)
    every = [(uri, source, read(uri, source, options)) for uri, source in files]
    if sets:
        for one, _, annotations in every:
            if annotations.objects and not annotations.regions and not annotations.has_marks:
                stand_in_for_regions(one, annotations)
    uri = files[0][0] if files else sets[0][0]
    info = files[0][1].info if files else None
    if info is None:
        check_alike(sets, None, None, "")
    else:
        check_alike(sets, info.mpp, info.n_channels, info.uri)
    of_sets = joined_names([support.class_names for _, support in sets])
    in_sets = [name for names in of_sets for name in names.values()]
    of_files = [
        joined_names([in_sets, sorted({one.name for one in of_file.objects})])[1] for _, _, of_file in every
    ]
    names = sorted({name for joint in (*of_sets, *of_files) for name in joint.values()})
    if not names:
        raise SupportError(f"{uri}: neither it nor the other files hold an object; draw one")
    names = [names[i] for i in choose_classes(uri, names, options.class_names)]
    if len(names) > MAX_CLASSES:
        raise SupportError(
            f"{uri}: it and the others have {len(names)} classes, at most {MAX_CLASSES}; use --class"
        )
    found = [
        _patches(uri, source, of_file, joint, names, options)
        for (uri, source, of_file), joint in zip(every, of_files, strict=True)
    ]
    used = [one for one, joint in zip(sets, of_sets, strict=True) if {*joint.values()} & {*names}]
    of_used = [part_of(one, joint, names) for one, joint in zip(sets, of_sets, strict=True)]
    in_one_folder = sets or len({Path(uri).parent for uri, _ in files}) == 1
    shown = [Path(uri).name if in_one_folder else Path(uri).parent.name for uri, _ in files]
    drawn = [
        _part(name, of_file, len(names))
        for name, of_file in zip(shown, found, strict=True)
        if of_file.patches
    ]
    parts = [*(part for part in of_used if part is not None), *drawn]
    if not parts:
        raise SupportError(f"{uri}: neither it nor the other files hold a label; draw some")
    mpp = info.mpp if info is not None else next((one.mpp for _, one in sets if one.mpp), None)
    support = join_parts(parts, names, mpp)
    counts = [*(corrections(of_file) for _, _, of_file in every), *(one.corrected for _, one in used)]
    ranges = [one.ranges for _, one in used if one.ranges] + ([info.ranges] if info is not None else [])
    return replace(
        support,
        notes=(
            *(note for _, one in used for note in one.notes),
            *(note for one in found for note in one.notes),
            *_doubts(uri, drawn, names),
        ),
        assumptions=(
            *(text for _, one in used for text in one.assumptions),
            *(text for _, _, of_file in every for text in of_file.assumptions),
            *_apart([uri for uri, *_ in (*sets, *files)], [*of_sets, *of_files]),
        ),
        corrected=(sum(accepted for accepted, _ in counts), sum(rejected for _, rejected in counts)),
        ranges=ranges[0] if ranges else (),
    )


def _patches(
    uri: str,
    source: Source,
    read: AnnotationFile,
    joint: Mapping[str, str],
    names: list[str],
    options: SupportOptions,
) -> FilePatches:
    if not read.regions and not read.has_marks and not read.surroundings:
        return FilePatches([], 0, True, [])
    chosen = [replace(one, name=joint[one.name]) for one in read.objects if joint[one.name] in names]
    if len(names) > 1:  # where two overlap the smaller one counts, as in `load_annotations`
        chosen.sort(key=lambda drawn: -drawn.geometry.area)
    values = np.array([names.index(drawn.name) + 1 for drawn in chosen], np.int64)
    return patches_on(uri, source, read, chosen, values, options)


def _part(shown: str, of_file: FilePatches, n_classes: int) -> Part:
    """The part that is a file of annotations."""
    patches = of_file.patches
    return Part(
        images=np.stack([patch.image for patch in patches]),
        labels=np.stack([patch.labels for patch in patches]),
        instances=np.stack([patch.instances for patch in patches]),
        names=tuple(f"{shown}: {patch.title}" for patch in patches),
        n_sparse=len(patches) - of_file.n_dense,
        complete=np.ones((len(patches), n_classes), bool),
        rough=np.stack([patch.rough for patch in patches]),
        are_whole=of_file.are_whole,
    )


def _doubts(uri: str, parts: Sequence[Part], names: Sequence[str]) -> list[str]:
    """What looks wrong in what is drawn; in regions, if there are any."""
    if not parts:
        return []
    n_dense = [len(part.names) - part.n_sparse for part in parts]
    some = [slice(n if any(n_dense) else None) for n in n_dense]
    labels = np.concatenate([part.labels[of_part] for part, of_part in zip(parts, some, strict=True)])
    shown = [name for part, of_part in zip(parts, some, strict=True) for name in part.names[of_part]]
    return doubts(uri, labels, names, shown)


def _apart(uris: Sequence[str], of_parts: Sequence[Mapping[str, str]]) -> list[str]:
    """That support sets have no class in common, though each has a single one: it may be the same."""
    with_class = [(uri, *joint.values()) for uri, joint in zip(uris, of_parts, strict=True) if joint]
    names = {name for _, *names in with_class for name in names}
    if len(with_class) < 2 or len(names) < len(with_class) or any(len(one) > 2 for one in with_class):
        return []
    stated = ", ".join(f"{name} in {uri}" for uri, name in with_class)
    return [f"The support sets have no class in common: {stated}. If they mean the same, give it one name."]


def write_folder(folder: str, support: SupportSet) -> None:
    """Write a support set as a folder of patches, which `load_support` reads back to the same.

    Parameters
    ----------
    folder : str
        A local path; files in it of the same names are replaced.
    support : SupportSet
        Of points and boxes, only what the patches show is kept.

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
    if support.complete is not None:
        names = np.array(support.class_names)
        stated["labelled_for"] = [names[of_patch].tolist() for of_patch in support.complete]
    if support.pictures:
        stated["pictures"] = list(support.pictures)
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

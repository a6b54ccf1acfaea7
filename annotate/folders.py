"""Labelled pictures that are learned from beside what is drawn in the page: ``--support FOLDER``.

They can be switched off, not edited. ``folders.json`` keeps which they are, so that the next start has them again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.tiles import png
from fewscope.connectors.colours import OBJECT_COLOUR, Colour, class_colour
from fewscope.connectors.conventions import IGNORE_LABEL, Ranges
from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.source import Source, SourceInfo
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.connectors.support.joined_sets import NamedSet, check_alike, short
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import FewscopeError, LabelError
from fewscope.pipeline.config import RasterConfig, SegmentConfig
from fewscope.pipeline.sources import read_support

log = logging.getLogger(__name__)

FILE = "folders.json"
UNKNOWN_ALPHA = 110
"""Of the pixels of a patch that are not labelled."""


@dataclass(slots=True)
class LabelledFolder:
    """Labelled pictures.

    Attributes
    ----------
    uri
        Absolute path, or URL.
    support
        Its patches, with all of their classes.
    used
        Whether they are learned from.
    """

    uri: str
    support: SupportSet
    used: bool = True


class LabelledFolders:
    """The labelled pictures of a session; threads may share it.

    Parameters
    ----------
    out : Path
        The output folder of the session.
    asked : Sequence[str]
        Those of the command line, in place of those before; empty: those before.
    read : Callable[[str], SupportSet]
        Reads one of them.

    Raises
    ------
    SupportError
        One of `asked` cannot be used; of those before, only `notes` says so.
    """

    def __init__(self, out: Path, asked: Sequence[str], read: Callable[[str], SupportSet]) -> None:
        self._path, self._lock = out / FILE, threading.Lock()
        self.notes: list[str] = []
        self.folders: list[LabelledFolder] = []
        before = _read_record(self._path)
        for uri in map(_absolute, asked) if asked else before:
            try:
                self.folders.append(LabelledFolder(uri, read(uri), before.get(uri, True)))
            except FewscopeError as error:
                if asked:
                    raise
                log.warning("%s", error)
                self.notes.append(f"labelled pictures of an earlier start are left out: {error}")
        self._asked = bool(asked)

    def keep(self) -> None:
        """Write which they are, once the output folder is this process's.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self._asked:
            self._write()

    def used(self) -> list[NamedSet]:
        """Those that are learned from."""
        with self._lock:
            return [(one.uri, one.support) for one in self.folders if one.used]

    def switch(self, number: Any, used: Any) -> None:
        """Learn from one, or not.

        Raises
        ------
        LabelError
            There is no such folder.
        """
        is_one = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self.folders)
        if not is_one or not isinstance(used, bool):
            raise LabelError("there is no such folder of labelled pictures; reload the page")
        with self._lock:
            self.folders[number].used = used
            self._write()

    @property
    def ranges(self) -> Ranges:
        """Values shown as black and white, if the pictures state them."""
        return next((one.support.ranges for one in self.folders if one.support.ranges), ())

    def colours(self, known: Mapping[str, Colour]) -> dict[str, Colour]:
        """Colours of their classes that are not known yet: the first that no other class has."""
        taken, found = set(known.values()), dict[str, Colour]()
        for one in self.folders:
            for name in one.support.class_names:
                if name not in known and name not in found:
                    number = next(n for n in range(1, 1000) if class_colour(n) not in taken)
                    found[name] = class_colour(number)
                    taken.add(found[name])
        return found

    def check_names(self, operations: Any) -> None:
        """Check that no operation of the page renames a class of theirs, which would stay as it is in the files.

        Raises
        ------
        LabelError
            One does.
        """
        for operation in operations if isinstance(operations, list) else []:
            name = operation.get("rename_from") if isinstance(operation, dict) else None
            for one in self.folders:
                if name in one.support.class_names and operation.get("name") != name:
                    raise LabelError(
                        f"{name} is a class of the labelled pictures in {one.uri}; rename it there, in support.json "
                        "or by the name of the folder, and start again"
                    )

    def described(self) -> list[dict[str, Any]]:
        """What the page must know of them."""
        return [
            {
                "number": number,
                "name": short(one.uri),
                "uri": one.uri,
                "used": one.used,
                "classes": {
                    name: _patches_with(one.support.labels, value)
                    for value, name in enumerate(one.support.class_names, start=1)
                },
                "patches": list(one.support.names),
                "notes": [*one.support.notes, *one.support.assumptions],
            }
            for number, one in enumerate(self.folders)
        ]

    def picture(
        self, number: int, patch: int, colours: Mapping[str, Colour], info: SourceInfo
    ) -> bytes | None:
        """PNG of a patch with its objects outlined in the colours of their classes; None if there is none."""
        if not number < len(self.folders) or not patch < len(self.folders[number].support.names):
            return None
        support = self.folders[number].support
        image, labels = composite(support.images[patch], info).copy(), support.labels[patch]
        is_known = labels != IGNORE_LABEL
        objects = np.where(is_known, labels, 0) if support.instances is None else support.instances[patch]
        around = ndimage.maximum_filter(
            np.where(is_known, labels, 0), 3
        )  # outlines lie on both sides of an edge
        edge = ndimage.maximum_filter(objects, 3) != ndimage.minimum_filter(objects, 3)
        for value, name in enumerate(support.class_names, start=1):
            image[edge & (around == value)] = colours.get(name, OBJECT_COLOUR)
        return png(np.dstack([image, np.where(is_known, 255, UNKNOWN_ALPHA).astype(np.uint8)]))

    def _write(self) -> None:
        record = {"folders": [{"uri": one.uri, "used": one.used} for one in self.folders]}
        path = str(self._path)
        write_atomic(open_filesystem(path)[0], os.path.abspath(path), json.dumps(record, indent=1).encode())


def read_folder(uri: str, source: Source, config: AnnotateConfig) -> SupportSet:
    """Labelled pictures, as a run of ``source`` reads them.

    Raises
    ------
    SupportError
        They cannot be used, or not on this source.
    """
    info, slide = source.info, config.slide
    of_run = SegmentConfig(
        source=config.sources[0],
        support=uri,
        out="",
        mpp=config.mpp,
        slide_mpp=config.slide_mpp,
        channels=slide.channels,
        series=slide.series,
        scale=slide.scale,
        plane=slide.stack.plane,
        time=slide.stack.time,
        pages=slide.stack.pages,
        cell_part=config.cell_part,
        geojson_origin=config.geojson_origin,
        raster=RasterConfig(config.raster) if info.kind == "raster" else None,
    )
    support = read_support(of_run, source, source)
    check_alike([(uri, support)], info.mpp, info.n_channels, info.uri)
    return support


def _patches_with(labels: NDArray[np.uint8], value: int) -> int:
    return int((labels == value).any(axis=(1, 2)).sum())


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)


def _read_record(path: Path) -> dict[str, bool]:
    """Which there were, and whether they were learned from; nothing where the file is missing or damaged."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        return {str(one["uri"]): bool(one["used"]) for one in stated["folders"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

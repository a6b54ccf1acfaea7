"""Names of the folders that several sources of one run get in the output folder."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

RESERVED = frozenset(
    {
        ".fewscope",
        "result.zarr",
        "report.html",
        "report.json",
        "overview.jpg",
        "summary.csv",
        "index.html",
        "instances.parquet",
        "instances.geojson.gz",
        "mask.tif",
        "probability.tif",
        "features.gpkg",
        "features.parquet",
        "centreline.parquet",
        "changes.html",
        "changes.csv",
        "changes.jpg",
        "centrelines.jpg",
    }
)
"""Names that a job writes, or looks for, in an output folder itself."""


def folder_names(sources: Sequence[str]) -> list[str]:
    """One name for each source, all different, also on disks that do not distinguish upper and lower case.

    A source whose name without its ending is its own keeps that name, wherever it stands. Of several with one name,
    each gets its position in the command: the same command gives the same folders. A number that another name has is
    passed over.

    Examples
    --------
    >>> folder_names(["x/a.svs", "y/a.svs", "z/a-2.svs", "b.svs"])
    ['a-1', 'a-3', 'a-2', 'b']
    """
    stems = [_stem(source) for source in sources]
    counts = Counter(map(_key, stems))
    taken = {*RESERVED, *counts}
    names = []
    for position, stem in enumerate(stems, start=1):
        name, number = stem, position
        if counts[_key(stem)] > 1 or _key(stem) in RESERVED:
            while _key(name := f"{stem}-{number}") in taken:
                number += 1
            taken.add(_key(name))
        names.append(name)
    return names


def series_names(names: Sequence[str], times: Sequence[Sequence[int | None]]) -> list[list[str]]:
    """A name for each time point of each source, all different; that of the source where it has none.

    Parameters
    ----------
    names
        From `folder_names`.
    times
        Time points of each source, counted from 1; None for a source that is no series.

    Examples
    --------
    >>> series_names(["a", "b"], [(1, 2), (None,)])
    [['a-t001', 'a-t002'], ['b']]
    """
    wanted = [
        [name if time is None else f"{name}-t{time:03d}" for time in of_source]
        for name, of_source in zip(names, times, strict=True)
    ]
    found = iter(folder_names([f"{name}.x" for of_source in wanted for name in of_source]))
    return [[next(found) for _ in of_source] for of_source in wanted]


def _stem(source: str) -> str:
    """Name of a path or URL without folders and ending; never one that leads out of the output folder."""
    path = posixpath.basename(unquote(urlsplit(source).path).rstrip("/")) if "://" in source else source
    stem = Path(path).stem
    return stem if stem.strip(". ") else "source"


def _key(name: str) -> str:
    """Equal for names that a disk may take for one."""
    return unicodedata.normalize("NFC", name).casefold()

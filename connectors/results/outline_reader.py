"""Outlines of a finished run, read from ``instances.geojson.gz`` one by one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.connectors.vectors.outline import Outline
from fewscope.errors import ConfigError, RunMismatch

OUTLINES = "instances.geojson.gz"


def check_outlines(run: FinishedRun) -> None:
    """Check that a run has written outlines.

    Raises
    ------
    ConfigError
        It has written points, or none.
    """
    fs, root = open_filesystem(run.out)
    if not fs.exists(f"{root}/{OUTLINES}"):
        raise ConfigError(
            f"{run.out} holds no outlines; run its command again with --outlines polygons --overwrite"
        )
    first = next(_features(run), None)
    if first is not None and first["geometry"]["type"] == "Point":
        raise ConfigError(
            f"{run.out} holds points instead of outlines; run its command again with --outlines polygons --overwrite"
        )


def read_outlines(
    run: FinishedRun, wanted: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)
) -> Iterator[Outline]:
    """The outlines of a run, in the order of their ids.

    Parameters
    ----------
    wanted
        For each id 0..N whether it is wanted.
    origin
        Where the coordinates of the file start, in those of the table: `FinishedRun.outlines_origin`.

    Raises
    ------
    RunMismatch
        The file is damaged.
    """
    values = {name: value for value, name in enumerate(run.class_names, start=1)}
    for feature in _features(run):
        properties = feature["properties"]
        instance = int(properties["measurements"]["Id"])
        if not wanted[instance]:
            continue
        name, geometry = properties["classification"]["name"], feature["geometry"]
        several = geometry["type"] == "MultiPolygon"
        polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
        rings = tuple(tuple(np.array(ring[:-1], np.float64) + origin for ring in one) for one in polygons)
        yield Outline(instance, values[name], name, properties["measurements"]["Mean probability"], rings)


def _features(run: FinishedRun) -> Iterator[dict[str, Any]]:
    """The features of the file, a line each, as `GeoJsonWriter` writes them."""
    fs, root = open_filesystem(run.out)
    try:
        with fs.open(f"{root}/{OUTLINES}", "rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as file:
            next(file)
            for line in file:
                if line.startswith("]}"):
                    return
                yield json.loads(line.rstrip(",\n"))
            raise EOFError("it ends early")
    except (OSError, EOFError, StopIteration, zlib.error, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise RunMismatch(
            f"{run.out}/{OUTLINES} cannot be read ({reason}); run its command again with --overwrite"
        ) from error

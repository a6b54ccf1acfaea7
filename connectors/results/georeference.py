"""Georeference of a result store: the ``proj:`` and ``spatial:`` conventions of Zarr, beside ``ome``.

https://github.com/zarr-conventions/proj (v1) and https://github.com/zarr-conventions/spatial (v1, a proposal). GeoZarr
itself is a draft; its readers agree on these two so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import zarr
from affine import Affine

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.results.store import Name, ResultStore
from fewscope.connectors.storage.filesystem import output_errors

CONVENTIONS = {
    "proj:": (
        "zarr-conventions/geo-proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system",
    ),
    "spatial:": ("zarr-conventions/spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinates"),
}
"""Repository, UUID and description by name, by which readers recognise the attributes."""

NAMES: tuple[Name, ...] = ("probability", "semantic", "instances")


def write_georeference(store: ResultStore, transform: Affine, crs: str | None) -> None:
    """Write the georeference to the attributes of every group and level. Idempotent.

    Parameters
    ----------
    store : ResultStore
        A result store of a raster.
    transform : Affine
        Pixel corner (col, row) of level 0 -> x, y.
    crs : str | None
        WKT, or any notation that PROJ reads; None without, and only ``spatial:`` is written.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    reference = _of_crs(crs)
    with output_errors(store.out):
        for name in NAMES:
            for level in range(store.spec.levels):
                array = store.array(name, level)
                at_level = transform @ Affine.scale(2**level)
                array.attrs.update(reference | _of_grid(at_level, *array.shape))
            path = store.array(name).store_path
            group = zarr.open_group(path.store, path=path.path.rpartition("/")[0], mode="r+", zarr_format=3)
            group.attrs.update(reference | _of_grid(transform, store.spec.height, store.spec.width))


def _of_crs(crs: str | None) -> dict[str, Any]:
    """Attributes of the CRS; with a code only if one stands for exactly this CRS."""
    names = ["proj:", "spatial:"] if crs else ["spatial:"]
    registered = [
        {
            "name": name,
            "uuid": CONVENTIONS[name][1],
            "description": CONVENTIONS[name][2],
            "schema_url": f"https://raw.githubusercontent.com/{CONVENTIONS[name][0]}/refs/tags/v1/schema.json",
            "spec_url": f"https://github.com/{CONVENTIONS[name][0]}/blob/v1/README.md",
        }
        for name in names
    ]
    found: dict[str, Any] = {"zarr_conventions": registered}
    if crs:
        known = pyproj.CRS.from_user_input(crs)
        authority = known.to_authority(min_confidence=100)
        if authority is not None:
            found["proj:code"] = ":".join(authority)
        found["proj:wkt2"] = known.to_wkt("WKT2_2019")
    return found


def _of_grid(transform: Affine, height: int, width: int) -> dict[str, Any]:
    """Attributes of a grid: its transform as Affine's a..f, its size, its bounding box."""
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
    x, y = place_points(corners, transform).T.tolist()
    return {
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [height, width],
        "spatial:transform": list(transform)[:6],
        "spatial:bbox": [min(x), min(y), max(x), max(y)],
        "spatial:registration": "pixel",
    }

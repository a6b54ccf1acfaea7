"""Write the river demo's scene: a satellite picture made by code, whose river is known, and labels in five regions.

    python examples/make_demo_scene.py build/river

A river meanders from west to east between forest, fields and sandbars; an island splits it once, an oxbow and ponds lie
beside it. Four bands of uint16 reflectance (x 10,000: blue, green, red, near infrared) at 10 m in UTM zone 18 S, with a
corner of nodata and internal overviews. What is true of it is written beside it:

- ``scene.tif``: the picture
- ``support.geojson``: five regions and the water in them, as somebody would draw it
- ``truth.tif``, ``truth.json``: the water, its area, and the river's length and width
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

CRS = "EPSG:32718"  # UTM zone 18 S
PIXEL_M = 10.0
ORIGIN = (540_000.0, 9_090_000.0)  # upper left corner
SIDE = 1536  # px
RIVER_WIDTH_M = 260.0
NODATA = 0
N_MEANDERS = 2.5
PONDS = ((0.12, 0.12, 130), (0.62, 0.13, 150), (0.80, 0.86, 180), (0.33, 0.92, 100))
"""Shares of the width and the height, and radius in m."""
OXBOW = (0.32, 0.2)
REGIONS = (0.17, 0.4, 0.68, 0.9)
"""Middles of four regions that are labelled, as shares of the river's length; the fifth is the oxbow lake."""
REGION_PX = 224
SWATH = 0.1
"""The satellite's swath begins so far down the western edge: nodata above it."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What lies where, in the CRS: the river's bed and its centreline, an island in it, still water, bars of sand.

    ``places`` are the middles of the regions that are labelled.
    """

    centreline: shapely.LineString
    river: shapely.Polygon
    island: shapely.Polygon
    lakes: list[shapely.Polygon]
    bars: list[shapely.Polygon]
    places: list[shapely.Point]

    @property
    def water(self) -> list[shapely.Geometry]:
        """All water."""
        return [self.river.difference(self.island), *self.lakes]


def make_truth(side: int) -> Truth:
    """Lay out a scene of `side` px: a sine-generated meander (Langbein and Leopold 1966), which real ones are like."""
    extent = side * PIXEL_M
    along = np.linspace(0, 1, 6000)
    swing = np.radians(80) * np.sin(2 * np.pi * N_MEANDERS * along) * (1 - 0.3 * along)
    path = np.cumsum(np.stack([np.cos(swing), np.sin(swing)], axis=-1), axis=0)
    path[:, 1] -= np.linspace(path[0, 1], path[-1, 1], len(path))  # it leaves at the height at which it came
    path = (path - path[0]) * 1.1 * extent / (path[-1, 0] - path[0, 0])
    line = shapely.LineString(path + place(-0.05, 0.58, extent))
    island_at = line.interpolate(2 / N_MEANDERS / 2, normalized=True)  # where it runs from west to east
    island = ellipse(island_at, 1.0 * RIVER_WIDTH_M, 0.3 * RIVER_WIDTH_M)
    widening = ellipse(island_at, 2.2 * RIVER_WIDTH_M, 0.75 * RIVER_WIDTH_M)
    scene = shapely.box(*place(0, 1, extent), *place(1, 0, extent))
    ponds = [shapely.Point(place(x, y, extent)).buffer(r) for x, y, r in PONDS]
    arc = np.radians(np.linspace(-70, 200, 90))
    oxbow = np.stack([0.055 * np.cos(arc) + OXBOW[0], 0.07 * np.sin(arc) + OXBOW[1]], axis=-1)
    lake = shapely.LineString(oxbow * (extent, -extent) + np.array(ORIGIN)).buffer(0.35 * RIVER_WIDTH_M)
    bends = [
        line.interpolate((k + 0.5) / (2 * N_MEANDERS), normalized=True) for k in range(round(2 * N_MEANDERS))
    ]
    return Truth(
        centreline=line.intersection(scene),
        river=shapely.union(line.buffer(RIVER_WIDTH_M / 2), widening).intersection(scene),
        island=island,
        lakes=[*ponds, lake],
        bars=[ellipse(bend, 0.8 * RIVER_WIDTH_M, 1.6 * RIVER_WIDTH_M) for bend in bends],
        places=[*(line.interpolate(share, normalized=True) for share in REGIONS), lake.centroid],
    )


def place(x: float, y: float, extent: float) -> tuple[float, float]:
    """From shares of the width and the height to the CRS."""
    return ORIGIN[0] + x * extent, ORIGIN[1] - y * extent


def ellipse(middle: shapely.Point, half_x: float, half_y: float) -> shapely.Polygon:
    """An ellipse along the axes."""
    return shapely.affinity.scale(middle.buffer(1, quad_segs=32), half_x, half_y)


def burn(shapes: list[Any], side: int, transform: Affine) -> Mask:
    """Pixels whose centre lies in one of the shapes, (side, side) bool."""
    return rasterize([(shape, 1) for shape in shapes], (side, side), transform=transform).astype(bool)


def noise(side: int, sigma_px: float, seed: int) -> Floats:
    """Smooth noise of mean 0 and standard deviation 1."""
    rough = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    smooth = gaussian_filter(rough, sigma_px, mode="wrap")
    return smooth / smooth.std()


FOREST = (260, 420, 260, 3300)
FIELD = (620, 900, 820, 2900)
BARE = (1150, 1500, 1900, 2500)
SAND = (1900, 2300, 2700, 3200)
DEEP = (620, 760, 540, 260)
TURBID = (820, 1080, 1060, 520)
"""Reflectance x 10,000 in blue, green, red, near infrared: of the order of what Sentinel-2 sees of each."""


def paint(truth: Truth, side: int, transform: Affine) -> tuple[npt.NDArray[np.uint16], Mask]:
    """The picture, (4, side, side) uint16, and where it is valid."""
    river, lakes = (
        burn([truth.river.difference(truth.island)], side, transform),
        burn(truth.lakes, side, transform),
    )
    sand = burn([*truth.bars, truth.island], side, transform)
    fields = (noise(side, 60, 1) > 0.2) & (noise(side, 25, 2) > -0.6)
    plots = np.kron(np.random.default_rng(3).random((side // 24 + 1, side // 24 + 1)), np.ones((24, 24)))[
        :side, :side
    ]
    cover = np.empty((4, side, side), np.float32)
    texture = 1 + 0.10 * noise(side, 1.2, 4) + 0.08 * noise(side, 8, 5)
    for band in range(4):
        ground = np.full((side, side), float(FOREST[band]), np.float32)
        ground[fields] = (FIELD[band] + (BARE[band] - FIELD[band]) * (plots > 0.62))[fields]
        ground[sand] = SAND[band]
        ground *= texture
        silt = np.clip(0.5 + 0.25 * noise(side, 40, 6), 0, 1)
        stream = DEEP[band] + (TURBID[band] - DEEP[band]) * silt
        ground[river] = stream[river]
        ground[lakes] = DEEP[band]
        cover[band] = gaussian_filter(ground, 0.7)  # a sensor's view of an edge is not sharp
        cover[band] += 25 * noise(side, 0.5, 10 + band)
    rows, cols = np.indices((side, side))
    valid = rows + 0.5 * cols > SWATH * side  # the edge of the satellite's swath
    image = np.clip(np.round(cover), 1, 10_000).astype(np.uint16)
    image[:, ~valid] = NODATA
    return image, valid


def support(truth: Truth, side: int) -> dict[str, Any]:
    """Five regions and the water in them as GeoJSON, in longitude and latitude as GeoJSON has it."""
    whole = shapely.union_all(truth.water)
    features = []
    for number, middle in enumerate(truth.places, start=1):
        west, north = np.round(np.array([middle.x, middle.y]) / PIXEL_M - REGION_PX / 2) * PIXEL_M
        region = shapely.box(west, north, west + REGION_PX * PIXEL_M, north + REGION_PX * PIXEL_M)
        features.append((region, "Region", f"Region {number}"))
        features += [(part, "water", "water") for part in shapely.get_parts(whole.intersection(region))]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": json.loads(shapely.to_geojson(to_degrees(shape))),
                "properties": {"class": name, "name": title},
            }
            for shape, name, title in features
        ],
    }


def to_degrees(shape: shapely.Geometry) -> shapely.Geometry:
    """A geometry of the scene in longitude and latitude, to a centimetre."""
    move = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    return shapely.transform(shape, lambda xy: np.round(np.stack(move.transform(*xy.T), axis=-1), 7))


def write_raster(path: Path, bands: npt.NDArray[Any], transform: Affine, nodata: int) -> None:
    """A tiled GeoTIFF (bands, height, width) with overviews."""
    count, height, width = bands.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": bands.dtype,
        "crs": CRS,
        "transform": transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(bands)
        if count == 4:
            dataset.colorinterp = [
                ColorInterp.blue,
                ColorInterp.green,
                ColorInterp.red,
                ColorInterp.undefined,
            ]
            dataset.descriptions = ("blue", "green", "red", "near infrared")
        dataset.build_overviews([2, 4], Resampling.average if count == 4 else Resampling.nearest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 = written, 2 = refused with one line on stderr."""
    parser = argparse.ArgumentParser(description="python examples/make_demo_scene.py build/river")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--side", type=int, default=SIDE, help="height and width in px (%(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.side < 1024:
        print(
            f"--side {chosen.side}: expected at least 1024 px, or the five regions overlap", file=sys.stderr
        )
        return 2
    transform = Affine(PIXEL_M, 0, ORIGIN[0], 0, -PIXEL_M, ORIGIN[1])
    truth = make_truth(chosen.side)
    image, valid = paint(truth, chosen.side, transform)
    water = burn(truth.water, chosen.side, transform) & valid
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_raster(chosen.out / "scene.tif", image, transform, NODATA)
    write_raster(chosen.out / "truth.tif", np.where(valid, water, 255).astype(np.uint8)[None], transform, 255)
    (chosen.out / "support.geojson").write_text(json.dumps(support(truth, chosen.side)) + "\n")
    facts = {
        "water_km2": round(int(water.sum()) * PIXEL_M**2 / 1e6, 4),
        "river_km": round(truth.centreline.length / 1000, 3),
        "river_width_m": RIVER_WIDTH_M,
    }
    (chosen.out / "truth.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{chosen.out}/scene.tif: {chosen.side} x {chosen.side} px at {PIXEL_M:g} m; truth: {facts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

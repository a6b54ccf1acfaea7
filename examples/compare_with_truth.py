"""Print what was found of the river demo's scene beside what is true of it.

python examples/compare_with_truth.py out/river build/river
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="python examples/compare_with_truth.py out/river build/river"
    )
    parser.add_argument("found", type=Path, help="output folder of jobs/segment_raster.py")
    parser.add_argument("truth", type=Path, help="folder that make_demo_scene.py wrote")
    chosen = parser.parse_args(arguments)
    report = json.loads((chosen.found / "report.json").read_text())
    truth = json.loads((chosen.truth / "truth.json").read_text())
    rivers, widths = report["map"]["rivers"], report["map"]["widths"]
    print(f"{'':24}{'found':>10}{'true':>10}")
    for name, found, true in (
        ("water, km2", report["covered_km2"], truth["water_km2"]),
        ("river's length, km", rivers[0]["main_length"] if rivers else 0.0, truth["river_km"]),
        ("river's median width, m", widths["median"] if widths else 0.0, truth["river_width_m"]),
    ):
        print(f"{name:24}{found:>10.2f}{true:>10.2f}")
    with rasterio.open(chosen.found / "mask.tif") as mask, rasterio.open(chosen.truth / "truth.tif") as known:
        is_water, was_water = mask.read(1) == 1, known.read(1) == 1
    overlap = np.count_nonzero(is_water & was_water) / max(1, np.count_nonzero(is_water | was_water))
    print(f"{'overlap of water (IoU)':24}{overlap:>10.3f}{1.0:>10.3f}")
    if report["covered_interval_km2"]:
        low, high = report["covered_interval_km2"]
        estimate = report["covered_estimate_km2"]
        print(f"estimated true area of the water: {estimate:.2f} km2 (95 % interval {low:.2f} to {high:.2f})")
    print(f"  {chosen.found}/report.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

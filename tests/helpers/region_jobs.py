"""`fewscope regions` as tests call it: files of regions, the table that it writes, what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from shapely.geometry import mapping

from fewscope.jobs import regions
from fewscope.pipeline.config import SegmentConfig


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": mapping(geometry), "properties": properties}


def drawn(path: Path, *features: dict) -> str:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def counted(config: SegmentConfig, out: Path, *argv: str) -> list[dict[str, str]]:
    """Rows of the table that the job writes."""
    assert regions.main([config.out, "--out", str(out), *argv]) == 0
    with open(out / "regions.csv") as file:
        return list(csv.DictReader(file))


def refused(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert regions.main(list(argv)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said

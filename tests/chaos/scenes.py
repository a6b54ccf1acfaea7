"""A small slide and a small raster, jobs on them in processes of their own, and what an undisturbed job gives."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from shapely.geometry import box, mapping

from fewscope.connectors.storage.atomic import is_leftover
from tests.chaos import program
from tests.chaos.program import Fault
from tests.helpers import fakes
from tests.helpers.machine import ROOT
from tests.helpers.rasters import ORIGIN, north_up, write_raster

NOTHING = Fault()
PATIENCE_S = 120.0
"""A job that takes so long hangs: a right one takes two seconds, and thirty on a busy machine."""

MAP_FILES = ("mask.tif", "probability.tif", "features.parquet", "centreline.parquet")
KEPT = {"manifest.json", "markers", "finished.json"}
"""What the working folder holds once a run is finished."""

_processes = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Have the fork server import what a job needs, before anything is measured."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        _processes.set_forkserver_preload(["tests.chaos.program"])
        first = _processes.Process(target=int)
        first.start()
        first.join()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes
    ----------
    code
        Exit code; negative: the signal that killed it.
    errors
        Lines on stderr.
    events, seconds
        Events of the disk in each stage, and how long each took; empty if it was killed.
    """

    code: int | str
    errors: list[str]
    events: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Running:
    """A job in a process of its own."""

    def __init__(self, process: BaseProcess, result: Path) -> None:
        self._process, self._result = process, result

    def kill(self) -> None:
        """As the kernel does where memory runs out."""
        self._process.kill()

    def end(self) -> End:
        """Wait for it."""
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            return End("hangs", [])
        return read_end(self._result, self._process.exitcode or 0)


def read_end(result: Path, exit_code: int) -> End:
    """How a job ended, from what it wrote itself, or else from how its process ended."""
    if not result.exists():
        return End(exit_code, [])
    found = json.loads(result.read_text())
    result.unlink()
    return End(found["code"], found["errors"].splitlines(), found["events"], found["seconds"])


@dataclass
class Scene:
    """A source with its support set.

    Attributes
    ----------
    kind
        "slide" or "raster".
    arguments
        Of the job, but for ``--out``.
    expected
        Bytes of the files of an undisturbed run.
    events, seconds
        Of that run, in each stage.
    n_bytes
        That its folder takes.
    """

    kind: str
    arguments: list[str]
    expected: dict[str, bytes] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    n_bytes: int = 0

    def start(
        self,
        out: Path | str,
        fault: Fault = NOTHING,
        *more: str,
        folder: Path | None = None,
        **variables: str,
    ) -> Running:
        """Start the job, with variables of the environment; a folder for its result if `out` is none."""
        result = (folder or Path(out).parent) / f"{os.urandom(4).hex()}.json"
        arguments = [*self.arguments, "--out", str(out), *more]
        process = _processes.Process(
            target=program.run, args=(self.kind, arguments, result, fault, variables)
        )
        process.start()
        return Running(process, result)

    def run(self, out: Path | str, fault: Fault = NOTHING, *more: str) -> End:
        """Run the job to its end."""
        return self.start(out, fault, *more).end()

    def fault_of_resumed(self, out: Path, *more: str) -> str | None:
        """Resume undisturbed; what is wrong with the end or with the files, None if they are as they should be."""
        end = self.run(out, NOTHING, *more)
        if end.code != 0 or end.errors:
            return f"resumed: {end.code} {shortened(end.errors)}"
        return self.fault_of_files(out)

    def fault_of_files(self, out: Path) -> str | None:
        """What is wrong with the files of a finished run."""
        found = files_of(out)
        wrong = [name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name)]
        if wrong:
            return f"not the same bytes: {', '.join(sorted(wrong)[:4])}"
        left = [path.name for path in out.rglob("*") if is_leftover(path.name)]
        left += sorted({path.name for path in (out / ".fewscope").iterdir()} - KEPT)
        return f"left over: {', '.join(left[:4])}" if left else None


def files_of(out: Path) -> dict[str, bytes]:
    """The bytes that must be the same whatever happened."""
    found = fakes.outputs(out) if (out / "instances.geojson.gz").exists() else {}
    for name in MAP_FILES:
        if (out / name).exists():
            found[name] = (out / name).read_bytes()
    if (out / "features.gpkg").exists():  # SQLite writes times: the rows, not the bytes
        import pyogrio

        for layer in ("features", "centreline"):
            rows = pyogrio.raw.read(str(out / "features.gpkg"), layer=layer)
            found[f"features.gpkg/{layer}"] = repr(
                [[list(column) for column in rows[3]], list(rows[2])]
            ).encode()
    return found


def fault_of_end(end: End, out: Path | str, allowed: tuple[int, ...]) -> str | None:
    """What is wrong with how a disturbed job ended: only some exit codes, one line that names the folder at exit 2."""
    if end.code not in allowed:
        return f"ended with {end.code} {shortened(end.errors)}"
    if end.code in (130, 143):
        return None if end.errors == ["stopped; the same command resumes"] else f"says {end.errors}"
    if end.code != 2:
        return f"says {end.errors}" if end.errors else None
    if len(end.errors) != 1 or not end.errors[0].startswith("error: "):
        return f"not one line: {shortened(end.errors)}"
    return None if str(out) in end.errors[0] else f"does not name the folder: {end.errors[0]}"


def shortened(lines: list[str]) -> str:
    """The lines in one, the middle left out where they are many."""
    text = " | ".join(lines)
    return text if len(text) <= 2000 else f"{text[:800]} ... {text[-1100:]}"


def make_scenes(folder: Path) -> dict[str, Scene]:
    """Both scenes, run once undisturbed."""
    start_server()
    scenes = {"slide": _slide(folder), "raster": _raster(folder)}
    for name, scene in scenes.items():
        out = folder / f"{name}-undisturbed"
        end = scene.run(out)
        assert (end.code, end.errors) == (0, []), end
        scene.expected, scene.events, scene.seconds = files_of(out), end.events, end.seconds
        scene.n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        assert scene.fault_of_files(out) is None
        shutil.rmtree(out)
    return scenes


def _slide(folder: Path) -> Scene:
    source = fakes.write_slide(folder / "slide.tif", fakes.picture(330, 400))
    support = fakes.write_support(folder / "patches")
    common = ["--support", support, "--local", "--threshold", "0.5", "--instances", "components"]
    return Scene("slide", [source, *common])


LAKES = ((40, 50, 90, 130), (150, 60, 250, 90), (120, 200, 124, 205), (200, 300, 300, 400))
"""Rows and columns; the last one is cut by the edge, and one lies across the units of 128 px."""


def _raster(folder: Path) -> Scene:
    """Lakes that are red, and dark in near infrared."""
    values = np.zeros((4, 300, 400), np.uint8)
    values[:] = np.array([40, 60, 200, 150])[:, None, None]
    for top, left, bottom, right in LAKES:
        values[:, top:bottom, left:right] = np.array([200, 60, 40, 10])[:, None, None]
    source = write_raster(folder / "raster.tif", values, north_up())
    named = [
        ((20, 20, 140, 160), "Region"),
        ((140, 20, 280, 160), "Region"),
        *((lake, "lake") for lake in LAKES),
    ]
    x, y = ORIGIN
    features = [
        {
            "type": "Feature",
            "properties": {"class": name},
            "geometry": mapping(box(x + 10 * left, y - 10 * bottom, x + 10 * right, y - 10 * top)),
        }
        for (top, left, bottom, right), name in named
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    drawn = folder / "drawn.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    common = ["--support", str(drawn), "--local", "--threshold", "0.5", "--green", "2", "--nir", "4"]
    return Scene("raster", [source, *common])

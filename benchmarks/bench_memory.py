"""Peak resident memory of every process of a job, on a slide and on one of ten times its area.

    python benchmarks/bench_memory.py
    python benchmarks/bench_memory.py --engines local --sides 8192 25600 --unit 2048
    python benchmarks/bench_memory.py --kind raster

Both slides are of the same tissue and go through the whole job (tables, outlines, pyramids, report), with the same
unit; the model is a fake that costs nothing. With `--kind raster` they are rasters in UTM, and the map is made too.
Each job is a program of its own, watched from outside: Linux's record of the peak of the driver, of the largest worker
(Ray's actors), and of the largest of Ray's other processes that run tasks. `driver_ratio_above_start` is the ratio of
what the driver took above its size at the start, with all modules loaded, which the plain ratio flatters.
`driver_by_stage_mb` says when.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import synthetic
from benchmarks.records import MemoryWatch, Process, emit, n_cores

ROOT = Path(__file__).resolve().parents[1]

TARGET = 1.15
"""Most that ten times the area may take."""


def job(engine: str, options: dict[str, Any], workers: int, model_name: str) -> dict[str, Any]:
    """One job in this process, and what the watcher has to know of it."""
    from fewscope.pipeline.config import RasterConfig, SegmentConfig
    from fewscope.pipeline.execution.pool import LocalPool
    from fewscope.pipeline.execution.ray_pool import RayPool
    from fewscope.pipeline.plan import model_loader
    from fewscope.pipeline.run import segment

    ends: list[tuple[str, float]] = []

    class Stages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg == "%s: %.1f s" and isinstance(record.args, tuple):
                ends.append((str(record.args[0]), record.created))

    log = logging.getLogger("fewscope.pipeline.report.builder")
    log.setLevel(logging.INFO)
    log.addHandler(Stages())
    log.propagate = False
    start = {"clock": time.time(), "resident_mb": _resident_mb()}
    raster = RasterConfig() if options.pop("raster", False) else None
    config = SegmentConfig(**options, raster=raster)
    load: Callable[[], Any] = synthetic.FakeModel if model_name == "fake" else model_loader(config)
    model = load()
    with LocalPool(load) if engine == "local" else RayPool(load, workers) as pool:
        began = time.perf_counter()
        report = segment(config, pool, model)
        seconds = time.perf_counter() - began
    told = {"start": start, "stages": ends, "seconds": seconds, "count": report["count"]}
    return told | {"tiles": report["timings"]["tiles"]}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(engine: str, options: dict[str, Any], workers: int, model: str = "fake") -> dict[str, Any]:
    """Run one job as a program and watch its memory."""
    command = [sys.executable, __file__, "--child", json.dumps([engine, options, workers, model])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        with MemoryWatch(program.pid) as seen:
            output, _ = program.communicate()
        if program.returncode:
            raise SystemExit(f"the job of {options['source']} failed; its error is above")
    told = json.loads(output.splitlines()[-1])
    driver = seen.processes[program.pid]
    actors = [p for p in seen.processes.values() if "Actor" in p.name]
    tasks = [p for p in seen.processes.values() if p.name.startswith("ray::") and p not in actors]
    return {
        "driver_mb": driver.peak_mb,
        "worker_mb": max((p.peak_mb for p in actors), default=None),
        "task_mb": max((p.peak_mb for p in tasks), default=None),
        "driver_start_mb": told["start"]["resident_mb"],
        "driver_by_stage_mb": by_stage(driver, told["start"]["clock"], told["stages"]),
        "seconds": told["seconds"],
        "tiles": told["tiles"],
        "count": told["count"],
    }


def by_stage(process: Process, began: float, ends: list[list[Any]]) -> dict[str, float]:
    """The largest sample of each stage."""
    found = {}
    for name, end in ends:
        found[name] = max((mb for clock, mb in process.samples if began <= clock <= end), default=0.0)
        began = end
    return found


def compare(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """The ratios of two runs."""
    ratios = {
        f"{who}_ratio": large[f"{who}_mb"] / small[f"{who}_mb"]
        for who in ("driver", "worker", "task")
        if small[f"{who}_mb"] and large[f"{who}_mb"]
    }
    above = [run["driver_mb"] - run["driver_start_mb"] for run in (small, large)]
    return ratios | {"driver_ratio_above_start": above[1] / max(above[0], 1e-3)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kind", choices=("slide", "raster"), default="slide", help="default slide")
    add("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"], help="default both")
    add("--sides", type=int, nargs=2, default=[8192, 25600], help="px of the slides (default 8192 25600)")
    add("--unit", type=int, default=2048, help="px of a unit and of a shard (default 2048)")
    add("--instances", choices=("components", "split"), default="components", help="default components")
    add("--workers", type=int, default=n_cores(), help="Ray workers (default: the number of cores)")
    add("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run both slides with each engine; print a line for each engine."""
    args = parse(argv)
    if args.child:
        print(json.dumps(job(*json.loads(args.child))))
        return 0
    with tempfile.TemporaryDirectory(prefix="fewscope-bench-") as folder:
        picture = synthetic.tissue()
        is_raster = args.kind == "raster"
        support = synthetic.write_support(
            Path(folder) / "support", picture, mpp=None if is_raster else synthetic.MPP
        )
        slides = [Path(folder) / f"{side}.tif" for side in args.sides]
        for slide, side in zip(slides, args.sides, strict=True):
            synthetic.write_repeats(slide, picture, side, side)
            if is_raster:
                synthetic.put_on_earth(slide)
        for engine in args.engines:
            runs = []
            for slide in slides:
                options = synthetic.config_options(
                    slide,
                    support,
                    Path(folder) / "out",
                    unit=args.unit,
                    shard=args.unit,
                    instances=args.instances,
                    object_radius_um=3.5 if args.instances == "split" else None,
                    raster=is_raster,
                )
                runs.append(watch(engine, dict(options), args.workers))
            asked = {
                "kind": args.kind,
                "engine": engine,
                "sides_px": args.sides,
                "area_ratio": (args.sides[1] / args.sides[0]) ** 2,
                "unit": args.unit,
                "shard": args.unit,
                "instances": args.instances,
                "workers": args.workers if engine == "ray" else 1,
            }
            emit("memory", compare(*runs) | {"target": TARGET} | asked | {"small": runs[0], "large": runs[1]})
    return 0


if __name__ == "__main__":
    sys.exit(main())

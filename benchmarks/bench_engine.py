"""What a user loses to the engine: tiles per second of a whole job, over those of a plain loop with the same model.

    python benchmarks/bench_engine.py
    python benchmarks/bench_engine.py --engines local --side 8192 --unit 4096 --shard 4096 --tile-ms 25

The plain loop opens the slide, reads the window of each tile, calls the model, and does nothing else: nothing is
blended, labelled, written or counted. The job is the whole job, from opening the slide to the report. The model is a
fake that burns a stated processor time per tile (25 ms: the compact network on one core).

Three pairs: "local" is one loop and one --local job on all cores; "local, one core" the same on a single core, where
nothing can hide behind the model; "ray" is N processes with a static split, and N Ray workers, N the number of cores.
`cpu_ratio` (local only) is of processor seconds: what the ratio would be on one core that nobody else uses.
Tiles count once in both; those that the job runs twice, at the borders of units, are in its time and not in its count.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ray
from rasterio.windows import Window

from benchmarks import synthetic
from benchmarks.records import emit, n_cores
from fewscope.connectors.open import open_source
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool, Pool
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.execution.worker import TILES_AT_ONCE
from fewscope.pipeline.run import segment
from fewscope.pipeline.tiling.grid import TileGrid

TARGETS = {"local": 0.90, "local, one core": 0.90, "ray": 0.85}


def plain_loop(slide: str, tile_ms: float, part: int = 0, parts: int = 1) -> int:
    """Read and predict every tile of a slide, or part `part` of `parts` of its lines of tiles; number of tiles."""
    import numpy as np

    source = open_source(slide)
    grid = TileGrid(source.info.height, source.info.width)
    n = len(grid.rows)
    rows = grid.rows[part * n // parts : (part + 1) * n // parts].tolist()
    tiles = [Window(col, row, grid.tile, grid.tile) for row in rows for col in grid.cols.tolist()]
    model = synthetic.FakeModel(tile_ms)
    for start in range(0, len(tiles), TILES_AT_ONCE):
        batch = np.stack([source.read(tile)[0] for tile in tiles[start : start + TILES_AT_ONCE]])
        model.predict(batch, None)
    source.close()
    return len(tiles)


def _part(barrier: Any, slide: str, tile_ms: float, part: int, parts: int) -> None:
    barrier.wait()
    plain_loop(slide, tile_ms, part, parts)


def plain_processes(slide: str, tile_ms: float, parts: int) -> tuple[float, float]:
    """Seconds of N plain loops in N processes, a share of the lines each: once they stand, and with their start."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(parts + 1)
    began = time.perf_counter()
    processes = [spawn.Process(target=_part, args=(barrier, slide, tile_ms, k, parts)) for k in range(parts)]
    for process in processes:
        process.start()
    barrier.wait()
    ready = time.perf_counter()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a plain loop failed; its traceback is above")
    return time.perf_counter() - ready, time.perf_counter() - began


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core."""
    cores = os.sched_getaffinity(0)
    try:
        _pin({min(cores)})
        yield
    finally:
        _pin(cores)


def _pin(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):  # threads that are there keep their own cores otherwise
        os.sched_setaffinity(int(thread), cores)


def job(config: SegmentConfig, pool: Pool) -> tuple[float, float, dict[str, Any]]:
    """Seconds of one job, processor seconds of this process, and its report."""
    began, cpu = time.perf_counter(), time.process_time()
    report = segment(config, pool, synthetic.FakeModel())
    return time.perf_counter() - began, time.process_time() - cpu, report


def measure(engine: str, slide: Path, config: SegmentConfig, tile_ms: float) -> dict[str, Any]:
    """One pair, the plain loop first."""
    load = functools.partial(synthetic.FakeModel, tile_ms)
    startup = plain_startup = 0.0
    cpu_ratio = None
    workers = 1
    if engine == "ray":
        workers = n_cores()
        plain, with_start = plain_processes(str(slide), tile_ms, workers)
        plain_startup = with_start - plain
        began = time.perf_counter()
        with RayPool(load, workers) as pool:
            pool.start()
            ray.get([actor.is_ready.remote() for actor in pool._actors])
            startup = time.perf_counter() - began
            seconds, _, report = job(config, pool)
    else:
        with one_core() if engine == "local, one core" else _as_it_is():
            began, plain_cpu = time.perf_counter(), time.process_time()
            plain_loop(str(slide), tile_ms)
            plain, plain_cpu = time.perf_counter() - began, time.process_time() - plain_cpu
            with LocalPool(load) as pool:
                seconds, cpu, report = job(config, pool)
            cpu_ratio = plain_cpu / cpu
    work, timings = report["run"]["work"], report["timings"]
    n_tiles = work["tiles of the grid"]
    return {
        "ratio": plain / seconds,
        "target": TARGETS[engine],
        "ratio_with_startup": (plain + plain_startup) / (seconds + startup),
        "cpu_ratio": cpu_ratio,
        "ratio_per_tile_run": plain / seconds * timings["tiles"] / n_tiles,
        "workers": workers,
        "tiles": n_tiles,
        "tiles_run": timings["tiles"],
        "units": work["units"],
        "plain_tiles_per_s": n_tiles / plain,
        "engine_tiles_per_s": n_tiles / seconds,
        "plain_s": plain,
        "engine_s": seconds,
        "startup_s": startup,
        "plain_startup_s": plain_startup,
        "stages_s": timings["stages"],
        "model_busy": timings["model_busy"],
        "count": report["count"],
    }


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engines", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="pairs to run")
    add("--side", type=int, nargs="+", help="px of the slide (default 12288, and 16384 for ray)")
    add("--unit", type=int, nargs="+", default=[4096, 2048], help="px of a unit (default 4096 2048)")
    add("--shard", type=int, help="px of a shard (default: the unit)")
    add("--tile-ms", type=float, nargs="+", default=[25.0, 2.0], help="model's cost (default 25 2)")
    add("--instances", choices=("components", "split"), default="components", help="default components")
    add("--rounds", type=int, default=1, help="times that each pair is run (default 1)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the slides, run the pairs, print a line for each."""
    args = parse(argv)
    with tempfile.TemporaryDirectory(prefix="fewscope-bench-") as folder:
        picture = synthetic.tissue()
        support = synthetic.write_support(Path(folder) / "support", picture)
        for engine in args.engines:
            for side in args.side or [16384 if engine == "ray" else 12288]:
                slide = Path(folder) / f"{side}.tif"
                if not slide.exists():
                    synthetic.write_repeats(slide, picture, side, side)
                for tile_ms in args.tile_ms:
                    for unit in args.unit:
                        options = synthetic.config_options(
                            slide,
                            support,
                            Path(folder) / "out",
                            unit=unit,
                            shard=args.shard or unit,
                            instances=args.instances,
                            object_radius_um=3.5 if args.instances == "split" else None,
                        )
                        for _ in range(args.rounds):
                            found = measure(engine, slide, SegmentConfig(**options), tile_ms)
                            asked = {"engine": engine, "side_px": side, "unit": unit, "tile_ms": tile_ms}
                            asked |= {"shard": args.shard or unit, "instances": args.instances}
                            emit("engine", asked | found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

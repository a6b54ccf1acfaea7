"""Pyramids of a result: each level is half the size of the one before, computed by a dask graph over the store.

One task makes one shard of the coarser level and is its only writer, so tasks may run anywhere, in parallel and twice.
Pixels stay in the tasks; only names of tasks are sent.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
from dask.delayed import Delayed
from rasterio.windows import Window

from fewscope.connectors.results.store import Name, ResultStore
from fewscope.pipeline.outputs.segmentation import Segmentation

Scheduler = str | Callable[..., Any] | None

NAMES: tuple[Name, ...] = ("probability", "semantic", "instances")


def halve_mean(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Mean of each 2 x 2 block, (h, w) uint8 -> (ceil(h/2), ceil(w/2)) uint8, half rounded up.

    At an odd edge the mean is over the existing pixels.

    >>> halve_mean(np.array([[0, 255, 7], [255, 255, 8]], np.uint8))
    array([[191,   8]], dtype=uint8)
    """
    height, width = image.shape
    # An odd edge is repeated: the mean of a pixel and itself is that pixel.
    padded = (
        np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge") if height % 2 or width % 2 else image
    )
    total = padded[::2, ::2].astype(np.uint16)
    total += padded[1::2, ::2]
    total += padded[::2, 1::2]
    total += padded[1::2, 1::2]
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def halve_labels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every second pixel of a label image, (h, w) -> (ceil(h/2), ceil(w/2))."""
    return image[::2, ::2]


def write_pyramids(segmentation: Segmentation) -> None:
    """Fill the coarser levels of ``result.zarr``, on the workers of the run."""
    build_pyramids(segmentation.plan.config.out, scheduler=segmentation.pool.dask_scheduler)


def build_pyramids(out: str, names: Sequence[Name] | None = None, scheduler: Scheduler = "threads") -> int:
    """Compute the coarser levels from the full resolution, which must be written.

    Parameters
    ----------
    out : str
        Output folder of the run.
    names : sequence of str
        Names of arrays; None: all arrays of the store.
    scheduler : Scheduler
        Str or callable A dask scheduler: "threads", "synchronous", or a ``get`` function. The bytes do not
        depend on it.

    Returns
    -------
    int
        Number of shards processed.

    Notes
    -----
    A task holds one shard of the coarser level and a strip of the finer one, two shards wide and one chunk
    high: 64 MiB + 16 MiB for labels at shard 4096, chunk 512.
    """
    store = ResultStore(out)
    graph = pyramid_graph(store, names or (*NAMES, *store.spec.class_arrays))
    if scheduler != "threads":
        dask.compute(*graph, scheduler=scheduler, optimize_graph=False)
        return len(graph)
    # In dask's own pool, a thread that SIGTERM interrupts as it starts would be waited for at the end of the process.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        dask.compute(*graph, scheduler=scheduler, pool=threads, optimize_graph=False)
    return len(graph)


def pyramid_graph(store: ResultStore, names: Sequence[Name]) -> list[Delayed]:
    """One task per shard of the levels 1, 2, ...; each depends on the tasks of the shards that it reads."""
    spec = store.spec
    make = dask.delayed(make_shard, pure=False, traverse=False)
    graph: list[Delayed] = []
    for name in names:
        finer: dict[tuple[int, int], Delayed] = {}
        for level in range(1, spec.levels):
            height, width = spec.shape(level)
            coarser: dict[tuple[int, int], Delayed] = {}
            for row in range(-(-height // spec.shard)):
                for col in range(-(-width // spec.shard)):
                    below = [(2 * row + i, 2 * col + j) for i in (0, 1) for j in (0, 1)]
                    waits = [finer[key] for key in below if key in finer]
                    key = f"pyramid-{name}-{level}-{row}-{col}"
                    coarser[row, col] = make(store.out, name, level, row, col, *waits, dask_key_name=key)
            graph.extend(coarser.values())
            finer = coarser
    return graph


def make_shard(out: str, name: Name, level: int, row: int, col: int, *waits: object) -> int:
    """Make shard (row, col) of ``level`` from the level below; ``waits`` only orders the tasks."""
    store = ResultStore(out)
    spec = store.spec
    height, width = spec.shape(level)
    top, left = row * spec.shard, col * spec.shard
    shape = min(spec.shard, height - top), min(spec.shard, width - left)
    finer = store.array(name, level - 1)
    halve = halve_labels if name in ("semantic", "instances") else halve_mean
    shard = np.zeros(shape, finer.dtype)
    for start in range(0, shape[0], spec.chunk // 2):  # one row of chunks at a time, each read once
        rows = slice(2 * (top + start), 2 * (top + start) + spec.chunk)
        strip = np.asarray(finer[rows, 2 * left : 2 * (left + spec.shard)])
        if strip.any():
            shard[start : start + spec.chunk // 2] = halve(strip)
    store.write(name, level, Window(left, top, shape[1], shape[0]), shard)
    return level

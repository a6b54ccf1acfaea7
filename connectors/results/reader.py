"""A finished result, opened lazily."""

import json
from dataclasses import dataclass
from typing import Any

import dask.array as da
import pyarrow.dataset

from fewscope.connectors.results.store import Name, ResultStore, StoreSpec
from fewscope.connectors.storage.filesystem import open_filesystem


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished result; data is read when it is used.

    Attributes
    ----------
    out : str
        Output folder.
    spec : StoreSpec
        Size, pixel size, storage.
    probability, semantic, instances : tuple of dask.array.Array
        (height, width) uint8, uint8, uint32: one per pyramid level, full resolution first, chunked by shards.
    class_probabilities : tuple of tuple of dask.array.Array
        The same for the probability of each class, if the run wrote it.
    """

    out: str
    spec: StoreSpec
    probability: tuple[da.Array, ...]
    semantic: tuple[da.Array, ...]
    instances: tuple[da.Array, ...]
    class_probabilities: tuple[tuple[da.Array, ...], ...] = ()

    @property
    def table(self) -> pyarrow.dataset.Dataset:
        """``instances.parquet``, one row per instance, as a pyarrow dataset (filters without loading everything)."""
        fs, root = open_filesystem(self.out)
        return pyarrow.dataset.dataset(f"{root}/instances.parquet", filesystem=fs, format="parquet")

    @property
    def report(self) -> dict[str, Any]:
        """Contents of ``report.json``."""
        fs, root = open_filesystem(self.out)
        report: dict[str, Any] = json.loads(fs.cat_file(f"{root}/report.json"))
        return report


def open_result(out: str) -> Result:
    """Open the output folder of a run, a local path or an fsspec URL.

    Raises
    ------
    ResultNotFound
        There is no result.

    Examples
    --------
    >>> _ = ResultStore("memory://docs/result").create(StoreSpec(height=100, width=70, shard=64, chunk=32))
    >>> result = open_result("memory://docs/result")
    >>> result.instances[0]
    dask.array<from-zarr, shape=(100, 70), dtype=uint32, chunksize=(64, 64), chunktype=numpy.ndarray>
    >>> int((result.semantic[0] > 0).sum().compute())
    0
    """
    store = ResultStore(out)
    spec = store.spec

    def levels(name: Name) -> tuple[da.Array, ...]:
        arrays = [store.array(name, level) for level in range(spec.levels)]
        return tuple(da.from_zarr(array, chunks=array.shards, inline_array=True) for array in arrays)

    by_class = tuple(levels(name) for name in spec.class_arrays)
    return Result(out, spec, levels("probability"), levels("semantic"), levels("instances"), by_class)

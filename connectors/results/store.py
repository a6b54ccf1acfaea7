"""The result store, ``<out>/result.zarr``: OME-Zarr 0.5 on Zarr v3. `connectors.results.reader.open_result` reads it.

::

    result.zarr/0, 1, 2...                    probability, uint8, 0..255 = 0..1; each level half the previous
    result.zarr/classes/1/0, 1, 2...          probability of class 1, 2... as separate images, on request
    result.zarr/labels/semantic/0, 1, 2...    class map, uint8
    result.zarr/labels/instances/0, 1, 2...   instance ids, uint32
    .fewscope/scratch.zarr                    labels of each unit before they are merged, uint32; temporary

A shard is one file and has one writer: two writers in one Zarr shard lose data (zarr-python issue 3682).
Hence `ResultStore.write` takes whole shards only.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from rasterio.windows import Window
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from fewscope.connectors.results.manifest import describe_difference
from fewscope.connectors.results.store_layout import PATHS, SCRATCH, STORE, StoreSpec, metadata, spec_record
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.digests import N_THREADS, Digests, digest_of
from fewscope.connectors.storage.filesystem import is_local, open_filesystem, output_errors, remove, sync
from fewscope.errors import ResultNotFound, RunMismatch

Name = str
"""Name of an array: "probability", "semantic", "instances", "scratch", or one of `StoreSpec.class_arrays`."""


class ResultStore:
    """Arrays of one result, by name and level. Picklable; several processes may use it.

    Parameters
    ----------
    out : str
        The run's output folder, a local path or an fsspec URL (credentials come from the environment).

    Examples
    --------
    >>> store = ResultStore("memory://docs/store")
    >>> _ = store.create(StoreSpec(height=100, width=70, shard=64, chunk=32))
    >>> store.write("semantic", 0, Window(64, 0, 6, 64), np.ones((64, 6), np.uint8))
    >>> int(store.array("semantic")[:].sum())
    384
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self._fs, self._root = open_filesystem(out)
        self._arrays: dict[tuple[str, int], zarr.Array[Any]] = {}
        self._spec: StoreSpec | None = None

    def __reduce__(self) -> tuple[type["ResultStore"], tuple[str]]:
        return ResultStore, (self.out,)

    def create(
        self, spec: StoreSpec, *, overwrite: bool = False, attributes: dict[str, Any] | None = None
    ) -> "ResultStore":
        """Create the empty store, or keep an existing one with the same geometry (resume).

        Of a store that is kept, files of metadata that are missing or damaged are written again.

        Parameters
        ----------
        spec : StoreSpec
        overwrite : bool
            Remove an existing store first.
        attributes : dict, optional
            JSON values, kept under the key ``fewscope`` of the root group. Under ``run`` the hash of the run, by which
            its own store is known whatever else the attributes say.

        Raises
        ------
        RunMismatch
            A store with another geometry exists and ``overwrite`` is False.
        OutputError
            It cannot be written.
        """
        attributes = dict(attributes or {})
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # none there, or damaged
            found = self.attributes
            is_mine = attributes.get("run") is not None and found.get("run") == attributes["run"]
            if not overwrite and not is_mine and self.spec != spec:
                differences = describe_difference(spec_record(self.spec), spec_record(spec))
                raise RunMismatch(f"{self.out}/{STORE} is another result: {differences}; use --overwrite")
        if overwrite:
            for name in (STORE, SCRATCH):
                remove(self._fs, f"{self._root}/{name}")
        self._arrays, self._spec = {}, None
        with output_errors(f"{self.out}/{STORE}"), ThreadPoolExecutor(N_THREADS) as threads:
            *others, (root, record) = metadata(spec, attributes).items()
            for _ in threads.map(lambda item: self._keep(*item), others):
                pass
            self._keep(root, record)  # last, so that a store with these attributes is a whole one
        return self

    def _keep(self, path: str, data: bytes) -> None:
        """Write a file of metadata unless it is there as it should be."""
        try:
            if self._fs.cat_file(f"{self._root}/{path}") == data:
                return
        except FileNotFoundError:
            pass
        write_atomic(self._fs, f"{self._root}/{path}", data)

    @property
    def attributes(self) -> dict[str, Any]:
        """The ``fewscope`` attributes of the root group.

        Raises
        ------
        ResultNotFound
            There is no complete store.
        """
        try:
            attributes = zarr.open_group(self._open(STORE), mode="r", zarr_format=3).attrs.asdict()
        except FileNotFoundError:
            attributes = {}
        except RecursionError as error:
            raise ResultNotFound(
                f"{self.out}/{STORE}/zarr.json is damaged; run the job again with --overwrite"
            ) from error
        if "fewscope" not in attributes:
            raise ResultNotFound(f"{self.out} has no {STORE}; check the path, or run the job first")
        return dict(attributes["fewscope"])  # type: ignore[arg-type]

    @property
    def georeference(self) -> dict[str, Any]:
        """Attributes ``proj:`` and ``spatial:`` of the root group (see `connectors.results.georeference`).

        Raises
        ------
        FileNotFoundError
            There is no store.
        """
        attributes = zarr.open_group(self._open(STORE), mode="r", zarr_format=3).attrs.asdict()
        return {key: value for key, value in attributes.items() if key.startswith(("proj:", "spatial:"))}

    @property
    def spec(self) -> StoreSpec:
        """The store's geometry; ResultNotFound if there is no store."""
        if self._spec is None:
            record = self.attributes["store"]
            lists = {name: tuple(record[name]) for name in ("scale", "class_names")}
            self._spec = StoreSpec(**record | lists)
        return self._spec

    def array(self, name: Name, level: int = 0) -> "zarr.Array[Any]":
        """The Zarr array (height, width) of ``name`` at a pyramid level; "scratch" has level 0 only.

        Raises
        ------
        FileNotFoundError
            There is no store, or no such level.
        """
        key = (name, level)
        if key not in self._arrays:
            store = self._open(SCRATCH if name == "scratch" else STORE)
            folder = "" if name == "scratch" else PATHS.get(name, name)
            path = f"{folder}/{level}".lstrip("/")
            config = {"write_empty_chunks": False}
            self._arrays[key] = zarr.open_array(
                _DigestingStore(store), path=path, mode="r+", zarr_format=3, config=config
            )
        return self._arrays[key]

    def write(self, name: Name, level: int, window: Window, block: npt.NDArray[Any]) -> Digests:
        """Write ``block`` (h, w) to ``window``, whole shards, clipped only at the edge of the array.

        A shard of zeros has no file; an old file is removed.

        Returns
        -------
        dict
            Digest of each shard by its path in the output folder, None where there is no file.

        Raises
        ------
        ValueError
            The window cuts a shard, or ``block`` has another shape or dtype.
        OutputError
            It cannot be written.
        """
        array = self.array(name, level)
        side = self.spec.shard
        row, col, height, width = (
            int(value) for value in (window.row_off, window.col_off, window.height, window.width)
        )
        for start, length, size in zip((row, col), (height, width), array.shape, strict=True):
            stop = start + length
            if start < 0 or start % side or length < 1 or (stop % side and stop != size) or stop > size:
                raise ValueError(
                    f"window rows {row}:{row + height}, cols {col}:{col + width} of {name} {array.shape} "
                    f"is not made of whole shards of {side}; give each shard to one writer"
                )
        if block.shape != (height, width) or block.dtype != array.dtype:
            raise ValueError(
                f"block {block.dtype} {block.shape} does not fit {name}: give {array.dtype} {(height, width)}"
            )
        written: Digests = {}
        for top in range(row, row + height, side):
            for left in range(col, col + width, side):
                part = block[top - row : top - row + side, left - col : left - col + side]
                written |= self._write_shard(array, name, level, top, left, part)
        return written

    def _write_shard(
        self, array: "zarr.Array[Any]", name: Name, level: int, top: int, left: int, part: npt.NDArray[Any]
    ) -> Digests:
        folder = SCRATCH if name == "scratch" else f"{STORE}/{PATHS.get(name, name)}".rstrip("/")
        side = self.spec.shard
        shard = f"{folder}/{level}/c/{top // side}/{left // side}"
        path = f"{self._root}/{shard}"
        with output_errors(path):
            # Zarr would read the old shard and merge. It holds nothing of value, and a power cut may have
            # damaged it, which would make every retry fail.
            with suppress(FileNotFoundError):
                self._fs.rm_file(path)
            if not part.any():
                return {shard: None}
            array[top : top + part.shape[0], left : left + part.shape[1]] = part
            if is_local(self._fs):
                sync(path)  # the done-marker must not reach the disk before the shard
        store = array.store_path.store
        assert isinstance(store, _DigestingStore), "`array` opens no others"
        return {shard: store.digest_of(f"{array.store_path.path}/c/{top // side}/{left // side}".lstrip("/"))}

    def _open(self, name: str) -> Store:
        if is_local(self._fs):
            return zarr.storage.LocalStore(f"{self._root}/{name}")
        return zarr.storage.FsspecStore.from_url(f"{self.out.rstrip('/')}/{name}")


class _DigestingStore(WrapperStore[Store]):
    """A store that keeps the digest of what was written last under each key of a shard, until it is asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        if not key.endswith("zarr.json"):
            with self._lock:
                self._digests[key] = digest_of(np.ascontiguousarray(value.as_numpy_array()).data)

    def digest_of(self, key: str) -> str:
        """Digest of what this store wrote under a key."""
        with self._lock:
            return self._digests.pop(key)

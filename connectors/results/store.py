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
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from affine import Affine
from rasterio.windows import Window
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from fewscope.connectors.colours import class_colour
from fewscope.connectors.results.manifest import describe_difference
from fewscope.connectors.results.run_folder import FOLDER
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.digests import N_THREADS, Digests, digest_of
from fewscope.connectors.storage.filesystem import is_local, open_filesystem, output_errors, remove, sync
from fewscope.errors import ResultNotFound, RunMismatch

Name = str
"""Name of an array: "probability", "semantic", "instances", "scratch", or one of `StoreSpec.class_arrays`."""

STORE = "result.zarr"
SCRATCH = f"{FOLDER}/scratch.zarr"
MAX_TOP_SIDE = 512  # px; the pyramid ends when the longer side is at most this, one chunk

_PATHS: dict[str, str] = {"probability": "", "semantic": "labels/semantic", "instances": "labels/instances"}
_DTYPES: dict[str, str] = {
    "probability": "uint8",
    "semantic": "uint8",
    "instances": "uint32",
    "scratch": "uint32",
}
# Measured on squares of 8192 px: bitshuffle makes the mask smaller, and labels 60 to 90 % larger.
_MASK_CODEC = BloscCodec(typesize=1, cname="zstd", clevel=5, shuffle="bitshuffle")
_PLAIN_CODEC = ZstdCodec(level=3)
_FAST_CODEC = ZstdCodec(level=1)  # written once, read once
_CODECS: dict[str, Any] = {
    "probability": _PLAIN_CODEC,
    "semantic": _MASK_CODEC,
    "instances": _PLAIN_CODEC,
    "scratch": _FAST_CODEC,
}


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Geometry and classes of a result store.

    Attributes
    ----------
    height, width : int
        Size of the working grid, px.
    shard, chunk : int
        Sides of a shard (one file, one writer) and of a chunk (one read), px.
    scale : tuple[float, float]
        (float, float) Size of a pixel (y, x) in ``scale_unit``.
    scale_unit : str or None
        A UDUNITS-2 name such as "micrometer"; None if the size is not known.
    name : str
        Name of the image, shown by viewers.
    class_names : tuple of str
        Names of the values 1, 2... of the class map.
    class_probabilities : bool
        Whether the store has arrays with the probability of each class.

    Raises
    ------
    ValueError
        A value is out of range.

    Examples
    --------
    >>> spec = StoreSpec(height=3000, width=5001, shard=2048)
    >>> spec.levels, spec.shape(0), spec.shape(4)
    (5, (3000, 5001), (188, 313))
    """

    height: int
    width: int
    shard: int
    chunk: int = 512
    scale: tuple[float, float] = (1.0, 1.0)
    scale_unit: str | None = None
    name: str = "fewscope"
    class_names: tuple[str, ...] = ("object",)
    class_probabilities: bool = False

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"size {self.height} x {self.width} is empty; give at least 1 x 1")
        if self.chunk < 2 or self.chunk % 2:
            raise ValueError(
                f"chunk {self.chunk} is not even; use 512"
            )  # strips of pyramids are half a chunk
        if self.shard < self.chunk or self.shard % self.chunk:
            raise ValueError(f"shard {self.shard} is not a multiple of chunk {self.chunk}; use 4096 and 512")
        if not all(np.isfinite(value) and value > 0 for value in self.scale):
            raise ValueError(f"scale {self.scale} is not positive; give the pixel size as (y, x)")

    @property
    def levels(self) -> int:
        """Number of pyramid levels, the full resolution included."""
        levels, side = 1, max(self.height, self.width)
        while side > MAX_TOP_SIDE:
            levels, side = levels + 1, -(-side // 2)
        return levels

    def shape(self, level: int) -> tuple[int, int]:
        """(height, width) at ``level``: each half the previous, rounded up."""
        return -(-self.height // 2**level), -(-self.width // 2**level)

    @property
    def class_arrays(self) -> tuple[str, ...]:
        """Names of the arrays with the probability of each class; empty without `class_probabilities`."""
        values = range(1, len(self.class_names) + 1) if self.class_probabilities else ()
        return tuple(f"classes/{value}" for value in values)

    def labels_transform(self, transform: Affine, level: int) -> Affine:
        """The transform of a label level, given that of level 0, for tracing large objects on it.

        A label pixel of level k samples pixel 2**k * (row, col) of level 0; it is centred on that pixel, so that
        outlines are not shifted on average.
        """
        shift = 0.5 - 2**level / 2
        return transform @ Affine.translation(shift, shift) @ Affine.scale(2**level)


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
                differences = describe_difference(_spec_record(self.spec), _spec_record(spec))
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
            folder = "" if name == "scratch" else _PATHS.get(name, name)
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
        folder = SCRATCH if name == "scratch" else f"{STORE}/{_PATHS.get(name, name)}".rstrip("/")
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


def metadata(spec: StoreSpec, attributes: dict[str, Any]) -> dict[str, bytes]:
    """All files of an empty store by their path in the output folder, those of the root group last."""
    files: dict[str, Buffer] = {}
    scratch: dict[str, Buffer] = {}
    _create_array(
        zarr.create_group(zarr.storage.MemoryStore(scratch), zarr_format=3), "0", spec, "scratch", 0
    )
    root = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    for name in (*_PATHS, *spec.class_arrays):
        path = _PATHS.get(name, name)
        group = root.require_group(path) if path else root
        for level in range(spec.levels):
            _create_array(group, str(level), spec, name, level)
        if path:
            group.attrs.put({"ome": _image_metadata(spec, name)})
    labels = ["semantic", "instances"]
    # Vizarr looks for the list beside "ome", where version 0.4 had it.
    root["labels"].attrs.put({"ome": {"version": "0.5", "labels": labels}, "labels": labels})
    root.attrs.put(
        {
            "ome": _image_metadata(spec, "probability"),
            "fewscope": attributes | {"store": _spec_record(spec)},
        }
    )
    last = files.pop("zarr.json")
    return {
        **{f"{SCRATCH}/{key}": data.to_bytes() for key, data in scratch.items()},
        **{f"{STORE}/{key}": data.to_bytes() for key, data in files.items()},
        f"{STORE}/zarr.json": last.to_bytes(),
    }


def _create_array(group: zarr.Group, path: str, spec: StoreSpec, name: str, level: int) -> None:
    group.create_array(
        path,
        shape=spec.shape(level),
        dtype=_DTYPES.get(name, "uint8"),
        chunks=(spec.chunk, spec.chunk),
        shards=(spec.shard, spec.shard),
        compressors=_CODECS.get(name, _PLAIN_CODEC),
        fill_value=0,
        dimension_names=("y", "x"),
    )


def _spec_record(spec: StoreSpec) -> dict[str, Any]:
    """``spec`` as JSON values."""
    return {
        "height": spec.height,
        "width": spec.width,
        "shard": spec.shard,
        "chunk": spec.chunk,
        "scale": list(spec.scale),
        "scale_unit": spec.scale_unit,
        "name": spec.name,
        "class_names": list(spec.class_names),
        "class_probabilities": spec.class_probabilities,
    }


def _image_metadata(spec: StoreSpec, name: str) -> dict[str, Any]:
    """The ``ome`` attributes of an image or label group (OME-Zarr 0.5)."""
    unit = {"unit": spec.scale_unit} if spec.scale_unit else {}
    is_label = name in ("semantic", "instances")
    datasets = []
    for level in range(spec.levels):
        transformations: list[dict[str, Any]] = [
            {"type": "scale", "scale": [value * 2**level for value in spec.scale]}
        ]
        # Coordinates are those of pixel centres. A mean of 2**k x 2**k pixels lies in their middle; a label
        # is that of the block's first pixel and lies there.
        if level and not is_label:
            shift = [0.5 * (2**level - 1) * value for value in spec.scale]
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    shown, colour = {"probability": spec.name}.get(name, name), "FFFFFF"
    if name in spec.class_arrays:
        value = spec.class_arrays.index(name) + 1
        shown, colour = spec.class_names[value - 1], "{:02X}{:02X}{:02X}".format(*class_colour(value))
    metadata: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": shown,
                "axes": [{"name": axis, "type": "space"} | unit for axis in "yx"],
                "datasets": datasets,
                "type": "nearest" if is_label else "mean",
            }
        ],
    }
    if not is_label:
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        channel = {"label": "probability", "color": colour, "active": True, "window": window}
        model = "greyscale" if name == "probability" else "color"
        metadata["omero"] = {"channels": [channel], "rdefs": {"model": model}}
        return metadata
    # Instances are too many for colours of their own: without a list viewers use a palette, where a short one
    # hides the others in napari.
    metadata["image-label"] = {"version": "0.5", "source": {"image": "../../"}}
    if name == "semantic":  # colours and properties must name the same values
        values = range(1, len(spec.class_names) + 1)
        metadata["image-label"]["colors"] = [
            {"label-value": value, "rgba": [*class_colour(value), 255]} for value in values
        ]
        metadata["image-label"]["properties"] = [
            {"label-value": value, "class": spec.class_names[value - 1]} for value in values
        ]
    return metadata

"""What the result store holds: sizes, levels, classes and compression of its arrays, and its OME-Zarr metadata."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from affine import Affine
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.core.buffer import Buffer

from fewscope.connectors.colours import class_colour
from fewscope.connectors.results.unit_files import FOLDER

STORE = "result.zarr"
SCRATCH = f"{FOLDER}/scratch.zarr"
MAX_TOP_SIDE = 512  # px; the pyramid ends when the longer side is at most this, one chunk

PATHS: dict[str, str] = {"probability": "", "semantic": "labels/semantic", "instances": "labels/instances"}
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


def metadata(spec: StoreSpec, attributes: dict[str, Any]) -> dict[str, bytes]:
    """All files of an empty store by their path in the output folder, those of the root group last."""
    files: dict[str, Buffer] = {}
    scratch: dict[str, Buffer] = {}
    _create_array(
        zarr.create_group(zarr.storage.MemoryStore(scratch), zarr_format=3), "0", spec, "scratch", 0
    )
    root = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    for name in (*PATHS, *spec.class_arrays):
        path = PATHS.get(name, name)
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
            "fewscope": attributes | {"store": spec_record(spec)},
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


def spec_record(spec: StoreSpec) -> dict[str, Any]:
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

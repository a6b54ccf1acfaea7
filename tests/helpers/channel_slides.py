"""Slides of several channels as microscopes' software writes them: OME-TIFF, OME-Zarr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

MARKERS = ("DAPI", "CD3", "CD8", "CD20", "PanCK")


def shrunk(planes: NDArray[Any], factor: int) -> NDArray[Any]:
    """(..., H, W) reduced by a whole factor, each pixel the mean of its block; the rest at the edges is left out."""
    height, width = planes.shape[-2] // factor, planes.shape[-1] // factor
    inner = planes[..., : height * factor, : width * factor]
    blocks = inner.reshape(*planes.shape[:-2], height, factor, width, factor)
    return blocks.mean((-3, -1)).astype(planes.dtype)


def write_ome_tiff(
    path: Path,
    planes: NDArray[Any],
    names: Sequence[str] = MARKERS,
    mpp: float | None = 0.5,
    *,
    factors: Sequence[int] = (2, 4),
    axes: str = "CYX",
    more: Sequence[NDArray[Any]] = (),
    **options: Any,
) -> str:
    """Write ``planes``, of ``axes``, with reduced levels as SubIFDs, and ``more`` images of channels (C, H, W)."""
    metadata: dict[str, Any] = {"axes": axes}
    if "C" in axes and "S" not in axes:
        metadata["Channel"] = {"Name": list(names)[: planes.shape[axes.index("C")]]}
    if mpp is not None:
        metadata |= {f"PhysicalSize{axis}": mpp for axis in "XY"}
    options = {"tile": (128, 128), "compression": "zlib", "photometric": "minisblack"} | options
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        writer.write(planes, subifds=len(factors), metadata=metadata, **options)
        for factor in factors:
            reduced = shrunk(planes, factor) if axes.endswith("YX") else planes[..., ::factor, ::factor, :]
            writer.write(np.ascontiguousarray(reduced), subfiletype=1, **options)
        for image in more:
            writer.write(image, metadata={"axes": "CYX"}, **options)
    return str(path)


def write_qptiff(
    path: Path,
    planes: NDArray[Any],
    names: Sequence[str] = MARKERS,
    mpp: float = 0.5,
    *,
    colours: Sequence[str] = (),
    factors: Sequence[int] = (2, 4),
) -> str:
    """Write ``planes`` (C, H, W) or (1, H, W, 3) as Akoya's scanners do: channel after channel, a thumbnail, and then
    the channels of every reduced level."""
    names = list(names)[: len(planes)]
    colours = colours or ["255,255,255"] * len(planes)
    options: dict[str, Any] = {
        "tile": (128, 128),
        "compression": "zlib",
        "photometric": "minisblack" if planes.ndim == 3 else "rgb",
        "software": "PerkinElmer-QPI",
        "metadata": None,
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path) as writer:
        for factor in (1, *factors):
            for plane, name, colour in zip(planes, names, colours, strict=True):
                kind = "FullResolution" if factor == 1 else "ReducedResolution"
                text = (
                    '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription><Name>Opal</Name>'
                    f"<Biomarker>{name}</Biomarker><Color>{colour}</Color><ImageType>{kind}</ImageType>"
                    "</PerkinElmer-QPI-ImageDescription>"
                )
                reduced = plane[::factor, ::factor] if plane.ndim == 3 else shrunk(plane, factor)
                resolution = (1e4 / mpp / factor,) * 2
                writer.write(
                    reduced, description=text, resolution=resolution, subfiletype=factor > 1, **options
                )
            if factor == 1:
                thumbnail = np.zeros((30, 40, 3), np.uint8)
                writer.write(thumbnail, subfiletype=1, **options | {"tile": None, "photometric": "rgb"})
    return str(path)


def write_imagej(
    path: Path, planes: NDArray[Any], names: Sequence[str] = (), mpp: float | None = 0.5, **metadata: Any
) -> str:
    """Write ``planes`` (C, H, W), or of the ``axes`` given, as Fiji saves a stack."""
    known = {"axes": "CYX"} | ({"Labels": list(names)} if names else {}) | metadata
    if mpp is not None:
        known["unit"] = "micron"
    tifffile.imwrite(
        path, planes, imagej=True, metadata=known, resolution=(1 / mpp, 1 / mpp) if mpp is not None else None
    )
    return str(path)


def write_ome_zarr(
    path: Path | str,
    planes: NDArray[Any],
    names: Sequence[str] = MARKERS,
    mpp: float | None = 0.5,
    *,
    version: str = "0.5",
    factors: Sequence[int] = (1, 2, 4),
    chunk: int = 128,
    axes: str = "cyx",
    group: zarr.Group | None = None,
    seconds: float | None = None,
) -> str:
    """Write ``planes``, of ``axes``, as a multiscale image of OME-Zarr 0.4 or 0.5; ``seconds`` between time points."""
    zarr_format: Any = 3 if version == "0.5" else 2
    group = group if group is not None else zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    kinds = {"c": "channel", "t": "time"}
    described = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in described:
        if axis["type"] == "space" and mpp is not None:
            axis["unit"] = "micrometer"
        if axis["type"] == "time" and seconds is not None:
            axis["unit"] = "second"
    datasets = []
    for number, factor in enumerate(factors):
        reduced = shrunk(planes, factor)
        chunks = (1,) * (planes.ndim - 2) + (chunk, chunk)
        options: dict[str, Any] = (
            {} if zarr_format == 3 else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        )
        array = group.create_array(
            str(number), shape=reduced.shape, chunks=chunks, dtype=planes.dtype, **options
        )
        array[...] = reduced
        steps = {"y": (mpp or 1.0) * factor, "x": (mpp or 1.0) * factor, "t": seconds or 1.0}
        scale = [steps.get(axis, 1.0) for axis in axes]
        datasets.append(
            {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    ome: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets, "name": "image"}]}
    if names and "c" in axes:
        n_channels = planes.shape[axes.index("c")]
        ome["omero"] = {"channels": [{"label": name, "color": "FFFFFF"} for name in names[:n_channels]]}
    if version == "0.5":
        group.attrs["ome"] = {"version": version} | ome
    else:
        ome["multiscales"][0]["version"] = version
        group.attrs.update(ome)
    return str(path)

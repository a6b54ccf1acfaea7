"""Write slides: tiled, pyramidal TIFFs with a resolution, which OpenSlide and QuPath open.

For images that are not slides yet (a PNG, a plain TIFF), and for synthetic slides of demos, tests and benchmarks.
Pixels are requested in full-width bands, so that a slide of any size is written in bounded memory.

    python -m fewscope.connectors.slides.pyramid_tiff picture.png slide.tif --mpp 0.5
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from fewscope.connectors.source import PLAUSIBLE_MPP
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

ReadBlock = Callable[[Window], NDArray[np.uint8]]
"""Window -> uint8 (h, w, 3). Windows are full-width bands, requested once each, from top to bottom."""

BAND_BYTES = (
    32 * 2**20
)  # of RGB held at once while writing; a 100,000 px wide slide gives bands of one tile row
TOP_LEVEL_SIDE = 1024  # the default pyramid stops when its longer side is at most this


def write_pyramid(
    path: str | os.PathLike[str],
    image: NDArray[np.uint8] | tuple[int, int, ReadBlock],
    mpp: float | None,
    *,
    tile: int = 256,
    overviews: Sequence[int] | None = None,
    compress: Literal["deflate", "jpeg"] = "deflate",
    quality: int = 90,
) -> None:
    """Write an image as a slide.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    image
        uint8 (H, W, 3), or ``(H, W, read_block)`` to stream it.
    mpp
        um per px, written as the TIFF resolution; None for a slide without a resolution.
    tile
        Side of the stored tiles in px, a multiple of 16.
    overviews
        Factors of the coarser levels; None: 2, 4, ... until the longer side is at most 1024 px.
    compress
        ``"deflate"`` is lossless; ``"jpeg"``, at ``quality``, is what scanners write.

    Raises
    ------
    ValueError
        An argument is out of range.
    OutputError
        The file cannot be written.
    """
    if isinstance(image, tuple):
        height, width, read_block = image
    else:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype} {image.shape}; a slide is uint8 of shape (H, W, 3)")
        array = image
        height, width = array.shape[:2]

        def read_block(window: Window) -> NDArray[np.uint8]:
            return array[window.row_off : window.row_off + window.height]

    if min(height, width) < 1:
        raise ValueError(f"an image of {height} x {width} px has no pixels")
    if tile < 16 or tile % 16:
        raise ValueError(f"tile {tile} is not a multiple of 16; TIFF asks for that, use 256")
    if mpp is not None and not mpp > 0:
        raise ValueError(f"mpp {mpp} is not positive; give um per pixel, or None to write none")
    if overviews is None:
        overviews = []
        while max(height, width) / 2 ** len(overviews) > TOP_LEVEL_SIDE:
            overviews.append(2 ** (len(overviews) + 1))

    profile: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8",
        "tiled": True, "blockxsize": tile, "blockysize": tile, "interleave": "pixel", "bigtiff": "if_safer",
    }  # fmt: skip
    jpeg_options = {}
    if compress == "jpeg":
        profile |= {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": quality}
        jpeg_options = {"JPEG_QUALITY_OVERVIEW": str(quality), "PHOTOMETRIC_OVERVIEW": "YCBCR"}
    elif compress == "deflate":
        profile |= {"compress": "deflate", "photometric": "rgb", "zlevel": 1, "predictor": 2}
    else:
        raise ValueError(f"compress {compress!r} is not known; use 'deflate' or 'jpeg'")

    band = max(1, BAND_BYTES // (3 * width * tile)) * tile
    with atomic_file(os.fspath(path)) as unfinished, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # slides have no place on earth
        with gdal(), rasterio.Env(**jpeg_options):
            with rasterio.open(unfinished, "w", **profile) as slide:
                if mpp is not None:
                    pixels_per_cm = repr(1e4 / float(mpp))
                    slide.update_tags(
                        TIFFTAG_RESOLUTIONUNIT="3 (pixels/cm)",
                        TIFFTAG_XRESOLUTION=pixels_per_cm,
                        TIFFTAG_YRESOLUTION=pixels_per_cm,
                    )
                for row in range(0, height, band):
                    window = Window(0, row, width, min(band, height - row))
                    slide.write(np.moveaxis(_checked(read_block(window), window), 2, 0), window=window)
            with rasterio.Env(GDAL_TIFF_OVR_BLOCKSIZE=tile), rasterio.open(unfinished, "r+") as slide:
                if overviews:
                    slide.build_overviews(list(overviews), Resampling.average)


def _checked(block: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    if block.shape != (window.height, window.width, 3) or block.dtype != np.uint8:
        raise ValueError(
            f"read_block gave {block.dtype} {block.shape}, expected uint8 {(window.height, window.width, 3)}"
        )
    return block


def convert(
    picture: str, path: str, mpp: float | None, compress: Literal["deflate", "jpeg"] = "jpeg"
) -> None:
    """Convert an 8-bit image (PNG, JPEG, plain TIFF: grey, palette, RGB, alpha) to a slide, band by band.

    Alpha is composited over white.

    Raises
    ------
    SourceError
        It is not an 8-bit image.
    OutputError
        The slide cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            opened = rasterio.open(picture)
        except RasterioError as error:
            raise SourceError(f"{picture}: not a picture that can be converted ({error})") from error
        with opened as source:
            if len(source.subdatasets) > 1:
                n_pictures = len(source.subdatasets)
                raise SourceError(f"{picture}: holds {n_pictures} pictures; save the one you want separately")
            if source.count == 0 or set(source.dtypes) != {"uint8"}:
                kinds = ", ".join(sorted(set(source.dtypes))) or "no pixels"
                raise SourceError(
                    f"{picture}: has {kinds}, expected 8-bit pixels; stretch it to 8 bits first"
                )
            meaning = source.colorinterp
            if source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE", "").endswith("LAB"):
                raise SourceError(
                    f"{picture}: is a CIELAB picture, whose white point is not certain; convert it to RGB first"
                )
            if ColorInterp.cyan in meaning:
                raise SourceError(f"{picture}: is a CMYK picture; convert it to RGB first")
            has_alpha = meaning[-1] == ColorInterp.alpha
            n_colours = source.count - has_alpha
            if n_colours not in (1, 3):
                raise SourceError(f"{picture}: has {n_colours} colour bands, expected 1 (grey) or 3 (RGB)")
            palette = None
            if meaning[0] == ColorInterp.palette:
                palette = np.full((256, 4), 255, np.uint8)
                for index, colour in source.colormap(1).items():
                    palette[index] = colour

            def read_block(window: Window) -> NDArray[np.uint8]:
                block = np.moveaxis(source.read(window=window), 0, 2)
                if palette is not None:
                    return _over_white(palette[block[..., 0]])
                colours = np.repeat(block[..., :1], 3, 2) if n_colours == 1 else block[..., :3]
                if has_alpha:
                    return _over_white(np.concatenate([colours, block[..., -1:]], 2))
                return np.ascontiguousarray(colours)

            try:
                write_pyramid(path, (source.height, source.width, read_block), mpp, compress=compress)
            except RasterioError as error:
                raise SourceError(f"{picture}: cannot be converted ({error})") from error


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 = written, 2 = bad input with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m fewscope.connectors.slides.pyramid_tiff",
        description="Turn a picture into a slide.",
    )
    parser.add_argument("image", help="PNG, JPEG or plain TIFF of 8 bits")
    parser.add_argument("out", help="the .tif to write")
    parser.add_argument("--mpp", type=float, required=True, help="micrometres per pixel of the picture")
    parser.add_argument("--compress", choices=["jpeg", "deflate"], default="jpeg", help="deflate is lossless")
    chosen = parser.parse_args(arguments)
    try:
        if not PLAUSIBLE_MPP[0] <= chosen.mpp <= PLAUSIBLE_MPP[1]:
            low, high = PLAUSIBLE_MPP
            raise SourceError(
                f"--mpp {chosen.mpp}: not a microscope's resolution, expected {low}..{high} um per px"
            )
        convert(chosen.image, chosen.out, chosen.mpp, chosen.compress)
    except (SourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

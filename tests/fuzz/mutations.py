"""Damaged copies of right files: bytes, and fields of TIFF directories."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hypothesis import strategies as st

TIFF_FIELDS = {
    254: "subfile type",
    256: "width",
    257: "height",
    258: "bits",
    259: "compression",
    262: "photometric",
    273: "strip offsets",
    277: "samples",
    278: "rows in a strip",
    282: "x resolution",
    284: "planar",
    317: "predictor",
    322: "tile width",
    323: "tile height",
    324: "tile offsets",
    325: "tile sizes",
    338: "extra samples",
    339: "sample format",
    347: "JPEG tables",
    33550: "pixel scale",
    33922: "tie points",
    34735: "geo keys",
    42112: "GDAL's metadata",
    42113: "nodata",
}
ODD_NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 255, 256, 4096, 59904, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A copy of `data` with one to four faults: bits flipped, cut off, repeated, removed, overwritten, swapped."""
    copy = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        size = len(copy)
        # headers are short and decide most: half of all faults are among the first bytes
        place = draw(st.one_of(st.integers(0, min(size, 512)), st.integers(0, size)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64, 1024)))
        match draw(st.sampled_from(("flip", "cut", "repeat", "remove", "overwrite", "swap", "insert"))):
            case "flip" if place < size:
                copy[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del copy[place:]
            case "repeat":
                copy[place:place] = copy[place : place + length]
            case "remove":
                del copy[place : place + length]
            case "overwrite":
                copy[place : place + length] = draw(st.sampled_from((b"\0", b"\xff", b"9", b"A"))) * min(
                    length, size - place
                )
            case "swap":
                other = draw(st.integers(0, size))
                here, there = bytes(copy[place : place + length]), bytes(copy[other : other + length])
                if len(here) == len(there) and abs(place - other) >= length:
                    copy[place : place + length], copy[other : other + length] = there, here
            case "insert":
                copy[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(copy)


def tiff_entries(data: bytes) -> Iterator[tuple[int, int]]:
    """(tag, place of its twelve bytes) in all directories of a classic little-endian TIFF."""
    (directory,) = struct.unpack_from("<I", data, 4)
    while directory:
        (count,) = struct.unpack_from("<H", data, directory)
        for index in range(count):
            place = directory + 2 + 12 * index
            yield struct.unpack_from("<H", data, place)[0], place
        (directory,) = struct.unpack_from("<I", data, directory + 2 + 12 * count)


@st.composite
def damaged_tiff(draw: st.DrawFn, data: bytes) -> bytes:
    """A TIFF with one to three fields changed (tag, type, count, or value), removed, or chained into a loop."""
    entries = [(tag, place) for tag, place in tiff_entries(data) if tag in TIFF_FIELDS]
    copy = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        _, place = draw(st.sampled_from(entries))
        match draw(st.sampled_from(("value", "value", "value", "count", "type", "remove", "target", "loop"))):
            case "value":
                struct.pack_into("<I", copy, place + 8, draw(st.sampled_from(ODD_NUMBERS)))
            case "count":
                struct.pack_into("<I", copy, place + 4, draw(st.sampled_from(ODD_NUMBERS)))
            case "type":
                struct.pack_into("<H", copy, place + 2, draw(st.integers(0, 18)))
            case "remove":
                struct.pack_into("<H", copy, place, 65000)
            case "target":  # what a count says is there: offsets and sizes of tiles, resolutions, keys
                (target,) = struct.unpack_from("<I", copy, place + 8)
                if target + 4 <= len(copy):
                    struct.pack_into("<I", copy, target, draw(st.sampled_from(ODD_NUMBERS)))
            case "loop":  # where the right file has it: a fault before this one may have changed the count
                (directory,) = struct.unpack_from("<I", data, 4)
                (count,) = struct.unpack_from("<H", data, directory)
                struct.pack_into("<I", copy, directory + 2 + 12 * count, directory)
    return bytes(copy)

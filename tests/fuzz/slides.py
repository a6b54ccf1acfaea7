"""Slides that are damaged or hostile."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

from hypothesis import strategies as st

from fewscope.connectors.open import open_source
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged, damaged_tiff, tiff_entries
from tests.fuzz.workplace import SIDE, Options, use_source, workplace
from tests.helpers import fakes


@functools.cache
def slide_bytes(compress: str) -> bytes:
    path = workplace() / f"{compress}.tif"
    from fewscope.connectors.slides.pyramid_tiff import write_pyramid

    write_pyramid(path, fakes.picture(SIDE, SIDE), fakes.MPP, tile=128, overviews=[2], compress=compress)  # type: ignore[arg-type]
    return path.read_bytes()


@st.composite
def huge_tiles(draw: st.DrawFn, data: bytes) -> bytes:
    """A TIFF that states a huge tile, or a huge picture, and holds a few bytes of it."""
    copy = bytearray(data)
    tags = draw(st.sampled_from(((322, 323), (256, 257, 322, 323), (256, 257), (257,), (322,))))
    # without huge tiles, a picture of 100,000 px is a right one, which takes minutes to read
    side = draw(st.sampled_from((16_384, 59_904, 99_840, 2**31 - 16) if 322 in tags else (8192, 2**31 - 16)))
    for tag, place in tiff_entries(data):
        if tag in tags:
            struct.pack_into("<HII", copy, place + 2, 4, 1, side)
    return bytes(copy)


@st.composite
def slides(draw: st.DrawFn) -> Case:
    data = slide_bytes(draw(st.sampled_from(("deflate", "jpeg"))))
    data = draw(st.one_of(damaged(data), damaged_tiff(data), damaged_tiff(data), huge_tiles(data)))
    entry = draw(st.sampled_from(("slide.tif", "a slide ä.svs", "x.ndpi")))
    return Case({entry: data}, entry, {"slide_mpp": draw(st.sampled_from((None, 0.5)))})


def use_slide(path: Path, options: Options) -> None:
    use_source(open_source(str(path), mpp=0.5, slide_mpp=options["slide_mpp"]))

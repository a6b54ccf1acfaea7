"""Slides of channels that are damaged or hostile: OME-TIFF, QPTIFF, stacks of ImageJ, OME-Zarr."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fewscope.connectors.open import open_source
from fewscope.connectors.slide_options import SlideOptions
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged, damaged_tiff
from tests.fuzz.workplace import SIDE, Options, use_source, workplace
from tests.helpers.channel_slides import write_imagej, write_ome_tiff, write_ome_zarr, write_qptiff

WRITERS = {
    "slide.ome.tif": write_ome_tiff,
    "slide.qptiff": write_qptiff,
    "slide ä.tif": write_imagej,
    "slide.zarr": write_ome_zarr,
    "old.zarr": functools.partial(write_ome_zarr, version="0.4"),
}
"""By the name that is given to Fewscope."""

CLASSIC = ("slide.qptiff", "slide ä.tif")
"""Whose directories are those of a classic TIFF."""

ODD_TEXTS = (
    "0",
    "-1",
    "3.5",
    "65536",
    "4294967296",
    "1e400",
    "null",
    "",
    "CYX",
    "µm",
    "<",
    "&lol;",
    "../../x",
)


@functools.cache
def right_files(entry: str) -> dict[str, bytes]:
    """Of a slide of five channels, by their paths."""
    folder = workplace() / "channels"
    folder.mkdir(exist_ok=True)
    planes = np.random.default_rng(0).integers(0, 4000, (5, SIDE, SIDE)).astype(np.uint16)
    WRITERS[entry](folder / entry, planes)
    path = folder / entry
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(one.relative_to(folder)): one.read_bytes() for one in files if one.is_file()}


@st.composite
def reworded(draw: st.DrawFn, data: bytes) -> bytes:
    """A copy in which a value of the metadata, in quotes or between tags, is another text."""
    places = [i for i in range(len(data)) if data[i : i + 1] in (b'"', b">", b"=", b":", b"[", b",")][:4000]
    if not places:
        return data
    start = draw(st.sampled_from(places)) + 1
    length = draw(st.sampled_from((0, 1, 2, 4, 8)))
    return data[:start] + draw(st.sampled_from(ODD_TEXTS)).encode() + data[start + length :]


@st.composite
def channel_slides(draw: st.DrawFn) -> Case:
    entry = draw(st.sampled_from(sorted(WRITERS)))
    files = dict(right_files(entry))
    metadata = [name for name in files if name.endswith((".json", ".zattrs", ".zarray", ".zgroup"))]
    name = draw(st.sampled_from(metadata or sorted(files)))
    if metadata and draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(files)))
    faults = [damaged(files[name]), reworded(files[name])]
    if entry in CLASSIC:
        faults.append(damaged_tiff(files[name]))
    files[name] = draw(st.one_of(faults))
    if metadata and draw(st.integers(0, 9)) == 0:
        del files[name]
    options = {
        "slide_mpp": draw(st.sampled_from((None, 0.5))),
        "channels": draw(st.sampled_from(((), ("DAPI",), ("2", "4"), ("CD3", "CD8", "1", "5")))),
    }
    return Case(files, entry, options)


def use_channel_slide(path: Path, options: Options) -> None:
    slide = SlideOptions(tuple(options["channels"]))
    use_source(open_source(str(path), mpp=0.5, slide_mpp=options["slide_mpp"], slide=slide))

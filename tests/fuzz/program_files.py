"""Annotations of ImageScope, ASAP, NDP.view and ImageJ that are damaged or hostile."""

from __future__ import annotations

import functools
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import shapely
from affine import Affine
from hypothesis import strategies as st

from fewscope.connectors.open import open_source
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged
from tests.fuzz.workplace import NAMES, SIDE, Options, workplace
from tests.helpers import drawn_files, fakes

DRAWING = [
    ("Region*", shapely.box(40, 40, 240, 240)),
    ("nucleus", shapely.Point(100, 100).buffer(20, 3)),
    ("nucleus", shapely.box(140, 60, 190, 110)),
    ("vessel", shapely.box(60, 150, 110, 190)),
]
TO_NM = Affine.translation(1_000_000, -500_000) @ Affine.scale(500)
XML = {
    "a.xml": drawn_files.imagescope(DRAWING),
    "b.xml": drawn_files.asap(DRAWING),
    "a.ndpa": drawn_files.ndpview(DRAWING, TO_NM),
}
WORDS = (
    b'"0"',
    b'"1"',
    b'"',
    b"X=",
    b"Region",
    b"nucleus",
    b"Polygon",
    b"1",
    b"</",
    b"<point>",
    b"nanometers",
    b".000",
)
ODD = (
    *(b"", b'"2"', b'"3"', b"nan", b"1e999", b"-1e300", b"9" * 400, b"0,5", b" ", b"\xff"),
    *(
        b"<a>" * 3000,
        b"&lt;",
        b"&x;",
        b"&#10;",
        b"<![CDATA[",
        b"<!-- ",
        b"?>",
        b"<!DOCTYPE a [<!ENTITY x 'y'>]>",
    ),
    *(b"Not*", b"Ignore", b"Rectangle", b"Dot"),
)


@functools.cache
def glass_slide() -> Source:
    """A slide that states where it lies on the glass."""
    path = workplace() / "glass-slide.tif"
    source = open_source(fakes.write_slide(path, fakes.picture(SIDE, SIDE)), mpp=fakes.MPP)
    source._info = replace(source.info, from_glass_nm=~TO_NM)
    return source


@st.composite
def odd_xml(draw: st.DrawFn, data: bytes) -> bytes:
    """A document with one to three words replaced, once or everywhere; some damaged."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(data))
    for _ in range(draw(st.integers(1, 3))):
        old, new = draw(st.sampled_from(WORDS)), draw(st.sampled_from(ODD))
        data = data.replace(old, new, draw(st.sampled_from((1, 3, -1))))
        if len(data) > 2**22:
            break
    return data


@st.composite
def program_files(draw: st.DrawFn) -> Case:
    names = {"class_names": draw(st.sampled_from(NAMES))}
    entry = draw(st.sampled_from((*XML, "a.roi", "RoiSet.zip")))
    if entry in XML:
        return Case({entry: draw(odd_xml(XML[entry]))}, entry, names)
    rois = [drawn_files.roi(name, shape, k).tobytes() for k, (name, shape) in enumerate(DRAWING)]
    broken = draw(st.integers(0, len(rois) - 1))
    rois[broken] = draw(damaged(rois[broken]))
    if entry == "a.roi":
        return Case({entry: rois[broken]}, entry, names)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, data in enumerate(rois):
            archive.writestr(zipfile.ZipInfo(f"{number}.roi"), data)
    packed = buffer.getvalue()
    return Case({entry: draw(damaged(packed)) if draw(st.booleans()) else packed}, entry, names)


def use_program_file(path: Path, options: Options) -> None:
    load_support(str(path), source=glass_slide(), **options)

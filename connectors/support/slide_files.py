"""Annotations on slides, of whatever program: what a file holds decides who reads it, not how its name ends."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Sequence

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.storage.safe_xml import parse_xml, tag_of
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.asap_files import read_asap
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.support.imagej_rois import ROI_HEAD, ZIP_HEADS, read_rois
from fewscope.connectors.support.imagescope_files import read_imagescope
from fewscope.connectors.support.ndpview_files import read_ndpview
from fewscope.connectors.support.program_files import tell_origin
from fewscope.connectors.support.qupath_files import json_text, read_qupath, stated_times
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError

MAX_FILE_BYTES = 512 * 2**20
MAX_XML_BYTES = 128 * 2**20  # of two million vertices; in memory it takes ten times as much
GZIP_HEAD = b"\x1f\x8b"
BEFORE_XML = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"  # byte order marks, the zeros of UTF-16, white space


def read_slide_file(
    uri: str, info: SourceInfo, options: SupportOptions, cores: bool = False
) -> AnnotationFile:
    """Annotations in a file that was drawn on the slide of ``info``, in level-0 pixels.

    ``cores``: as places rather than labels: with the cores of a tissue microarray, see `read_qupath`, and of all time
    points.

    Raises
    ------
    SupportError
        It cannot be read, is of none of the known kinds, or cannot be placed on the slide.
    """
    content = _content(uri)
    if content.startswith((ROI_HEAD, *ZIP_HEADS)):
        found = read_rois(uri, content)
    elif content[:64].lstrip(BEFORE_XML).startswith(b"<"):
        found = _read_xml(uri, content, info)
    else:
        text = json_text(uri, content)
        del content  # what is parsed takes more
        time = info.time.number if info.time is not None and not cores else None
        plane = info.z + 1 if info.z is not None and not cores else None
        return read_qupath(uri, text, options, cores, time, plane)
    tell_origin(uri, found, info)
    return found


def time_drawn_on(uris: Sequence[str]) -> int | None:
    """Time point, counted from 1, on which all of these files of annotations state that they were drawn.

    None if one of them states none, as QuPath does at the first, or another one, or cannot be read.
    """
    found: set[int | None] = set()
    for uri in uris:
        times: set[int] = set()
        with contextlib.suppress(SupportError):  # whoever reads its outlines says why
            content = _content(uri)
            if content.lstrip(BEFORE_XML)[:1] in (b"{", b"["):
                times = stated_times(uri, json_text(uri, content))
        found |= times or {None}
    return found.pop() if len(found) == 1 else None


def _read_xml(uri: str, content: bytes, info: SourceInfo) -> AnnotationFile:
    if len(content) > MAX_XML_BYTES:
        raise SupportError(
            f"{uri}: has {len(content) / 2**20:.0f} MiB of XML, more than the {MAX_XML_BYTES // 2**20} MiB allowed; "
            "keep the annotations that are needed"
        )
    root = parse_xml(uri, content, SupportError)
    name = tag_of(root)
    if name == "ASAP_Annotations":
        return read_asap(uri, root)
    if name == "annotations":
        return read_ndpview(uri, root, info)
    if name == "Annotations":
        return read_imagescope(uri, root, info)
    raise SupportError(
        f"{uri}: its XML begins with <{name[:40]}>, which is none of the formats that are read; give a file of "
        "ImageScope, ASAP or NDP.view, or export GeoJSON from QuPath"
    )


def _content(uri: str) -> bytes:
    """Content of a file, unpacked if it is gzipped."""
    try:
        filesystem, path = find_filesystem(uri)
    except Exception as error:  # unknown protocol, missing driver: each its own exception
        raise SupportError(f"{uri}: cannot be reached ({' '.join(str(error).split())})") from error
    content = read_bytes(filesystem, path, uri, MAX_FILE_BYTES)
    if not content.startswith(GZIP_HEAD):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as unpacked:
            content = unpacked.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise SupportError(f"{uri}: cannot be unpacked ({reason}); export it again") from error
    if len(content) > MAX_FILE_BYTES:
        raise SupportError(f"{uri}: unpacks to more than {MAX_FILE_BYTES // 2**20} MiB; export fewer objects")
    return content

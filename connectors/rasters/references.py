"""References inside rasters: a VRT, or the description of a service, makes GDAL read other files and addresses.

Whoever writes such a file decides what is read on the machine that opens it, and where requests are sent. Fewscope
opens a ``.vrt`` whose sources lie in its own folder, or below. Everything else has to be allowed by the user.
"""

from __future__ import annotations

import os
import re
from xml.etree import ElementTree

from fewscope.errors import SourceError

HEAD_BYTES = 4096
MAX_VRT_BYTES = 64 * 2**20
MAX_DEPTH = 8
"""VRTs of VRTs; GDAL itself gives up at some depth."""

REFERRING_DRIVERS = frozenset(
    ("VRT", "WMS", "WMTS", "WCS", "STACIT", "STACTA", "GTI", "OGCAPI", "DAAS", "EEDAI", "TileDB")
)
"""GDAL drivers whose files name others. Of a file that cannot be looked into before, this is known when it is open."""

REFERENCE_TAGS = re.compile(r"(filename|dataset|url|file)$", re.IGNORECASE)
"""Elements of a VRT that hold a name: SourceFilename, SourceDataset, IndexDataset, ServerUrl..."""

SERVICES = (
    b"<GDAL_",
    b"<GDALTileIndex",
    b"<WCS_GDAL",
    b"<WMS_",
    b"<WMT_",
    b"<Capabilities",
    b"<TMS",
    b"<TileMap",
)
"""How documents begin with which GDAL opens a service. Other XML is metadata of a product (Sentinel-2, DIMAP)."""

CURE = "check what it refers to, and allow it with --allow-remote-references"


def check_references(path: str, uri: str) -> bool:
    """Refuse a local file that makes GDAL read files outside its folder, or addresses.

    Parameters
    ----------
    path : str
        Local path of the file. Nothing is checked where there is no such file: archives, addresses.
    uri : str
        Its name in errors.

    Returns
    -------
    Whether the file was looked into; else `check_driver` decides, once it is open.

    Raises
    ------
    SourceError
        It refers to something outside its folder, or is such a file under the name of another kind.
    """
    return os.path.isfile(path) and _check(path, os.path.realpath(os.path.dirname(path) or "."), uri, 0)


def check_driver(driver: str, uri: str) -> None:
    """Refuse a file, opened without having been looked into, of a GDAL driver that reads other files.

    Raises
    ------
    SourceError
        The driver is one of `REFERRING_DRIVERS`.
    """
    if driver in REFERRING_DRIVERS:
        raise SourceError(f"{uri}: is a {driver}, which makes GDAL read other files or addresses; {CURE}")


def _check(path: str, folder: str, uri: str, depth: int) -> bool:
    """`check_references` for a file that a VRT in `folder`, `depth` levels up, may read."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"{" and b'"' in head:
        raise SourceError(
            f"{uri}: is JSON, with which GDAL would read other files; a STAC item has to be named .json"
        )
    if any(beginning in head for beginning in SERVICES):
        raise SourceError(f"{uri}: is the description of a service (XML), not a raster; {CURE}")
    if b"<VRTDataset" not in head:
        return False
    if head[:1] != b"<":  # GDAL finds the element wherever it begins
        raise SourceError(
            f"{uri}: is a damaged VRT (something stands before its first element); make it anew"
        )
    if depth == 0 and not path.lower().endswith(".vrt"):
        raise SourceError(
            f"{uri}: is a VRT under another name, which makes GDAL read other files; name it .vrt if that is meant"
        )
    if depth > MAX_DEPTH:
        raise SourceError(f"{uri}: is a VRT of VRTs, more than {MAX_DEPTH} deep; make it anew")
    for name, is_relative in _names_in(path, uri):
        target = os.path.join(os.path.dirname(path), name) if is_relative else name
        if _is_address(name):
            raise SourceError(f"{uri}: refers to {name!r}, which is no file of its folder; {CURE}")
        inside = os.path.realpath(target)
        if os.path.commonpath([folder, inside]) != folder:
            raise SourceError(f"{uri}: refers to {name!r}, outside its own folder; {CURE}")
        if os.path.isfile(inside) and inside != os.path.realpath(path):
            _check(inside, folder, uri, depth + 1)
    return True


def _names_in(path: str, uri: str) -> list[tuple[str, bool]]:
    """Names that a VRT holds, and whether each is relative to it."""
    if os.path.getsize(path) > MAX_VRT_BYTES:
        raise SourceError(
            f"{uri}: is a VRT of more than {MAX_VRT_BYTES // 2**20} MiB; make a mosaic in parts"
        )
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise SourceError(f"{uri}: is a damaged VRT ({error}); make it anew") from error
    for source in root.iter("KernelFilteredSource"):
        if not _is_number((source.findtext("Kernel/Size") or "").strip()):
            # reading it would end the process
            raise SourceError(f"{uri}: is a VRT with a KernelFilteredSource that has no kernel; make it anew")
    names: dict[tuple[str, bool], None] = {}
    for element in root.iter():
        text = (element.text or "").strip()
        if text and not len(element) and REFERENCE_TAGS.search(element.tag):
            relative = element.get("relativeToVRT", element.get("relativetoVRT", "0")) == "1"
            names[text, relative or not os.path.isabs(text)] = None
    return list(names)


def _is_number(text: str) -> bool:
    """Whether GDAL takes a text for a whole number above 0."""
    return text.isdecimal() and int(text) > 0


def _is_address(name: str) -> bool:
    """Whether GDAL takes a name for more than a path: ``https://``, ``/vsicurl/``, ``WMS:``, an inline document."""
    return (
        "://" in name
        or name.lstrip().startswith(("<", "{", "/vsi", "\\vsi"))
        or re.match(r"[A-Za-z][A-Za-z0-9_]+:", name) is not None
    )

"""What the page says of the source of a run."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import unquote, urlsplit


def title_of(info: Any) -> str:
    """Name of the file of a `connectors.source.SourceInfo`, and which of its time points."""
    return _name(info.uri) + (f", time point {info.time.number}" if info.time else "")


def source_facts(info: Any) -> dict[str, Any]:
    """Facts of a `connectors.source.SourceInfo`, by their names, in the order of the page."""
    facts = {
        "file": info.uri,
        "format": info.vendor,
        "channels" if info.kind == "slide" else "bands": info.bands,
        "plane": info.plane,
        "time point": _time_in_words(info),
        "size at full resolution": f"{info.native_width:,} × {info.native_height:,} px",
        "resolution of the file": _resolution(info),
        "resolution from": info.mpp_source,
        "analysed at": f"{info.mpp:.4g} µm per px" if info.mpp else _pixel_size(info) or "full resolution",
        "size as analysed": f"{info.width:,} × {info.height:,} px",
        "coordinate system": info.crs,
        "fingerprint": info.fingerprint,
    }
    return {name: value for name, value in facts.items() if value}


def _time_in_words(info: Any) -> str:
    if info.time is None:
        return ""
    after = "" if info.time.seconds is None else f", {info.time.seconds:,.6g} s after the first"
    return f"{info.time.number} of {info.time.total}{after}"


def _resolution(info: Any) -> str | None:
    """Resolution stated by the file; None for rasters, whose CRS defines it."""
    if info.kind == "raster":
        return None
    return f"{info.native_mpp:.4g} µm per px" if info.native_mpp else "not stated"


def _pixel_size(info: Any) -> str | None:
    """Size of a raster's working pixels."""
    if info.kind == "slide":
        return None
    t = info.transform
    across, down = math.hypot(t.a, t.d), math.hypot(t.b, t.e)
    return f"pixels of {across:.6g} × {down:.6g} units of the CRS"


def _name(uri: str) -> str:
    """File name of a path or URL."""
    path = unquote(urlsplit(uri).path) if "://" in uri else uri
    return path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or uri

"""Files of a raster source: from a path, a pattern, or a STAC item collection with its assets."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin

from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.errors import SourceError

MAX_JSON_BYTES = 256 * 2**20
RASTER_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
NO_DATA_ROLES = {"thumbnail", "overview", "metadata", "data-mask", "cloud", "snow-ice"}
COLOURS = ("red", "green", "blue")


def list_scenes(uris: Sequence[str], assets: tuple[str, ...]) -> list[list[str]]:
    """Files of each scene, in order: one file with all bands, or one for each band.

    Raises
    ------
    SourceError
        A pattern matches nothing, a STAC file is damaged, or the choice of assets is ambiguous.
    """
    scenes: list[list[str]] = []
    for uri in uris:
        if uri.lower().endswith((".json", ".geojson")):
            scenes += [_choose_assets(uri, item, assets) for item in _items(uri)]
        elif any(sign in uri for sign in "*?[") and "://" not in uri and not os.path.exists(uri):
            found = sorted(glob.glob(uri, recursive=True))
            if not found:
                raise SourceError(f"{uri}: no file matches; check the pattern")
            scenes += [[path] for path in found]
        else:
            scenes.append([uri])
    return scenes


def _items(uri: str) -> list[dict[str, Any]]:
    """The items of a STAC item, or item collection."""
    try:
        filesystem, path = find_filesystem(uri)
        with filesystem.open(path, "rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise SourceError(f"{uri}: has more than {MAX_JSON_BYTES // 2**20} MiB; give fewer items")
        parsed = json.loads(content)
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: no such file; check the path") from error
    except Exception as error:  # every storage driver has its own exceptions
        raise SourceError(f"{uri}: cannot be read as JSON ({' '.join(str(error).split())})") from error
    items = parsed.get("features", [parsed]) if isinstance(parsed, dict) else parsed
    if not isinstance(items, list) or not items or not all(_is_item(item) for item in items):
        raise SourceError(f"{uri}: is not a STAC item or item collection; give one, or a raster")
    return items


def _is_item(item: Any) -> bool:
    assets = item.get("assets") if isinstance(item, dict) else None
    return (
        isinstance(assets, dict)
        and bool(assets)
        and all(isinstance(a, dict) and isinstance(a.get("href"), str) for a in assets.values())
    )


def _choose_assets(uri: str, item: dict[str, Any], asked: tuple[str, ...]) -> list[str]:
    """Addresses of the requested assets; by default of the only data asset, or of red, green and blue."""
    assets: dict[str, dict[str, Any]] = item["assets"]
    if asked:
        missing = [key for key in asked if key not in assets]
        if missing:
            raise SourceError(
                f"{uri}: item {item.get('id')!r} has no asset {missing[0]!r}; give --assets from {', '.join(assets)}"
            )
        chosen = list(asked)
    else:
        chosen = [key for key, asset in assets.items() if _is_data(asset)]
        if len(chosen) != 1:
            chosen = [
                key for colour in COLOURS for key in assets if colour in _common_names(key, assets[key])
            ][:3]
        if len(chosen) not in (1, 3):
            raise SourceError(
                f"{uri}: item {item.get('id')!r} has {len(assets)} assets; name the one to read, or three, with "
                f"--assets from {', '.join(assets)}"
            )
    return [_address(uri, assets[key]["href"]) for key in chosen]


def _is_data(asset: dict[str, Any]) -> bool:
    roles = set(asset.get("roles") or ())
    if roles & NO_DATA_ROLES:
        return False
    kind = str(asset.get("type", "")).split(";")[0].strip().lower()
    is_raster = kind in RASTER_TYPES or (
        not kind and asset["href"].lower().endswith((".tif", ".tiff", ".jp2", ".vrt"))
    )
    return is_raster and (not roles or bool(roles & {"data", "visual", "reflectance"}))


def _common_names(key: str, asset: dict[str, Any]) -> set[str]:
    """Common names (colours) of an asset's only band."""
    bands = asset.get("eo:bands") or asset.get("bands") or []
    names = {
        str(band.get("common_name") or band.get("eo:common_name") or "")
        for band in bands
        if isinstance(band, dict)
    }
    return (names if len(bands) == 1 else set()) | {key.lower()}


def _address(uri: str, href: str) -> str:
    """An asset's address; ``href`` may be relative to the JSON file."""
    if "://" in href or href.startswith(("/", "\\")):
        return href
    if "://" in uri:
        return urljoin(uri, href) if uri.startswith("http") else f"{uri.rsplit('/', 1)[0]}/{href}"
    return os.path.join(os.path.dirname(uri), href)

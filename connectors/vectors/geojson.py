"""Outlines of instances as GeoJSON for QuPath: streamed, deterministic.

Workers format their features (`feature_texts`, `fragment_text`); the driver merges the fragments in the order of the
ids (`merge_sorted`) and writes them (`GeoJsonWriter`).
"""

import gzip
import hashlib
import heapq
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.colours import OBJECT_COLOUR, Colour
from fewscope.connectors.storage.atomic import OutputFile
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.layers import Geometries

MEASUREMENT_DECIMALS = 4
GZIP_LEVEL = 4
"""Takes a third of the time of level 6, for a file a tenth larger; one process compresses all features."""
_FLUSH = 1 << 18  # characters buffered before they are compressed
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "fewscope/instance")


@dataclass(frozen=True, slots=True)
class FeatureStyle:
    """Properties that all features of a file share.

    Attributes
    ----------
    run_hash : str
        Hash of the run, from which, with its id, the UUID of a feature is derived.
    class_name : str
        QuPath classification.
    colour : Colour
        (int, int, int) RGB of the classification, 0..255.
    object_type : {"detection", "annotation"}
        QuPath displays millions of detections, but not of annotations.
    decimals : int
        Decimals of coordinates.
    plane : Mapping[str, int] | None
        Where in a stack the features lie, as `connectors.source.SourceInfo.image_plane`.
    """

    run_hash: str
    class_name: str = "object"
    colour: Colour = OBJECT_COLOUR
    object_type: Literal["detection", "annotation"] = "detection"
    decimals: int = 2
    plane: Mapping[str, int] | None = None


def feature_uuid(run_hash: str, instance: int) -> str:
    """The UUID (version 5) of an instance of a run.

    >>> feature_uuid("run", 7) == str(uuid.uuid5(_NAMESPACE, "run/7"))
    True
    """
    # Written out (RFC 9562, section 5.5): `uuid.uuid5` takes three times as long, and there are millions.
    name = _NAMESPACE.bytes + f"{run_hash}/{instance}".encode()
    value = bytearray(hashlib.sha1(name, usedforsecurity=False).digest()[:16])
    value[6] = value[6] & 0x0F | 0x50
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def feature_texts(
    ids: Sequence[int] | npt.NDArray[np.integer[Any]],
    geometries: Sequence[BaseGeometry] | Geometries,
    style: FeatureStyle,
    measurements: Mapping[str, npt.ArrayLike] | None = None,
) -> list[str]:
    """GeoJSON Features, one line of text each, as QuPath writes and reads them.

    Parameters
    ----------
    ids : (N,) int
    geometries : Sequence[BaseGeometry] | Geometries
        (N,) polygons, or points for files with very many instances.
    style : FeatureStyle
    measurements : Mapping[str, npt.ArrayLike] | None
        Mapping of str to (N,) float, optional Names may contain a unit, "Area µm^2". Values that are not finite
        are omitted.
    """
    texts = geometry_texts(geometries, style.decimals)
    if style.plane is not None:
        place = json.dumps(dict(style.plane), separators=(",", ":"))
        texts = [f'{text[:-1]},"plane":{place}}}' for text in texts]
    constant = json.dumps(
        {
            "objectType": style.object_type,
            "classification": {"name": style.class_name, "color": list(style.colour)},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )[:-1]
    columns = [
        (
            json.dumps(name, ensure_ascii=False),
            np.round(np.asarray(values, np.float64), MEASUREMENT_DECIMALS) + 0.0,
        )
        for name, values in (measurements or {}).items()
    ]
    columns_text = [
        [f"{name}:{value!r}" if finite else "" for value, finite in zip(column.tolist(), np.isfinite(column))]  # noqa: B905
        for name, column in columns
    ]
    numbers = [",".join(filter(None, row)) for row in zip(*columns_text, strict=True)] or [""] * len(texts)
    return [
        f'{{"type":"Feature","id":"{feature_uuid(style.run_hash, int(instance))}","geometry":{text},'
        f'"properties":{constant}{f""","measurements":{{{number}}}""" if number else ""}}}}}'
        for instance, text, number in zip(ids, texts, numbers, strict=True)
    ]


def feature_text(
    instance: int,
    geometry: BaseGeometry,
    style: FeatureStyle,
    measurements: Mapping[str, float] | None = None,
) -> str:
    """One GeoJSON Feature; see `feature_texts`, which is faster for many.

    >>> feature_text(1, shapely.Point(3.25, 4), FeatureStyle("run", "cell"))[62:]
    '"geometry":{"type":"Point","coordinates":[3.25,4]},"properties":{"objectType":"detection",\
"classification":{"name":"cell","color":[230,85,13]}}}'
    """
    columns = {name: [value] for name, value in (measurements or {}).items()}
    return feature_texts([instance], [geometry], style, columns)[0]


def geometry_texts(geometries: Sequence[BaseGeometry] | Geometries, decimals: int) -> list[str]:
    """GeoJSON of points, polygons and multipolygons that are not empty, with rounded coordinates.

    GEOS writes WKT three times as fast as GeoJSON, and a few replacements convert it.

    >>> geometry_texts([shapely.Polygon([(0, 0), (2.505, 0), (0, 1)])], 1)
    ['{"type":"Polygon","coordinates":[[[0,0],[2.5,0],[0,1],[0,0]]]}']
    """
    array = np.asarray(geometries, dtype=object)
    # The sum turns -0.0 into 0.0.
    array = shapely.transform(array, lambda xy: np.round(xy, decimals) + 0.0)
    return [_wkt_to_geojson(text) for text in shapely.to_wkt(array, rounding_precision=decimals)]


_TYPES = {"POINT": "Point", "POLYGON": "Polygon", "MULTIPOLYGON": "MultiPolygon"}


def _wkt_to_geojson(wkt: str) -> str:
    kind, _, body = wkt.partition(" ")
    depth = len(body) - len(body.lstrip("("))  # 1 for a point, 2 for a polygon, 3 for a multipolygon
    if kind not in _TYPES or not depth:
        raise ValueError(f"cannot write {wkt[:40]} as a feature; give points, polygons or multipolygons")
    inner = body[depth:-depth]
    for wkt_token, json_token in ((")), ((", "]]],[[["), ("), (", "]],[["), (", ", "],["), (" ", ",")):
        inner = inner.replace(wkt_token, json_token)
    # GeoJSON has one more pair of brackets around positions than WKT, except for points.
    brackets = depth if kind == "POINT" else depth + 1
    return f'{{"type":"{_TYPES[kind]}","coordinates":{"[" * brackets}{inner}{"]" * brackets}}}'


def fragment_text(ids: Iterable[int], texts: Iterable[str]) -> str:
    """The features of one unit as text, ``id<TAB>feature`` a line, in the order of the ids."""
    lines = sorted(zip(map(int, ids), texts, strict=True))
    return "".join(f"{instance}\t{text}\n" for instance, text in lines)


def read_fragment(text: str) -> Iterator[tuple[int, str]]:
    """(id, feature) of each line of `fragment_text`."""
    for line in text.split("\n"):
        if line:
            instance, _, feature = line.partition("\t")
            yield int(instance), feature


def merge_sorted(fragments: Iterable[Iterable[tuple[int, str]]]) -> Iterator[tuple[int, str]]:
    """Merge (id, feature) streams, each in the order of the ids, into one; the division into units leaves no trace.

    All fragments are open at once: pass those of one row of units at a time if the ids allow it.

    Raises
    ------
    ValueError
        An id occurs twice, or a fragment is not in order.

    >>> list(merge_sorted([[(1, "a"), (4, "d")], [(2, "b")]]))
    [(1, 'a'), (2, 'b'), (4, 'd')]
    """
    last = -1
    for instance, text in heapq.merge(*fragments, key=lambda item: item[0]):
        if instance <= last:
            raise ValueError(
                f"instance {instance} comes after {last}; give each instance once, ids ascending"
            )
        last = instance
        yield instance, text


class GeoJsonWriter(OutputFile):
    """A gzipped GeoJSON FeatureCollection, one feature a line, written as a stream.

    The file appears when the ``with`` block succeeds. The same features give the same bytes. A thread compresses while
    the next features are prepared.

    Parameters
    ----------
    uri : str
        Path or fsspec URL, ``.geojson.gz``.

    Examples
    --------
    >>> with GeoJsonWriter("memory://docs/a.geojson.gz") as writer:
    ...     writer.write(feature_text(1, shapely.Point(3, 4), FeatureStyle("run")))
    >>> writer.n_features
    1
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.n_features = 0
        self._waiting: list[str] = []
        self._size = 0
        self._compressing: Future[int] | None = None

    def __enter__(self) -> "GeoJsonWriter":
        self._thread = ThreadPoolExecutor(1)
        raw = self._open()
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0)
        self._put('{"type":"FeatureCollection","features":[')
        return self

    def write(self, feature: str) -> None:
        """Add one feature, a line of `feature_texts`."""
        self._put(",\n" if self.n_features else "\n")
        self._put(feature)
        self.n_features += 1

    def _finish(self) -> None:
        self._put("\n]}\n")
        self._flush()
        self._wait()
        self._thread.shutdown()
        self._file.close()

    def _abandon(self) -> None:
        self._thread.shutdown()
        with suppress(Exception):
            self._file.close()

    def _put(self, text: str) -> None:
        self._waiting.append(text)
        self._size += len(text)
        if self._size > _FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        self._compressing = self._thread.submit(self._file.write, "".join(self._waiting).encode())
        self._waiting, self._size = [], 0

    def _wait(self) -> None:
        """Until the last piece is compressed and written; raises what went wrong there."""
        if self._compressing is not None:
            with output_errors(self.uri):
                self._compressing.result()

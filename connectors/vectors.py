"""Outlines and tables of instances: footprints, GeoJSON that QuPath reads, Parquet; streamed, deterministic.

Workers trace and format (`footprints`, `feature_texts`, `fragment_text`); the driver merges the fragments in
the order of the ids and writes (`merge_sorted`, `GeoJsonWriter`).
"""

import gzip
import hashlib
import heapq
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from affine import Affine
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from connectors.colours import OBJECT_COLOUR, Colour
from connectors.tracing import Geometries, trace_parts
from connectors.workdir import output_errors, output_path

ROW_GROUP = 65_536  # rows; a reader that filters skips whole groups
MEASUREMENT_DECIMALS = 4
GZIP_LEVEL = 4
"""A third of the time of level 6, which makes a file that is a tenth smaller; one process compresses them all."""
_FLUSH = 1 << 18  # characters gathered before they are compressed
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "fewscope/instance")


def footprints(
    labels: npt.NDArray[Any],
    origin: tuple[int, int],
    transform: Affine,
    ids: npt.ArrayLike | None = None,
    simplify_px: float = 0.0,
) -> Iterator[tuple[int, Polygon | MultiPolygon]]:
    """Outlines of the objects in a label image, along the pixel edges, in world coordinates.

    Parts of one id that touch at most at corners are gathered in a MultiPolygon. An object that lies wholly
    in the window has the same footprint whatever the window. **Objects that the window cuts are cut.**

    Parameters
    ----------
    labels : (H, W) array of any integer dtype
        0 is background.
    origin : (int, int)
        (row, col) of ``labels[0, 0]`` on the grid that ``transform`` belongs to.
    transform : Affine
        Pixel corner (col, row) -> world (x, y).
    ids : array-like of int, optional
        Only these ids; all when None.
    simplify_px : float
        Outlines may be off by this many pixels, to have fewer points; each stays valid. 0: exact.

    Yields
    ------
    (int, Polygon or MultiPolygon)
        In the order of the ids; valid and normalised (`shapely.normalize`).

    Examples
    --------
    >>> [(instance, outline)] = footprints(np.array([[0, 7, 7]]), (10, 20), Affine.scale(2))
    >>> instance, outline.wkt
    (7, 'POLYGON ((42 20, 42 22, 46 22, 46 20, 42 20))')
    """
    found, geometries = _trace(labels, origin, ids)
    if not len(found):
        return
    geometries = shapely.normalize(geometries)
    yield from zip(found.tolist(), to_world(simplify(geometries, simplify_px), transform), strict=True)


def simplify(geometries: Geometries, tolerance: float) -> Geometries:
    """Outlines with fewer points, off by at most ``tolerance``; one that would not stay valid is left as it is."""
    if tolerance <= 0:
        return geometries
    # Three times as fast, but it may lose holes and parts, and cross itself: then again, with more care.
    simple = shapely.simplify(geometries, tolerance, preserve_topology=False)
    is_polygon = shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON
    same_holes = shapely.get_num_interior_rings(simple) == shapely.get_num_interior_rings(geometries)
    again = ~(is_polygon & same_holes & _is_usable(simple))
    careful = shapely.simplify(geometries[again], tolerance, preserve_topology=True)
    simple[again] = np.where(_is_usable(careful), careful, geometries[again])
    return simple


def _is_usable(geometries: Geometries) -> npt.NDArray[np.bool_]:
    usable: npt.NDArray[np.bool_] = shapely.is_valid(geometries) & ~shapely.is_empty(geometries)
    return usable


def to_world(geometries: Geometries, transform: Affine) -> Geometries:
    """Geometries in pixels (x = col, y = row) taken to the world, normalised.

    Element by element: from whole-numbered global pixels, the window of a trace cannot show in the last bit.
    """
    world: Geometries = shapely.transform(geometries, lambda points: place_points(points, transform))
    return shapely.normalize(world)


def place_points(points: npt.NDArray[np.float64], transform: Affine) -> npt.NDArray[np.float64]:
    """World x, y of points (n, 2) given as col, row from the corner of the first pixel.

    >>> place_points(np.array([[1.0, 2.0]]), Affine.translation(100, 200) @ Affine.scale(10, -10)).tolist()
    [[110.0, 180.0]]
    """
    a, b, c, d, e, f = transform[:6]
    col, row = points[:, 0], points[:, 1]
    return np.stack([a * col + b * row + c, d * col + e * row + f], axis=1)


def _trace(
    labels: npt.NDArray[Any], origin: tuple[int, int], ids: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.int64], Geometries]:
    """Sorted ids and their valid geometries in global pixel coordinates (x = col, y = row)."""
    wanted = None if ids is None else np.asarray(ids, np.int64)
    if wanted is not None and len(wanted) == 1:
        labels = np.where(labels == wanted[0], labels, 0)
    of_parts, parts = trace_parts(labels)
    if wanted is not None:
        here = np.isin(of_parts, wanted)
        of_parts, parts = of_parts[here], parts[here]
    if not len(of_parts):
        return of_parts, parts
    parts = shapely.transform(parts, lambda points: points + np.array([origin[1], origin[0]]))
    found, start, count = np.unique(of_parts, return_index=True, return_counts=True)
    geometries = parts[start]
    several = np.flatnonzero(count > 1)
    if len(several):
        member = np.repeat(count > 1, count)
        index = np.repeat(np.arange(len(several)), count[several])
        geometries[several] = shapely.multipolygons(parts[member], indices=index)
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        geometries[invalid] = shapely.make_valid(geometries[invalid])
    return found, geometries


@dataclass(frozen=True, slots=True)
class FeatureStyle:
    """What all features of a file have in common.

    Attributes
    ----------
    run_hash : str
        Of the run; features get UUIDs made from it and their id, the same each time.
    class_name : str
        QuPath classification.
    colour : (int, int, int)
        RGB of the classification, 0..255.
    object_type : {"detection", "annotation"}
        QuPath draws a million detections, but not a million annotations.
    decimals : int
        Coordinates are rounded to this.
    """

    run_hash: str
    class_name: str = "object"
    colour: Colour = OBJECT_COLOUR
    object_type: Literal["detection", "annotation"] = "detection"
    decimals: int = 2


def feature_uuid(run_hash: str, instance: int) -> str:
    """The UUID (version 5) of an instance of a run.

    >>> feature_uuid("run", 7) == str(uuid.uuid5(_NAMESPACE, "run/7"))
    True
    """
    # By hand (RFC 9562, 5.5): `uuid.uuid5` takes three times as long, and there are millions.
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
    geometries : (N,) polygons, or points for files with very many instances
    style : FeatureStyle
    measurements : mapping of str to (N,) float, optional
        Names may hold a unit, "Area µm^2". Values that are not finite are left out.
    """
    texts = geometry_texts(geometries, style.decimals)
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
    """GeoJSON of points, polygons and multipolygons, not empty, coordinates rounded.

    GEOS writes WKT three times as fast as GeoJSON, and a few replacements make the one from the other.

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
    # A position has brackets of its own in GeoJSON, but for points WKT has them too.
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
    """Merge (id, feature) streams, each in the order of the ids, into one; the units do not show in it.

    All fragments are open at once: give those of one line of units at a time where ids allow it.

    Raises
    ------
    ValueError
        An id comes twice or a fragment is not in order.

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


class _Output:
    """A binary file that appears under its name when the block succeeds, and not otherwise."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _open(self) -> IO[bytes]:
        self._stack = ExitStack()
        with output_errors(self.uri):
            return self._stack.enter_context(open(self._stack.enter_context(output_path(self.uri)), "wb"))

    def _finish(self) -> None:
        """Write what is left, before the file is closed."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Let go of the file, which is thrown away."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # of the caller: passes as it is
            self._abandon()
            self._stack.__exit__(kind, error, trace)
            return
        with output_errors(self.uri), self._stack:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise


class GeoJsonWriter(_Output):
    """A gzipped GeoJSON FeatureCollection, one feature a line, written as a stream.

    The file appears when the ``with`` block succeeds. The same features give the same bytes. Another thread compresses
    what is written while the next features are brought.

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


class InstanceTableWriter(_Output):
    """A Parquet file (zstd) in row groups of 65,536, whatever the pieces it is fed.

    The file appears when the ``with`` block succeeds. The same rows give the same bytes.

    Parameters
    ----------
    uri : str
        Path or fsspec URL.
    schema : pyarrow.Schema, optional
        That of the first table when None. Needed where there may be no table at all.
    """

    def __init__(self, uri: str, schema: pa.Schema | None = None) -> None:
        super().__init__(uri)
        self.n_rows = 0
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def __enter__(self) -> "InstanceTableWriter":
        self._file = self._open()
        return self

    def write(self, table: pa.Table) -> None:
        """Add rows. ValueError if the columns are not those of the first table."""
        if self._schema is None:
            self._schema = table.schema
        if not table.schema.equals(self._schema):
            raise ValueError(
                f"columns {table.schema.names} are not those of {self.uri}: {self._schema.names}"
            )
        self.n_rows += table.num_rows
        self._waiting.append(table)
        self._n_waiting += table.num_rows
        if self._n_waiting >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            n_groups = whole.num_rows // ROW_GROUP
            for group in range(n_groups):
                self._write_group(whole.slice(group * ROW_GROUP, ROW_GROUP))
            self._waiting = [whole.slice(n_groups * ROW_GROUP)]
            self._n_waiting = self._waiting[0].num_rows

    def _finish(self) -> None:
        if self._schema is None:
            raise ValueError(f"no rows for {self.uri}, so no columns; give InstanceTableWriter a schema")
        if self._n_waiting or self._writer is None:
            self._write_group(pa.concat_tables([self._schema.empty_table(), *self._waiting]))
        assert self._writer is not None
        self._writer.close()

    def _abandon(self) -> None:
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
            self._writer.is_open = False  # or it would try again when collected

    def _write_group(self, table: pa.Table) -> None:
        with output_errors(self.uri):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)

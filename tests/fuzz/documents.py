"""JSON texts that are nearly right: values of wrong types, lost, nested, repeated; and texts that are not JSON."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.mutations import damaged

DEEP = "@deep %d@"
ODD_VALUES = (
    None, True, 0, -1, 0.5, 1e308, -1e308, 1e-320, 2**63, 10**400, float("nan"), float("inf"), "", " ", "a", "Region",
    "Ignore*", "nan", "\u202e\x1b[2J\x07", "line\nbreak\r\x85\u2028end", "ä" * 300, "\ud800", "../../etc/passwd",
    "=1+1", [], [[]], [[[]]], [[[0, 0]]], {}, {"": ""}, {"name": None}, {"type": "FeatureCollection", "features": []},
    ["name"], [None, None], [1e300, 1e300], ["0", "0"], DEEP % 200, DEEP % 900, DEEP % 20_000,
)  # fmt: skip

Path_ = tuple[str | int, ...]


def paths_of(tree: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Places of all values in a tree, but for its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from paths_of(value, (*at, key))


@st.composite
def odd_tree(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of a tree with one to four values replaced, removed, wrapped, or exchanged with others."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 4))):
        places = list(paths_of(root))
        place = draw(st.sampled_from(places))
        parent: Any = root
        for key in place[:-1]:
            parent = parent[key]
        key = place[-1]
        match draw(
            st.sampled_from(("replace", "replace", "replace", "remove", "wrap", "copy", "repeat", "rename"))
        ):
            case "replace":
                parent[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
            case "remove" if len(place) > 1:
                del parent[key]
            case "wrap":
                parent[key] = draw(st.sampled_from(([parent[key]], {"a": parent[key]}, [parent[key]] * 2)))
            case "copy":
                other: Any = root
                for step in draw(st.sampled_from(places)):
                    other = other[step]
                parent[key] = copy.deepcopy(other)
            case "repeat" if isinstance(parent, list):
                parent.extend(copy.deepcopy(parent[:3]))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(("type", "name", "", "geometry", "class", "a" * 70)))] = (
                    parent.pop(key)
                )
    return root[0] if root else None


def as_text(tree: Any) -> str:
    """JSON, with NaN as Python and GDAL write it, and with what stands for deep nesting nested."""
    text = json.dumps(tree)
    for depth in (200, 900, 20_000):
        text = text.replace(json.dumps(DEEP % depth), "[" * depth + "]" * depth)
    return text


@st.composite
def odd_json(draw: st.DrawFn, tree: Any) -> bytes:
    """The bytes of a JSON file: a tree with faults, in an odd encoding or none, some damaged."""
    text = as_text(draw(odd_tree(tree)))
    match draw(st.integers(0, 11)):
        case 0:
            return draw(damaged(text.encode()))
        case 1:
            return text.encode("utf-16")
        case 2:
            return b"\xef\xbb\xbf" + text.encode()
        case 3:  # keys twice
            return text.replace('"type":', '"type": 3, "type":').encode()
        case 4:
            return text.replace("{", '{"properties": [1], "geometry": {}, ', 3).encode()
        case 5:
            return text.replace(
                "0", draw(st.sampled_from(("1e999", "-0", "00", "0x1", "1" * 5000))), 4
            ).encode()
        case 6:
            return draw(
                st.sampled_from((b"", b"null", b"[]", b"{}", b"3", b'"a"', b"\0" * 64, b"[" * 100_000))
            )
    return text.encode()


def squeezed(data: bytes) -> bytes:
    """gzip, the same bytes each time."""
    return gzip.compress(data, 1, mtime=0)

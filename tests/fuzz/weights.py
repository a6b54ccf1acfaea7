"""Weights that are damaged or hostile."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.documents import odd_json, odd_tree
from tests.fuzz.harness import Case
from tests.fuzz.mutations import ODD_NUMBERS, damaged
from tests.fuzz.workplace import Options


@functools.cache
def weights_bytes() -> bytes:
    from fewscope.model.weights import SHIPPED

    return (SHIPPED / "compact.safetensors").read_bytes()


@st.composite
def weights(draw: st.DrawFn) -> Case:
    data = weights_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    match draw(st.integers(0, 3)):
        case 0:
            data = draw(damaged(data))
        case 1:
            text = draw(odd_json(header))
            data = struct.pack("<Q", len(text)) + text + body
        case 2:
            text = json.dumps(draw(odd_tree(header)), default=str).encode()
            data = struct.pack("<Q", draw(st.sampled_from((len(text), *ODD_NUMBERS, 2**63)))) + text + body
        case 3:
            place = 8 + size + 4 * draw(st.integers(0, len(body) // 4 - 1))
            odd = struct.pack("<f", draw(st.sampled_from((float("nan"), float("inf"), 1e38))))
            data = data[:place] + odd + data[place + 4 :]
    return Case({"net.safetensors": data}, "net.safetensors")


def use_weights(path: Path, _options: Options) -> None:
    from fewscope.model.segmenter import load_segmenter

    load_segmenter("compact", str(path))

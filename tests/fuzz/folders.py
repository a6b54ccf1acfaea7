"""Support folders of pictures that are damaged or hostile."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fewscope.connectors.support.load import load_support
from tests.fuzz.documents import odd_json
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged
from tests.fuzz.workplace import NAMES, Options

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "CMYK", "YCbCr", "LAB", "F", "HSV")
SIZES = ((224, 224), (224, 224), (224, 224), (1, 1), (223, 225), (100, 300), (448, 448), (1, 5000))


def _picture(mode: str, size: tuple[int, int], seed: int, file_format: str) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 2, (size[1], size[0]), np.uint8) * 255
    picture = Image.fromarray(noise)
    if mode == "LAB":
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    try:
        converted = Image.new(mode, size) if mode in ("LAB", "HSV") else picture.convert(mode)
        converted.save(buffer, format=file_format)
    except (OSError, ValueError, KeyError):  # a mode that the format does not have
        buffer = io.BytesIO()
        picture.convert("L").save(buffer, format=file_format)
    return buffer.getvalue()


def png_bomb(width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG that states a size and holds a few kilobytes of its rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@st.composite
def pictures(draw: st.DrawFn, seed: int) -> bytes:
    mode, size = draw(st.sampled_from(MODES)), draw(st.sampled_from(SIZES))
    match draw(st.integers(0, 6)):
        case 0:
            sides = draw(st.sampled_from(((60_000, 60_000), (2**31 - 1, 1), (0, 0), (13_000, 13_000))))
            return png_bomb(*sides, *draw(st.sampled_from(((8, 2), (1, 0), (16, 6), (8, 3)))))
        case 1:
            return draw(damaged(_picture(mode, size, seed, "PNG")))
        case 2:
            return _picture(mode, size, seed, draw(st.sampled_from(("TIFF", "JPEG", "BMP", "GIF"))))
    return _picture(mode, size, seed, "PNG")


@st.composite
def folders(draw: st.DrawFn) -> Case:
    right_image, right_label = _picture("RGB", (224, 224), 1, "PNG"), _picture("L", (224, 224), 2, "PNG")
    files = {"patches/image/a.png": right_image, "patches/label/a.png": right_label}
    files |= {"patches/image/b.png": right_image, "patches/label/b.png": right_label}
    stated = {"mpp": 0.5, "class": "nucleus", "classes": ["nucleus", "vessel"]}
    if draw(st.booleans()):
        del stated["class" if draw(st.booleans()) else "classes"]
        files["patches/support.json"] = json.dumps(stated).encode()
    if draw(st.integers(0, 3)) == 0:
        files["patches/support.json"] = draw(odd_json(stated))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(
            st.sampled_from(("label/a.png", "label/a.png", "image/a.png", "label/a.inst.png", "label/c.png"))
        )
        files[f"patches/{name}"] = draw(pictures(draw(st.integers(0, 3))))
    return Case(files, "patches", {"class_names": draw(st.sampled_from(NAMES))})


def use_folder(path: Path, options: Options) -> None:
    load_support(str(path), **options)

"""Pictures of fields of view that are damaged or hostile: PNG, JPEG, BMP, WebP, GIF, plain TIFF."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from fewscope.connectors.open import open_source
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged, damaged_tiff
from tests.fuzz.workplace import SIDE, Options, use_source

NAMES = (
    "a.png",
    "deep.png",
    "few.png",
    "a ä.jpg",
    "a.bmp",
    "a.webp",
    "a.gif",
    "a.tif",
    "deep.tif",
    "pages.tif",
)


@functools.cache
def right_picture(name: str) -> bytes:
    """A picture as its name says."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    deep = rng.integers(0, 4000, (SIDE, SIDE)).astype(np.uint16)
    if name == "deep.png":
        Image.fromarray(deep).save(buffer, "PNG")
    elif name == "few.png":
        image.quantize(16).save(buffer, "PNG")
    elif name.endswith(".tif"):
        values = {"a.tif": np.asarray(image), "deep.tif": deep}.get(name, np.stack([deep, deep[::-1]]))
        photometric = "rgb" if name == "a.tif" else "minisblack"
        tifffile.imwrite(buffer, values, photometric=photometric, rowsperstrip=32, metadata=None)
    else:
        image.save(buffer, {"jpg": "JPEG"}.get(name.rpartition(".")[2], name.rpartition(".")[2].upper()))
    return buffer.getvalue()


@st.composite
def pictures(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(NAMES))
    data = right_picture(name)
    faults = [damaged(data), damaged_tiff(data)] if name.endswith(".tif") else [damaged(data)]
    given = draw(
        st.sampled_from((name, "a.png", "a.tif", "a.jpg"))
    )  # a file may have the name of another kind
    return Case({given: draw(st.one_of(faults))}, given, {"slide_mpp": draw(st.sampled_from((None, 0.5)))})


def use_picture(path: Path, options: Options) -> None:
    use_source(open_source(str(path), slide_mpp=options["slide_mpp"]))

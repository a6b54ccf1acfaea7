"""Folders of labelled patches, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError


def photo(height=224, width=224, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(height=224, width=224):
    row, col = np.mgrid[:height, :width]
    return ((row - height // 2) ** 2 + (col - width // 2) ** 2 < 40**2).astype(np.uint8)


def save_pair(folder, stem, image=None, mask=None):
    """image/STEM.png and label/STEM.png; ``mask`` is an array or a picture."""
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo() if image is None else image).save(folder / "image" / f"{stem}.png")
    mask = disc() * 255 if mask is None else mask
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    picture.save(folder / "label" / f"{stem}.png")


def refusal(uri, **options) -> str:
    with pytest.raises(SupportError) as error:
        load_support(str(uri), **options)
    text = str(error.value)
    assert "\n" not in text
    assert str(uri) in text
    return text


@contextmanager
def opened_photo(folder: Path, side: int) -> Iterator[Source]:
    """A slide of `photo`, at 0.5 um per px, open until the block ends."""
    path = folder / "slide.tif"
    write_pyramid(path, photo(side, side), 0.5)
    with closing(open_source(str(path))) as source:
        yield source

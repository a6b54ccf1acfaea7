"""The page on a slide of five channels: what people see, and what is learned from."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.channels import tissue
from fewscope.annotate.settling import find_foreground_of, unlabelled_tiles
from fewscope.annotate.tiles import ImageTiles, TileAddress, TileCache, TileGrid
from fewscope.connectors.open import open_source
from fewscope.connectors.pixels.composite import composite
from tests.helpers.channel_slides import write_ome_tiff


def test_tiles_are_a_composite_and_what_is_learned_from_has_all_channels(tmp_path):
    scene = tissue(0, 600)
    source = open_source(write_ome_tiff(tmp_path / "a.ome.tif", scene.values, scene.names))
    tiles = ImageTiles(source, TileGrid(600, 600), TileCache())
    for address, corner, step in ((TileAddress(2, 1, 0), (0, 256), 1), (TileAddress(0, 0, 0), (0, 0), 4)):
        seen = np.asarray(Image.open(io.BytesIO(tiles.jpeg(address)))).astype(int)
        row, col = (n // step for n in corner)
        expected = composite(source.overview(600 // step)[0], source.info)[row : row + 150, col : col + 150]
        parts = [p[:150, :150].reshape(15, 10, 15, 10, 3).mean((1, 3)) for p in (seen, expected.astype(int))]
        assert seen.shape == (256, 256, 3)
        assert np.abs(parts[0] - parts[1]).mean() < 3, "JPEG, but the same picture"
    assert Image.open(io.BytesIO(tiles.thumbnail())).mode == "RGB"
    learned = unlabelled_tiles([source], {0: find_foreground_of(source)}, 2)
    assert learned.shape == (2, 224, 224, 5)
    source.close()

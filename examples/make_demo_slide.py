"""Write the demo's slide: a real picture of tissue, enlarged by mirrored repeats to the size of a slide.

    python examples/make_demo_slide.py build/ihc.tif

The picture is ``skimage.data.immunohistochemistry()``: 512 x 512 px of colonic glands, antibody in brown
(DAB), nuclei in blue (haematoxylin). scikit-image ships it, so nothing is downloaded. It does not state its
resolution: **0.5 um/px (20x) is our assumption**, so areas and densities of the demo are nominal. The
original lies unflipped at the top-left corner; `ihc_nuclei.geojson` annotates it there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
from rasterio.windows import Window

from fewscope.connectors.slides.pyramid_tiff import write_pyramid

MPP = 0.5  # um per px, assumed: see above
SIDE = 4096  # px, eight repeats of the picture


def mirrored(picture: np.ndarray, window: Window) -> np.ndarray:
    """Pixels of the endless mirrored repeat of a picture; equals ``np.pad(picture, mode="symmetric")``.

    Parameters
    ----------
    picture : (H, W, C); window : where to look, row and column offsets not negative.

    >>> mirrored(np.array([[[1], [2], [3]]]), Window(0, 0, 8, 1))[0, :, 0].tolist()
    [1, 2, 3, 3, 2, 1, 1, 2]
    """

    def fold(first: int, length: int, side: int) -> np.ndarray:
        position = np.arange(first, first + length) % (2 * side)
        return np.minimum(position, 2 * side - 1 - position)

    rows = fold(window.row_off, window.height, picture.shape[0])
    cols = fold(window.col_off, window.width, picture.shape[1])
    return picture[rows[:, None], cols[None, :]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 = written, 2 = refused with one line on stderr."""
    parser = argparse.ArgumentParser(description="python examples/make_demo_slide.py build/ihc.tif")
    parser.add_argument("out", type=Path, help="the slide to write (.tif)")
    parser.add_argument("--side", type=int, default=SIDE, help="height and width in px (%(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.side < 1:
        print(f"--side {chosen.side}: expected at least 1 px, e.g. {SIDE}", file=sys.stderr)
        return 2
    picture = skimage.data.immunohistochemistry()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(chosen.out, (chosen.side, chosen.side, lambda window: mirrored(picture, window)), MPP)
    print(f"{chosen.out}: {chosen.side} x {chosen.side} px at {MPP} um/px")
    return 0


if __name__ == "__main__":
    sys.exit(main())

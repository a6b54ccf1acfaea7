"""A second opinion on the source: how far network and pixel classifier agree, on a sample of tiles.

Leave-one-out says nothing about ground that no patch shows. Network and pixel classifier err in different places: where
they agree less than on the held-out patches, the estimate from these deserves less trust.
"""

from __future__ import annotations

import logging

import numpy as np
from rasterio.windows import Window

from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.calibration.operating_point import OperatingPoint
from fewscope.pipeline.plan import Plan

log = logging.getLogger(__name__)

N_TILES = 24
"""Tiles that are predicted twice: seconds."""

MOST_CANDIDATES = 5000
"""Tiles that are looked at for these: enough where half a percent of the source is foreground."""


def sample_tiles(plan: Plan, n_tiles: int = N_TILES) -> np.ndarray:
    """Images of foreground tiles drawn at random, the same for any units: uint8 (n, tile, tile, 3), n <= `n_tiles`."""
    grid = plan.grid
    rows, cols = grid.rows.tolist(), grid.cols.tolist()
    images: list[np.ndarray] = []
    for k in np.random.default_rng(0).permutation(grid.n_tiles)[:MOST_CANDIDATES].tolist():
        row, col = divmod(k, len(cols))
        tile = Window(cols[col], rows[row], grid.tile, grid.tile)
        if not plan.foreground.touches(tile):
            continue
        image, valid = plan.source.read(tile)
        if valid.all():
            images.append(image)
        if len(images) == n_tiles:
            break
    return np.stack(images) if images else np.zeros((0, grid.tile, grid.tile, 3), np.uint8)


def lost_agreement(
    plan: Plan, model: predictor.Model, operating_point: OperatingPoint
) -> tuple[float | None, ...]:
    """How much less network and pixel classifier agree on a source than on the held-out patches, for each class.

    The agreement is that of `leave_one_out.agreement`, on the source over `sample_tiles`.

    Parameters
    ----------
    model : Model
        That of the run.

    Returns
    -------
    -1 to 1; None for a class that neither finds, and where it is not known for the held-out patches.
    """
    before, features = operating_point.encoding.agreement, operating_point.features
    alone = predictor.classifier_alone(features)
    known = [c for c, agreed in enumerate(before) if agreed is not None]
    lost: list[float | None] = [None] * len(operating_point.classes)
    if alone is None or not known or not len(images := sample_tiles(plan)):
        return tuple(lost)
    found, other = (predictor.predict_maps(model, images, of, False) for of in (features, alone))
    for c in known:
        now, then = leave_one_out.agreement(found[:, c], other[:, c]), before[c]
        if now is not None and then is not None:
            lost[c] = round(then - now, 3)
            log.info("network and pixel classifier, class %d: IoU %.2f on patches, %.2f on %d tiles",
                     c + 1, then, now, len(images))  # fmt: skip
    return tuple(lost)

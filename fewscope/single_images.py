"""Segmenting single images in memory, without files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fewscope.errors import ConfigError, SupportError

if TYPE_CHECKING:
    import numpy as np

TILES_AT_ONCE = 64
"""Tiles handed to the network in one call: bounds memory."""


class Segmenter:
    """A network that is shown a support set once, and predicts images often. No files, no Ray.

    Parameters
    ----------
    model, weights : str, str | os.PathLike[str] | None
        Name of the network, and a file of weights to use instead of the shipped one.
    encoder : str | None
        A frozen encoder: ``efficientnet-lite0``, or one of your own, the path of a TorchScript file or
        ``timm/NAME:FILE``.
    device : str | None
        "cpu" or "cuda"; None: CUDA if there is a GPU.
    overlap : int
        px that neighbouring tiles of a large image share.

    Raises
    ------
    WeightsError
        There is no such model, or the weights do not fit it; or the encoder's.

    Examples
    --------
    >>> segmenter = fewscope.Segmenter().encode(images, masks)  # doctest: +SKIP
    >>> probability = segmenter.predict(image)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "compact",
        weights: str | os.PathLike[str] | None = None,
        *,
        encoder: str | None = None,
        device: str | None = None,
        overlap: int = 32,
    ) -> None:
        from fewscope.model.conventions import PATCH_SIZE
        from fewscope.model.segmenter import load_segmenter

        if not 0 <= overlap <= PATCH_SIZE // 2:
            raise ConfigError(f"overlap {overlap} is not in 0..{PATCH_SIZE // 2} (half a tile); use 32")
        path = None if weights is None else os.fspath(weights)
        self._model: Any = load_segmenter(model, path, encoder, device=device)
        self._overlap = overlap
        self._features: Any = None

    def encode(self, images: np.ndarray, masks: np.ndarray) -> Segmenter:
        """Show the support set; replaces an earlier one.

        Parameters
        ----------
        images : np.ndarray
            (K, 224, 224, 3) uint8, RGB.
        masks : np.ndarray
            (K, 224, 224) bool, or uint8: 0 background, 1..C classes, 255 not labelled.

        Returns
        -------
        The segmenter itself.

        Raises
        ------
        SupportError
            Shapes or types are others, or nothing is labelled as object.
        """
        import numpy as np

        from fewscope.model.conventions import IGNORE_LABEL, PATCH_SIZE
        from fewscope.pipeline.calibration.model_selection import ENCODER_SHARE

        images, masks = np.asarray(images), np.asarray(masks)
        expected = (len(images), PATCH_SIZE, PATCH_SIZE)
        if images.dtype != np.uint8 or images.shape != (*expected, 3) or not len(images):
            raise SupportError(
                f"support images are {images.dtype} {images.shape}; give uint8 (K, {PATCH_SIZE}, {PATCH_SIZE}, 3)"
            )
        if masks.shape != expected or masks.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
            raise SupportError(
                f"support masks are {masks.dtype} {masks.shape}; give bool or uint8 {expected}"
            )
        labels = masks.astype(np.uint8)
        if not ((labels > 0) & (labels != IGNORE_LABEL)).any():
            raise SupportError(
                "no mask has an object: 1, 2, ... are classes and 255 is not labelled; give mask > 0 if 255 is object"
            )
        options = {"encoder_share": ENCODER_SHARE} if getattr(self._model, "has_encoder", False) else {}
        self._features = self._model.encode(images, labels, **options)
        return self

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Probability of each pixel of one image. Larger images are tiled and blended as in a run.

        Parameters
        ----------
        image : np.ndarray
            (H, W, 3) uint8, RGB, of any size; at the resolution of the support images.

        Returns
        -------
        (H, W) float32 in 0..1; with several classes (C, H, W), each class independent of the others.

        Raises
        ------
        SupportError
            `encode` has not been called.
        ConfigError
            The image has another shape or type.
        """
        import numpy as np
        from rasterio.windows import Window

        from fewscope.pipeline.tiling.blending import Blender, tile_weights
        from fewscope.pipeline.tiling.grid import TileGrid

        if self._features is None:
            raise SupportError("no support set yet; call encode(images, masks) first")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ConfigError(f"the image is {image.dtype} {image.shape}; give uint8 (H, W, 3)")
        height, width = image.shape[:2]
        grid = TileGrid(height, width, overlap=self._overlap)
        beyond = ((0, max(0, grid.tile - height)), (0, max(0, grid.tile - width)), (0, 0))
        image = np.pad(image, beyond, mode="symmetric")
        whole = Window(0, 0, width, height)
        tiles = grid.tiles_touching(whole)
        blender = None
        for start in range(0, len(tiles), TILES_AT_ONCE):
            some = tiles[start : start + TILES_AT_ONCE]
            cut = [image[t.row_off : t.row_off + t.height, t.col_off : t.col_off + t.width] for t in some]
            maps = self._model.predict(np.stack(cut), self._features)
            blender = blender or Blender(whole, tile_weights(grid.tile, grid.overlap), maps.shape[1])
            for tile, probability in zip(some, maps, strict=True):
                blender.add(tile, probability)
        assert blender is not None, "an image has at least one tile"
        probability, _ = blender.result()
        return probability[0] if len(probability) == 1 else probability

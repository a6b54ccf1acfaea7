"""Numbers that every support set and data set agrees on; `model.conventions` has the same on the other side."""

from __future__ import annotations

PATCH_SIZE = 224
"""Height and width of a support patch in px: FSS-1000's images are squares of this size (Li et al., CVPR 2020)."""

IGNORE_LABEL = 255
"""Value of a label image (uint8) where nothing is labelled."""

Ranges = tuple[tuple[float, float], ...]
"""Values of each channel of a source that are shown as black and as white."""

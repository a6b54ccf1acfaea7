"""Numbers that every network and every caller agree on; `connectors.conventions` has the same on the other side.

Imports nothing, so that a command line can use them without waiting for torch.
"""

from __future__ import annotations

PATCH_SIZE = 224
"""Height and width of a support patch and of a tile in px: FSS-1000's images are squares of this size
(Li et al., CVPR 2020)."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""In which tiles may be predicted; "auto": bfloat16 where the device computes in it natively, else float32."""

IGNORE_LABEL = 255
"""Value of a label image (uint8) where nothing is labelled."""

"""Public segmentation data sets, converted."""

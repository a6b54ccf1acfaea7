"""Arithmetic on pixels that slides and rasters share: pyramid levels, resampling, transforms."""

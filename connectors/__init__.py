"""Readers and writers: the only package that opens slides, rasters, images, vector files and result stores."""

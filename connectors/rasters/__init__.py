"""Satellite and aerial rasters through GDAL: files, mosaics, bands, nodata."""

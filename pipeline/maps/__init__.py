"""What only rasters get: map files, water indices, changes between dates."""

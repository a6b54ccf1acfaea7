"""Pixels in, results out: the only package that opens image, label, vector or store data."""

"""Geometry without files: contours of labels, footprints, lengths and areas on the ground."""

"""Whole-slide images through OpenSlide."""

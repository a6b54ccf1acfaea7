"""Tile grid and work units, foreground, blending of tiles."""

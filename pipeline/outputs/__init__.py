"""Outputs beside the full-resolution arrays: pyramids, table of instances, outlines. `run.OUTPUTS` lists them."""

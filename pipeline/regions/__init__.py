"""Regions of a finished result: what lies in each, and where the objects are densest."""

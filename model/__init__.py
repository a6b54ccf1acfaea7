"""Tensors: few-shot segmentation networks. The only package that imports torch."""

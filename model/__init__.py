"""Few-shot segmentation networks, their training and inference. The only package that imports torch."""

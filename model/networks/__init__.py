"""Few-shot segmentation networks and their parts."""

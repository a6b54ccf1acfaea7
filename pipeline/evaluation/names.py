"""Names of baselines. Imports nothing, so that ``--help`` does not wait for scikit-learn."""

BASELINES = ("threshold", "otsu", "forest", "grabcut")
"""What a model is compared with (`pipeline.evaluation.baselines`)."""

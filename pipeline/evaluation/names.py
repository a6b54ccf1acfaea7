"""Names of the baselines, apart from their code: ``--help`` does not wait for scikit-learn and OpenCV."""

from collections.abc import Mapping

BASELINES: Mapping[str, str] = {
    "everything": "Everything",
    "threshold": "ColourThreshold",
    "otsu": "OtsuThreshold",
    "forest": "PixelForest",
    "boosting": "PixelBoosting",
    "ridge": "PixelRidge",
    "grabcut": "GrabCut",
}
"""Each baseline and its class in `pipeline.evaluation.baselines`. A new baseline is a class there and a line here."""

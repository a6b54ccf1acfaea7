"""Few-shot segmentation and exact counting, of whole slides and whole scenes."""

from pathlib import Path as _Path

from fewscope._version import __version__

__all__ = ["__version__"]

# In a checkout the packages lie beside this folder, in an installed Fewscope inside it: one name for both.
_checkout = _Path(__file__).resolve().parents[1]
if (_checkout / "pipeline" / "run.py").is_file():
    __path__.append(str(_checkout))

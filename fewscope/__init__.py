"""Few-shot segmentation and exact counting, of whole slides and whole scenes.

``import fewscope`` imports neither numpy nor torch: the names below are loaded when they are first used.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from fewscope._version import __version__

if TYPE_CHECKING:
    from fewscope.api import Segmenter, map, open_result, regions, segment

__all__ = ["Segmenter", "__version__", "map", "open_result", "regions", "segment"]

# In a checkout the packages lie beside this folder, in an installed Fewscope inside it: one name for both.
_checkout = _Path(__file__).resolve().parents[1]
if (_checkout / "pipeline" / "run.py").is_file():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fewscope' has no attribute {name!r}")
    from fewscope import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)

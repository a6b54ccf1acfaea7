"""What libraries raise of damaged files, as one line for people.

Readers check what they can name. What is left are numbers and texts inside a file that GDAL, GEOS, numpy or Python
refuse somewhere in the middle: too many kinds to foresee each, and all of them mean that the file is not usable.
Faults of Fewscope's own (a `TypeError`, a `KeyError`...) are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from affine import TransformNotInvertibleError
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from shapely.errors import ShapelyError

from fewscope.errors import FewscopeError

_OF_LIBRARIES = (
    CPLE_BaseError,
    RasterioError,
    ShapelyError,
    TransformNotInvertibleError,
    ArithmeticError,
    UnicodeError,
    RecursionError,
    MemoryError,
)
_REASON_LENGTH = 200


@contextmanager
def library_errors(kind: type[FewscopeError], uri: str) -> Iterator[None]:
    """Raise what a library raises of the content of ``uri`` as ``kind``, in one line.

    >>> with library_errors(FewscopeError, "a.tif"):
    ...     1 / 0
    Traceback (most recent call last):
    fewscope.errors.FewscopeError: a.tif: cannot be read (division by zero); check its content, or save it again
    """
    try:
        yield
    except FewscopeError:
        raise
    except MemoryError as error:
        raise kind(f"{uri}: needs more memory than there is; give a smaller one") from error
    except _OF_LIBRARIES as error:
        reason = " ".join(str(error).split())[:_REASON_LENGTH] or type(error).__name__
        raise kind(f"{uri}: cannot be read ({reason}); check its content, or save it again") from error

"""A file that is written here, and that other programs may change meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.errors import FewscopeError

log = logging.getLogger(__name__)

Stamp = tuple[int, int] | None


class KeptFile:
    """A file that is written here, and that other programs may change.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    is_behind : bool
        Whether it could not be written the last time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_behind = False
        self._stamp: Stamp = None

    @property
    def is_touched(self) -> bool:
        """Whether it may be another one than was written or looked at last."""
        return stamp_of(self.path) != self._stamp

    def digest(self) -> str | None:
        """Digest of its content; None if there is no file."""
        try:
            return digest_of(self.path.read_bytes())
        except OSError:
            return None

    def seen(self, stamp: Stamp) -> None:
        """It was looked at when it had a stamp."""
        self._stamp = stamp

    def write(self, text: bytes) -> str:
        """Write it, if that is possible; what went wrong, else nothing."""
        wrong = ""
        try:
            write_atomic(open_filesystem(str(self.path))[0], os.path.abspath(self.path), text)
        except FewscopeError as error:
            log.warning("%s", error)
            wrong = str(error)
        self.is_behind = bool(wrong)
        self._stamp = stamp_of(self.path)
        return wrong


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is written: time and size; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def digest_of(text: bytes) -> str:
    """Tells contents apart."""
    return hashlib.sha256(text).hexdigest()

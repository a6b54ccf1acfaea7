"""A file that is written here, and that other programs may change meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    problem : str
        Why; nothing where it could.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_behind = False
        self.problem = ""
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

    def compare(self, entries: Sequence[Mapping[str, Any]], name: str) -> None:
        """Find out whether it is behind a journal that has the digest and the time of each of its states.

        It is where a crash, or a disk that was full, kept the last ones from being written.

        Parameters
        ----------
        name
            Of the digest in the entries.
        """
        states = [one for one in entries if one.get(name)]
        digest, stamp = self.digest(), stamp_of(self.path)
        if stamp is None or not states or digest == states[-1][name]:
            return
        is_last_but_one = digest in [one[name] for one in states[-2:-1]]
        is_old = digest in {one[name] for one in states} and stamp[0] / 1e9 < states[-1].get("time", 0)
        self.is_behind = is_last_but_one or is_old

    def seen(self, stamp: Stamp) -> None:
        """It was looked at when it had a stamp."""
        self._stamp = stamp

    def write(self, text: bytes) -> None:
        """Write it, if that is possible."""
        problem = ""
        try:
            write_atomic(open_filesystem(str(self.path))[0], os.path.abspath(self.path), text)
        except FewscopeError as error:
            reason = getattr(error.__cause__, "strerror", None) or str(error)
            problem = (
                f"{self.path}: cannot be written ({reason}); free some space. The journal beside it has all changes, "
                "but preview and runs do not know the last ones"
            )
            log.warning("%s", problem)
        self.is_behind, self.problem = bool(problem), problem
        self._stamp = stamp_of(self.path)


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

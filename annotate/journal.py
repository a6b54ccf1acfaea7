"""The journal of labels, ``labels.journal.jsonl``: every change in one line, appended and synced before it counts.

A line holds what a change has removed and what it has added, as whole features, so that replaying needs no geometry
and gives the same labels with any version of the libraries. Undoing takes the last change back, and is a line itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fewscope.errors import LabelError

try:
    import fcntl
except ImportError:  # Windows: no lock; two servers on one folder are then not noticed
    fcntl = None  # type: ignore[assignment]


class Journal:
    """An append-only file of JSON lines, held by one process.

    Parameters
    ----------
    path : Path
        The file; made if it is missing.

    Raises
    ------
    LabelError
        Another process holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(path, "a+b", buffering=0)  # noqa: SIM115  # held for good
        except OSError as error:
            raise LabelError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise LabelError(
                    f"{path.parent}: is open in another `fewscope annotate`; close it, or give another --out"
                ) from error

    def read(self) -> list[dict[str, Any]]:
        """All entries. A last line that a crash cut short is removed; a journal damaged elsewhere is set aside."""
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        try:
            return list(_parsed(data[:whole]))
        except ValueError:
            self.set_aside()
            return []

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append an entry; when this returns, the disk has it.

        Raises
        ------
        LabelError
            The disk is full or gone; nothing is appended then.
        """
        line = json.dumps({"time": round(time.time(), 3), **entry}, separators=(",", ":")).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise LabelError(f"{self.path}: cannot be written ({error.strerror}); free some space") from error

    def close(self) -> None:
        """Close the file, and let go of it."""
        self._file.close()

    def set_aside(self) -> None:
        """Keep a copy of a damaged journal under another name, and begin a new one."""
        self.damaged = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        self._file.seek(0)
        self.damaged.write_bytes(self._file.read())
        self._file.truncate(0)
        os.fsync(self._file.fileno())


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        entry = json.loads(line)
        if not isinstance(entry, dict) or "type" not in entry:
            raise ValueError("an entry is no object with a type")
        yield entry

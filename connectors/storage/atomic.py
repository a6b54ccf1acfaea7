"""Files that appear under their name whole or not at all, on the local disk and on object stores alike.

`atomic_file` is the one mechanism: `write_atomic` and `OutputFile` are built on it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import IO

from fsspec import AbstractFileSystem

from fewscope.connectors.storage.filesystem import is_local, open_filesystem, output_errors, sync

TEMPORARY_PREFIX = ".fewscope-"

_IS_TEMPORARY = re.compile(r"\.fewscope-[a-z0-9_]{8}").fullmatch
"""A folder of `atomic_file`."""

_IS_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial").fullmatch
"""A file that Zarr has not renamed yet."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is one that a killed process did not get to rename or remove."""
    return _IS_TEMPORARY(name) is not None or _IS_PARTIAL(name) is not None


def remove_leftovers(folder: str, *, below: bool, older_than_s: float = 0.0) -> int:
    """Remove what killed processes have left in a local folder; returns how many files and folders.

    Only to be called where nobody is writing.

    Parameters
    ----------
    below
        Also in the folders in it.
    older_than_s
        Leave alone what was changed within so many seconds.
    """
    n_removed = 0
    for parent, folders, files in os.walk(folder):
        for name in [name for name in (*folders, *files) if is_leftover(name)]:
            path = os.path.join(parent, name)
            with suppress(OSError):
                if time.time() - os.path.getmtime(path) < older_than_s:
                    continue
                if name in folders:
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
                n_removed += 1
        folders[:] = [name for name in folders if below and not is_leftover(name)]
    return n_removed


@contextmanager
def atomic_file(uri: str, *, durable: bool = True) -> Iterator[str]:
    """Give a temporary local path, and put what is written there under ``uri`` when the block succeeds.

    The temporary path has the same file name and lies in a folder of its own, so that a library may choose the format
    by the ending and leave sidecar files (SQLite's journal), which are removed. On the local disk the folder lies
    beside ``uri`` and the file is renamed; to an object store it is uploaded with one put.

    Parameters
    ----------
    uri
        Path or fsspec URL; missing folders are made.
    durable
        Wait until the disk holds the bytes before the file is renamed. Without it, a power cut may leave a damaged
        file under ``uri``; a crash of the process never does.

    Raises
    ------
    OutputError
        The folder cannot be made, or the file cannot be renamed or uploaded. An error of the block passes as it is.
    """
    with output_errors(uri):
        fs, path = open_filesystem(uri)
        folder, name = os.path.split(path)
        local = is_local(fs)
        if local:
            os.makedirs(folder, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            prefix=TEMPORARY_PREFIX,
            dir=folder if local else None,
            ignore_cleanup_errors=True,  # of a disk that fails: `remove_leftovers` tries again
        )
    with scratch:
        temporary = os.path.join(scratch.name, name)
        yield temporary
        with output_errors(uri):
            if not local:
                fs.put_file(temporary, path)
                return
            if durable:
                sync(temporary)
            os.replace(temporary, path)


def write_atomic(
    fs: AbstractFileSystem, path: str, data: bytes | memoryview, *, durable: bool = True
) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    Parameters
    ----------
    fs, path
        As `open_filesystem` gives them.
    durable
        As for `atomic_file`.

    Raises
    ------
    OutputError
        The disk is full or read-only, a file is in the way, or the object store refuses.
    """
    with output_errors(path):
        if not is_local(fs):
            fs.pipe_file(path, bytes(data))
            return
        with atomic_file(path, durable=durable) as temporary, open(temporary, "wb") as file:
            file.write(data)


class OutputFile:
    """Base of writers that stream into a binary file, which appears when the ``with`` block succeeds.

    A writer calls `_open` in ``__enter__``, and defines `_finish` and `_abandon`.

    Parameters
    ----------
    uri
        Path or fsspec URL.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _open(self) -> IO[bytes]:
        self._stack = ExitStack()
        with output_errors(self.uri):
            return self._stack.enter_context(open(self._stack.enter_context(atomic_file(self.uri)), "wb"))

    def _finish(self) -> None:
        """Write what is left, before the file is closed."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Release the file, which is discarded."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # of the caller: passes as it is
            self._abandon()
            self._stack.__exit__(kind, error, trace)
            return
        with output_errors(self.uri), self._stack:
            try:
                self._finish()
            except BaseException:
                self._abandon()
                raise

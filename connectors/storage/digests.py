"""Digests of files, by which damage is seen: bits that flipped, ends that are missing, files that are gone.

A digest is a text: the size in bytes and the first half of the SHA-256, which processors have instructions for. It
guards against accidents, not against people.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from fsspec import AbstractFileSystem

from fewscope.connectors.storage.filesystem import is_local

Digests = dict[str, str | None]
"""Digest of each file, by its path in the output folder; None where there must be no file."""

N_THREADS = 8  # an object store answers each in tens of milliseconds; hashing lets other threads run

READ_BYTES = 2**20

SQLITE_HEADER = 100  # bytes
SQLITE_CHANGING = (slice(18, 20), slice(24, 28), slice(92, 100))
"""Journal mode; counter of changes; counter at the last write, and version of the library that wrote."""


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Digest of some bytes.

    >>> digest_of(b"abc")
    '3:ba7816bf8f01cfea414140de5dae2223'
    """
    return f"{memoryview(data).nbytes}:{hashlib.sha256(data).hexdigest()[:32]}"


def digest_file(fs: AbstractFileSystem, path: str) -> str | None:
    """Digest of a file, read in pieces; None if there is none, or if the disk cannot read it.

    Raises
    ------
    OSError
        An object store does not answer: that says nothing about the file.
    """
    if not is_local(fs):
        try:
            return digest_of(fs.cat_file(path))
        except FileNotFoundError:
            return None
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
            return f"{file.tell()}:{digest.hexdigest()[:32]}"
    except OSError:
        return None


def digest_database(path: str) -> str | None:
    """Digest of a local SQLite file without what reading it may change; None if there is none, or if it cannot be read.

    A program that opens a GeoPackage may set the journal mode, and with it a counter and the number of its own version,
    all in the header: https://www.sqlite.org/fileformat2.html#the_database_header.
    """
    try:
        with open(path, "rb") as file:
            header = bytearray(file.read(SQLITE_HEADER))
            for changing in SQLITE_CHANGING:
                header[changing] = bytes(len(header[changing]))
            digest = hashlib.sha256(header)
            while piece := file.read(READ_BYTES):
                digest.update(piece)
            return f"{file.tell()}:{digest.hexdigest()[:32]}"
    except OSError:
        return None


def is_as_recorded(fs: AbstractFileSystem, path: str, recorded: str | None) -> bool:
    """Whether a file has the recorded digest. One of another size is not read."""
    if is_local(fs):
        try:
            size = os.path.getsize(path)
        except OSError:
            return recorded is None
        if recorded is None or recorded.partition(":")[0] != str(size):
            return False
    return digest_file(fs, path) == recorded


def damaged_files(fs: AbstractFileSystem, root: str, recorded: Mapping[str, str | None]) -> list[str]:
    """Paths of the files under ``root`` that are not as recorded, in their order."""
    paths = list(recorded)
    with ThreadPoolExecutor(N_THREADS) as threads:
        good = threads.map(lambda path: is_as_recorded(fs, f"{root}/{path}", recorded[path]), paths)
        return [path for path, is_good in zip(paths, good, strict=True) if not is_good]


def n_bytes(recorded: Iterable[str | None]) -> int:
    """Size of all recorded files, bytes."""
    return sum(int(digest.partition(":")[0]) for digest in recorded if digest)

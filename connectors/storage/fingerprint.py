"""The identity of what a source consists of, cheap to compute: under a second for a slide of gigabytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

BLOCK_BYTES = 2**16
"""Of a sample."""

N_BLOCKS = 128
"""Samples of a large source: 8 MiB, read in 0.1 s from an SSD, in about a second from a hard disk."""

WHOLE_BYTES = 2**26
"""Up to this size, everything is read."""

MAX_WHOLE_FILES = 1024
"""The same for the number of files."""


def add_files(digest: Any, files: Sequence[tuple[str, str]]) -> None:
    """Add the names, sizes and content of local files to a fingerprint.

    Up to `WHOLE_BYTES` in all, the whole content. Of more, the two ends and `N_BLOCKS` blocks spread evenly over all
    files laid end to end: a change is certain to be seen if it is longer than a 128th of the whole, changes a size, or
    lies in a file's first or last block where there are few files.

    Parameters
    ----------
    digest
        A hash of ``hashlib``.
    files
        (name, path): the name counts, the path does not, so that what is moved or copied stays the same.
    """
    sizes = [os.path.getsize(path) for _, path in files]
    total = sum(sizes)
    for (name, _), size in zip(files, sizes, strict=True):
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    if total <= WHOLE_BYTES and len(files) <= MAX_WHOLE_FILES:
        for _, path in files:
            with open(path, "rb") as file:
                while piece := file.read(2**20):
                    digest.update(piece)
        return
    starts = {(total - BLOCK_BYTES) * i // (N_BLOCKS - 1) for i in range(N_BLOCKS)}
    ends, offset = [], 0
    for size in sizes:
        if len(files) <= N_BLOCKS:
            starts |= {offset, max(offset, offset + size - BLOCK_BYTES)}
        offset += size
        ends.append(offset)
    at = 0
    for start in sorted(max(0, start) for start in starts):
        while ends[at] <= start and at + 1 < len(ends):
            at += 1
        with open(files[at][1], "rb", buffering=0) as file:
            file.seek(start - (ends[at] - sizes[at]))
            digest.update(file.read(BLOCK_BYTES))


def files_below(folder: str) -> list[tuple[str, str]]:
    """(path relative to the folder, path) of every file in a folder and in those in it, sorted."""
    found = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return sorted((os.path.relpath(path, folder), path) for path in found)


def named_in(folder: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """(name, path) of the files of a folder that some texts name, sorted."""
    paths = {text: os.path.join(folder, text) for text in texts if text and os.path.basename(text) == text}
    return sorted((name, path) for name, path in paths.items() if os.path.isfile(path))

"""Files of a training run appear whole or not at all.

`connectors.storage.atomic` does this for outputs, also on object stores; model knows no connectors, and a training run
needs no more than a local rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block succeeds; else remove it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a rename may reach the disk before the bytes do
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # of a disk that fails: what the block raised says more
            temporary.unlink()

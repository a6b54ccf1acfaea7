"""Local copies of remote files: OpenSlide reads local files only, so a remote slide is copied once, to a cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from fewscope.connectors.storage.atomic import atomic_file, remove_leftovers
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.errors import SourceError

CACHE_VARIABLE = "FEWSCOPE_CACHE"
"""Environment variable with the folder of the cache; without it, a private temporary folder."""

LEFTOVER_S = 86_400.0
"""After which an unfinished copy is taken for that of a killed process."""

VERSION_KEYS = ("size", "ETag", "etag", "checksum", "mtime", "LastModified", "created")
"""What fsspec's file systems say of a file that changes with its content, the best first after the size."""


def local_copy(uri: str) -> str:
    """Path of a local file with the content of ``uri``: the path itself, or a cached copy of a remote file.

    The copy's name is a hash of the address, size and version (ETag or time) of the file, so that a changed file is
    copied again. A copy is complete or does not exist.

    Raises
    ------
    SourceError
        The file is missing, access is denied, or its storage does not respond.
    """
    if "://" not in uri:
        return uri
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    try:
        filesystem, path = find_filesystem(uri)
        facts = filesystem.info(path)
        if facts.get("type") == "directory":
            raise IsADirectoryError("a folder, expected one file")
        version = [str(facts.get(key)) for key in VERSION_KEYS]
        key = hashlib.sha256("\n".join([uri, *version]).encode()).hexdigest()[:24]
        suffix = os.path.splitext(path)[1]
        copy = _cache_folder() / f"{key}{suffix}"
        if copy.exists() and facts.get("size") in (None, os.path.getsize(copy)):
            return str(copy)
        with atomic_file(str(copy)) as unfinished:
            filesystem.get_file(path, unfinished)
            size, arrived = facts.get("size"), os.path.getsize(unfinished)
            if size is not None and arrived != size:
                raise OSError(f"{arrived} of {size} bytes arrived")
        return str(copy)
    except Exception as error:  # every storage driver has its own exceptions; all mean: no file
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        raise SourceError(
            f"{uri}: cannot be copied to this machine ({reason}); check the address, the credentials and the "
            f"space in {CACHE_VARIABLE} or the temporary folder"
        ) from error


def remote_version(uri: str) -> str:
    """What the storage says of a remote file's version: its size, and its ETag or, without one, its time; "" for local.

    Also "" where the storage says nothing or does not answer: reading will tell.
    """
    if "://" not in uri or uri.startswith("file://"):
        return ""
    try:
        filesystem, path = find_filesystem(uri)
        facts = filesystem.info(path)
    except Exception:  # every storage driver has its own
        return ""
    known = [str(facts[key]) for key in VERSION_KEYS[1:] if facts.get(key)]
    return f"{facts.get('size')} {known[0] if known else ''}"


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"fewscope-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not chosen and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set {CACHE_VARIABLE} to a folder of yours")
    remove_leftovers(str(folder), below=False, older_than_s=LEFTOVER_S)
    return folder

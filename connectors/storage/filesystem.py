"""Local disk and object stores alike: files that appear whole or not at all, errors in one line."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from fewscope.errors import OutputError, RunMismatch


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of a path or URL, and the path on it (no trailing slash)."""
    fs, path = url_to_fs(uri)
    return fs, path.rstrip("/") or path


def is_local(fs: AbstractFileSystem) -> bool:
    """True for the local disk, where files are renamed into place."""
    return isinstance(fs, LocalFileSystem)


def _describe(path: str, error: BaseException) -> str:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        cure = (
            "free some space and run the same command again (finished units are kept), or use another --out"
        )
    elif isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
        cure = "a file is where a folder should be; move it away or use another --out"
    elif isinstance(error, PermissionError) or code == errno.EROFS:
        cure = "use an --out that you may write to"
    else:
        cure = "check the location and run the same command again (finished units are kept)"
    return f"cannot write {path}: {reason}; {cure}"


@contextmanager
def output_errors(path: str) -> Iterator[None]:
    """Turn what goes wrong while writing ``path`` into a one-line `OutputError`."""
    try:
        yield
    except (OutputError, RunMismatch):
        raise
    except OSError as error:
        raise OutputError(_describe(path, error)) from error
    except Exception as error:
        # s3fs translates most errors to OSError, but not those of credentials and connections.
        if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp"):
            raise OutputError(_describe(path, error)) from error
        raise


@contextmanager
def atomic_path(path: str) -> Iterator[str]:
    """A temporary local name, renamed to ``path`` (durably) when the block succeeds, else removed."""
    with temporary_path(path) as temporary:
        yield temporary
        _sync(temporary)


@contextmanager
def temporary_path(path: str) -> Iterator[str]:
    """Likewise, without waiting for the disk: after a power cut there may be a damaged file."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def output_path(uri: str) -> Iterator[str]:
    """A temporary local name with the same ending, for libraries that write files of their own.

    When the block succeeds, the file is renamed to ``uri`` or uploaded by one put; else it is removed. Sidecar
    files that a library leaves beside it (SQLite's journal) are removed too.
    """
    fs, path = open_filesystem(uri)
    folder, name = os.path.split(path)
    if is_local(fs):
        os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fewscope-", dir=folder if is_local(fs) else None) as scratch:
        temporary = os.path.join(scratch, name)
        yield temporary
        if is_local(fs):
            _sync(temporary)
            os.replace(temporary, path)
        else:
            fs.put_file(temporary, path)


def _sync(path: str) -> None:
    """Have the disk hold a file: a rename may reach it before the bytes do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    Raises
    ------
    OutputError
        The disk is full or read-only, a file is in the way, or the object store refuses.
    """
    with output_errors(path):
        if not is_local(fs):
            fs.pipe_file(path, data)
            return
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(data)


def remove(fs: AbstractFileSystem, path: str) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    with output_errors(path), suppress(FileNotFoundError):
        fs.invalidate_cache()
        fs.rm(path, recursive=True)


def _list(fs: AbstractFileSystem, path: str) -> list[str]:
    """Sorted base names in a folder; empty where there is no such folder. Never from fsspec's cache."""
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries if str(entry).rstrip("/") != path}
    return sorted(names)

"""Local disk and object stores: filesystems of paths and URLs, and write errors in one line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from fewscope.errors import MissingPackageError, OutputError, RunMismatch


def find_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of a path or URL, and the path on it.

    Raises
    ------
    MissingPackageError
        The package for the protocol is not installed; the message names it.
    """
    try:
        fs, path = url_to_fs(uri)
    except ImportError as error:
        cure = "pip install 'fewscope[s3]'" if uri.startswith(("s3://", "s3a://")) else str(error)
        raise MissingPackageError(
            f"no package is installed that reads {uri.partition('://')[0]}://; {cure}"
        ) from error
    return fs, path


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of a run's folder or file, and the path on it (no trailing slash).

    Raises
    ------
    OutputError
        The package for the protocol is not installed.
    """
    try:
        fs, path = find_filesystem(uri)
    except ImportError as error:
        raise OutputError(f"{uri}: {error}") from error
    return fs, path.rstrip("/") or path


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether files are on the local disk, where they are renamed into place."""
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
    """Convert errors of writing ``path`` to a one-line `OutputError`."""
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


def sync(path: str) -> None:
    """Wait until the disk holds a file's bytes: a rename may reach it before them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(fs: AbstractFileSystem, path: str) -> None:
    """Remove a file or a whole folder, if it exists."""
    with output_errors(path), suppress(FileNotFoundError):
        fs.invalidate_cache()
        fs.rm(path, recursive=True)


def list_names(fs: AbstractFileSystem, path: str) -> list[str]:
    """Sorted base names in a folder, bypassing fsspec's cache; empty if there is no such folder."""
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries if str(entry).rstrip("/") != path}
    return sorted(names)

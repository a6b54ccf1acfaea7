"""Clients of object stores in this process."""

from __future__ import annotations

import s3fs
from fsspec.asyn import sync
from zarr.core.sync import sync as zarr_sync


def forget_s3() -> None:
    """Close all clients of s3fs, and forget them: the next to ask for a bucket gets one of its own.

    Those that are merely forgotten have 0.1 s to close their sessions. On a busy machine that is too short, and the
    session's warning then fails another test.
    """
    for client in list(s3fs.S3FileSystem._cache.values()):
        if client._s3 is None:
            continue
        if client.loop is None:  # of zarr, which has a loop of its own
            zarr_sync(client._s3creator.__aexit__(None, None, None))
        else:
            sync(client.loop, client._s3creator.__aexit__, None, None, None)
    s3fs.S3FileSystem.clear_instance_cache()

"""Object stores on this machine, and their clients in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
import s3fs
from fsspec.asyn import sync
from zarr.core.sync import sync as zarr_sync


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """The address of an S3 bucket on loopback; credentials and endpoint come from the environment, as for users."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    old = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    # fsspec keeps clients by their arguments: one of its own, not that of another test's endpoint
    fsspec.config.conf["s3"] = {"version_aware": False}
    try:
        import boto3

        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"
    finally:
        forget_s3()
        server.stop()
        del fsspec.config.conf["s3"]
        for key, value in old.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


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

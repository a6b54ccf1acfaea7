"""GDAL's settings for every read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import rasterio

CACHE_BYTES = 128 * 2**20
"""GDAL's cache of decoded blocks, per process. Its default is 5 % of the machine's memory, which workers multiply."""


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL's settings: a small cache, and the endpoint of the object store from the variables that other tools read,
    ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL``.
    """
    options: dict[str, Any] = {}
    if "GDAL_CACHEMAX" not in os.environ:
        options["GDAL_CACHEMAX"] = CACHE_BYTES  # rasterio takes bytes, where GDAL takes megabytes
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "AWS_S3_ENDPOINT" not in os.environ:
        parts = urlsplit(endpoint)
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc,
            "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
    with rasterio.Env(**options):
        yield

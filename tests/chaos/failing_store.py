"""An S3 server behind a proxy that fails, delays and cuts connections."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

from tests.helpers.machine import free_ports

BUCKET = "results"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

WAYS = ("error", "slow down", "delay", "cut before", "cut after", "cut within")
"""What becomes of a request: an internal error; "slow down"; a second of waiting; the connection ends before the store
has it, after the store has done it, or in the middle of the answer."""


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and spoils some of them.

    Attributes
    ----------
    rate
        Part of the requests that is spoiled, 0 to 1.
    count
        Requests, and spoiled ones.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.rate, self.random = port, 0.0, Random(0)
        self.count = [0, 0]
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def choose(self) -> str:
        """What becomes of the next request; "" for nothing."""
        with self.lock:
            self.count[0] += 1
            if self.random.random() >= self.rate:
                return ""
            self.count[1] += 1
            return self.random.choice(WAYS)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is none of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        way = self.server.choose()
        if way == "delay":
            time.sleep(1.0)
        if way in ("error", "slow down"):
            return self._refuse(500 if way == "error" else 503)
        if way == "cut before":
            return self._cut()
        store = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    store.putheader(name, value)
            store.endheaders(body)
            answer = store.getresponse()
            data = answer.read()
        finally:
            store.close()
        if way == "cut after":
            return self._cut()
        self.send_response(answer.status)
        length = answer.getheader("Content-Length")
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        has_body = self.command != "HEAD"
        self.send_header("Content-Length", str(len(data)) if has_body or length is None else length)
        self.end_headers()
        if has_body:
            self.wfile.write(data[: len(data) // 2] if way == "cut within" else data)
        self.wfile.flush()
        if way == "cut within":
            self._cut()

    def _refuse(self, status: int) -> None:
        name = {500: "InternalError", 503: "SlowDown"}[status]
        text = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>spoiled</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on


@contextmanager
def failing_store() -> Iterator[Proxy]:
    """The proxy before a server with an empty bucket; fails nothing until its rate is set."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = Proxy(port)
    thread = threading.Thread(target=proxy.serve_forever, name="proxy", daemon=True)
    thread.start()
    try:
        limit = time.monotonic() + 120
        while True:
            try:
                put = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(put, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                assert time.monotonic() < limit, "no S3 server after 120 s"
                time.sleep(0.2)
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        server.kill()
        server.wait()


def environment(proxy: Proxy) -> dict[str, str]:
    """Variables by which a job finds the store."""
    return ACCESS | {"AWS_ENDPOINT_URL": proxy.address}


def objects(proxy: Proxy, prefix: str) -> dict[str, bytes]:
    """All objects under a prefix, read past the proxy."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{proxy.port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    found: dict[str, bytes] = {}
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
            for item in page.get("Contents", []):
                body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"]
                found[item["Key"][len(prefix) + 1 :]] = body.read()
                body.close()
    finally:
        client.close()
    return found

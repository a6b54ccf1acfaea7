"""What several test modules share: one small slide with its support set, one Ray for the whole session."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fakes
import pytest
import ray

import pipeline.run
from pipeline.plan import SegmentConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def slide(tmp_path_factory) -> str:
    return fakes.write_slide(tmp_path_factory.mktemp("slides") / "blobs.tif")


@pytest.fixture(scope="session")
def support(tmp_path_factory) -> str:
    return fakes.write_support(tmp_path_factory.mktemp("support") / "blobs")


@pytest.fixture
def config(slide, support, tmp_path) -> SegmentConfig:
    """Six units of 256 px; threshold and objects as `fakes.ByColour` has them."""
    return SegmentConfig(
        slide, support, str(tmp_path / "out"), shard=256, threshold=0.5, instances="components"
    )


@pytest.fixture
def no_pictures(monkeypatch):
    """Reports without pictures."""
    monkeypatch.setattr(pipeline.run, "draw", fakes.no_pictures)


@dataclass(frozen=True)
class Head:
    """A Ray head on this machine that asks for a token."""

    address: str
    dashboard: str
    token_path: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": self.token_path,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
        }


def free_ports(n: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """One Ray for the whole session: two CPUs, token authentication, and these tests importable by its workers."""
    folder = Path(tempfile.mkdtemp(prefix="fewscope-ray-"))  # short: Ray keeps sockets in it
    (folder / "token").write_text(secrets.token_hex(32))
    names = ["port", "dashboard-port", "ray-client-server-port", "node-manager-port", "object-manager-port"]
    # where these are told, Ray does not wait 15 s for the agents to choose theirs, which a busy machine exceeds
    names += [
        "metrics-export-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    head = Head(
        f"127.0.0.1:{ports['port']}", f"http://127.0.0.1:{ports['dashboard-port']}", str(folder / "token")
    )
    started = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats"),
            *("--object-store-memory=80000000", f"--temp-dir={folder / 'ray'}"),
            *(f"--{name}={port}" for name, port in ports.items()),
        ],
        env=os.environ
        | head.environment
        | {
            "RAY_ADDRESS": "",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # what a job calls python
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no FutureWarning about GPUs
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + 120
        while not _answers(head.dashboard):
            assert started.poll() is None, f"ray start ended with {started.returncode}"
            assert time.monotonic() < limit, "no Ray after 120 s"
            time.sleep(0.2)
        yield head
    finally:
        started.terminate()  # and --block makes it take its own processes along
        started.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False
    return True


@pytest.fixture
def ray_here(ray_head, monkeypatch) -> Iterator[None]:
    """This process is connected to Ray."""
    for name, value in ray_head.environment.items():
        monkeypatch.setenv(name, value)
    yield
    ray.shutdown()

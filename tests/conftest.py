"""What several test modules share: one small slide with its support set, one Ray for the whole session."""

# ruff: noqa: E402  (what Ray reads when it is imported has to be set before)

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.machine import ROOT, free_ports

# Torch's threads wait for each other at every small operation: on busy cores, for minutes. Read when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray reads these when it is imported: the tests' own token, whatever this machine has.
TOKEN = Path(tempfile.mkdtemp(prefix="fewscope-token-")) / "token"
TOKEN.write_text(secrets.token_hex(32))
atexit.register(shutil.rmtree, TOKEN.parent, ignore_errors=True)
os.environ.update(
    RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(TOKEN), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"
)

import pytest
import ray
from hypothesis import HealthCheck, settings

import fewscope.pipeline.report.builder
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.ray_start import start_ray
from tests.helpers import fakes
from tests.helpers.environments import lent_environment

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs Ray goes to one process, which starts it once, and first of all; then files of slow tests.

    Everything else stays together by file, so that what a module makes is made once.
    """
    ranks: dict[str, int] = {}
    for item in items:
        needs_ray = "ray_head" in item.fixturenames  # type: ignore[attr-defined]
        group = "ray" if needs_ray else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        if needs_ray:
            item.add_marker(pytest.mark.slow)
        rank = 0 if needs_ray else 1 if item.get_closest_marker("slow") else 2
        ranks[group] = min(rank, ranks.get(group, rank))
    items.sort(key=lambda item: ranks[item.get_closest_marker("xdist_group").args[0]])


@pytest.hookimpl(trylast=True)  # after the fixtures of the test
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last test that needs Ray, it is stopped: its dashboard alone takes a tenth of a core."""
    if nextitem is not None and "ray_head" not in nextitem.fixturenames:  # type: ignore[attr-defined]
        STOP_RAY.close()


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
    monkeypatch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)


@pytest.fixture
def quick_texture(monkeypatch):
    """Pixel classifiers learn in ten steps: worse ones, in a twentieth of the time."""
    from fewscope.model import views  # torch: not for those that do without
    from fewscope.model.networks import compact, pixel_classifier

    quick = functools.partial(pixel_classifier.fit_texture, steps=10, batch=256)
    for module in (compact, views):
        monkeypatch.setattr(module, "fit_texture", quick)


STOP_RAY = contextlib.ExitStack()
"""What ends the head that `ray_head` has started."""


@dataclass(frozen=True)
class Head:
    """A Ray head on this machine that asks for a token."""

    address: str
    dashboard: str


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """One Ray for the whole session: two CPUs, token authentication, and an environment that has no Fewscope.

    Its workers import what their driver imports: from the folder that it was started in, or that came with the job.
    """
    folder = Path(tempfile.mkdtemp(prefix="fewscope-ray-"))  # short: Ray keeps sockets in it
    names = ["port", "dashboard-port", "ray-client-server-port", "node-manager-port", "object-manager-port"]
    # where these are told, Ray waits for fewer of its agents, each at most 15 s, which a busy machine exceeds
    names += [
        "metrics-export-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    python = lent_environment(folder / "environment")
    head = Head(f"127.0.0.1:{ports['port']}", f"http://127.0.0.1:{ports['dashboard-port']}")
    started = subprocess.Popen(
        [
            *(python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats"),
            *("--object-store-memory=80000000", f"--temp-dir={folder / 'ray'}"),
            *(f"--{name}={port}" for name, port in ports.items()),
        ],
        env=os.environ
        | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},  # what a job calls python
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        started.terminate()  # and --block makes it take its own processes along
        started.wait(120)
        shutil.rmtree(folder, ignore_errors=True)

    STOP_RAY.callback(stop)
    try:
        limit = time.monotonic() + 240
        while not _answers(head.dashboard):
            assert started.poll() is None, f"ray start ended with {started.returncode}"
            assert time.monotonic() < limit, "no Ray after 240 s"
            time.sleep(0.2)
        yield head
    finally:
        STOP_RAY.close()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def ray_here(ray_head) -> Iterator[None]:
    """This process is connected to Ray: once for all tests of a module, as its workers then need not wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_head.address)
        patch.chdir(ROOT)
        start_ray()
        yield
        ray.shutdown()

"""Workers that die or hang, and machines that go: others do what they had, and the bytes are the same."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

import fewscope.pipeline.report.builder
from fewscope.errors import HolesError, WorkerError
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution import ray_pool
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.run import segment
from tests.conftest import Head
from tests.helpers import fakes
from tests.helpers.machine import ROOT, free_ports


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)
        yield


@pytest.fixture(scope="module")
def config(slide: str, support: str) -> SegmentConfig:
    return SegmentConfig(slide, support, "", shard=256, threshold=0.5, instances="components")


@pytest.fixture(scope="module")
def undisturbed(config: SegmentConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run gives in which nothing fails."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with LocalPool(fakes.ByColour) as pool:
        segment(dataclasses.replace(config, out=str(out)), pool, fakes.ByColour())
    return fakes.outputs(out)


def test_a_unit_that_kills_three_workers_is_a_hole_and_the_next_run_fills_it(
    ray_here: None, config: SegmentConfig, tmp_path: Path
) -> None:
    image = fakes.picture()
    image[3, 5] = fakes.POISON
    config = dataclasses.replace(config, source=fakes.write_slide(tmp_path / "poisoned.tif", image))
    whole, out = tmp_path / "whole", tmp_path / "out"
    with LocalPool(fakes.ByColour) as pool:
        segment(dataclasses.replace(config, out=str(whole)), pool, fakes.ByColour())

    config = dataclasses.replace(config, out=str(out))
    with RayPool(fakes.DiesOfPoison, 1) as pool, pytest.raises(HolesError) as caught:
        segment(config, pool, fakes.ByColour())
    said = str(caught.value)
    assert "\n" not in said
    assert "1 of 6 units killed 3 workers each (r000000_c000000" in said
    assert "The same command tries them again" in said
    import json

    report = json.loads((out / "report.json").read_text())
    assert [hole["unit"] for hole in report["holes"]] == ["r000000_c000000_h256_w256"]
    assert "could not be done and are empty" in " ".join(report["notes"])
    assert "rows 0 to 256, columns 0 to 256" in (out / "report.html").read_text()
    found, expected = (open_semantic(folder) for folder in (out, whole))
    assert not found[:256, :256].any()
    found[:256, :256] = expected[:256, :256]
    assert (found == expected).all(), "the other units are valid"

    with LocalPool(fakes.ByColour) as pool:
        report = segment(config, pool, fakes.ByColour())
    assert "holes" not in report
    assert fakes.outputs(out) == fakes.outputs(whole)


def open_semantic(out: Path):
    from fewscope.connectors.results.reader import open_result

    return open_result(str(out)).semantic[0].compute(scheduler="synchronous")


def test_a_worker_that_hangs_is_killed_and_its_units_done_again(
    ray_here: None,
    config: SegmentConfig,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flag, out = tmp_path / "hangs", tmp_path / "out"
    step, lost, killed = ray_pool._AtWork.step, ray_pool._AtWork._lost, []
    monkeypatch.setattr(ray_pool, "LOG_EVERY_S", 1.0)
    with RayPool(functools.partial(fakes.HangsOnce, str(flag)), 1, unit_timeout_s=600) as pool:

        def watched(self: ray_pool._AtWork, timeout_s: float) -> object:
            # short while it hangs: before and after, a busy machine takes as long for a unit
            pool.unit_timeout_s = 2.0 if flag.exists() and not killed else 600.0
            return step(self, timeout_s)

        def lost_once(self: ray_pool._AtWork, worker: object, reason: str) -> object:
            killed.append(reason)
            return lost(self, worker, reason)  # type: ignore[arg-type]

        monkeypatch.setattr(ray_pool._AtWork, "step", watched)
        monkeypatch.setattr(ray_pool._AtWork, "_lost", lost_once)
        segment(dataclasses.replace(config, out=str(out)), pool, fakes.ByColour())
    with pytest.raises(ProcessLookupError):
        os.kill(int(flag.read_text()), 0)
    assert killed == ["no answer for 2 s"]
    assert fakes.outputs(out) == undisturbed


STARTS = 3
"""A port that was free may be another's when Ray, seconds later, asks for it: then again, with others."""


@contextlib.contextmanager
def second_node(head: Head, log: Path) -> Iterator[Callable[[], None]]:
    """Another machine of the session's Ray, as far as Ray can tell; gives what kills it at once."""
    started = start_node(head, log)

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()

    try:
        limit, starts = time.monotonic() + 180, 1
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            if started.poll() is not None:
                assert starts < STARTS, (
                    f"ray start ended with {started.returncode}: {log.read_text()[-2000:]}"
                )
                started, starts = start_node(head, log), starts + 1
            assert time.monotonic() < limit, f"no second node after 180 s: {log.read_text()[-2000:]}"
            time.sleep(0.2)
        yield kill
    finally:
        kill()
        while sum(node["Alive"] for node in ray.nodes()) > 1:
            time.sleep(0.2)


def start_node(head: Head, log: Path) -> subprocess.Popen[bytes]:
    """``ray start`` of another node, in a session of its own; what it prints is in `log`."""
    names = ["node-manager-port", "object-manager-port", "metrics-export-port", "dashboard-agent-listen-port"]
    names += ["dashboard-agent-grpc-port", "runtime-env-agent-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "ray.scripts.scripts",
                    "start",
                    f"--address={head.address}",
                    "--block",
                ),
                *("--num-cpus=2", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"),
                *("--disable-usage-stats", *(f"--{name}={port}" for name, port in ports.items())),
            ],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


STAGES = ["run_units", "make_shard", "outline_unit"]
"""One of each way in which work is sent; `make chaos` tries every stage."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_machine_that_goes_takes_nothing_with_it(
    ray_head: Head,
    ray_here: None,
    config: SegmentConfig,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines with two workers each; one is killed while all of them are at work."""
    out = tmp_path / "out"
    with second_node(ray_head, tmp_path / "node.log") as kill, RayPool(fakes.ByColour, 4) as pool:
        pool.start()
        limit = time.monotonic() + 120
        while len(pool._ready) < 4:
            pool._wait([], 1.0)
            assert time.monotonic() < limit, "four workers"
        send = ray_pool._AtWork.assign
        killed = []

        def assign(self: ray_pool._AtWork) -> None:
            send(self)
            calls = [call for _, call, _ in self._sent.values()]
            at = {"run": "run_units", "call": "make_shard"}
            names = [at.get(call.method) or call.arguments[1].__name__ for call in calls]
            if stage in names and len(calls) >= 2 and not killed:
                killed.append(1)
                kill()

        monkeypatch.setattr(ray_pool._AtWork, "assign", assign)
        segment(dataclasses.replace(config, out=str(out), shard=128), pool, fakes.ByColour())
    assert killed
    with LocalPool(fakes.ByColour) as pool:
        segment(dataclasses.replace(config, out=str(tmp_path / "local"), shard=128), pool, fakes.ByColour())
    assert fakes.outputs(out) == fakes.outputs(tmp_path / "local")


@pytest.mark.slow
def test_without_any_machine_for_workers_one_line_says_what_to_do(
    ray_head: Head, ray_here: None, config: SegmentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers ask for more than the head has."""
    monkeypatch.setattr(ray_pool, "NO_MACHINE_S", 3.0)
    monkeypatch.setattr(ray_pool, "LOG_EVERY_S", 1.0)
    with second_node(ray_head, tmp_path / "node.log") as kill, RayPool(fakes.ByColour, 1) as pool:
        pool.start()
        while not pool._ready:
            pool._wait([], 1.0)
        pool._options["num_cpus"] = 64
        os.kill(pool._ready[0].pid, signal.SIGKILL)
        kill()
        with pytest.raises(WorkerError) as caught:
            segment(dataclasses.replace(config, out=str(tmp_path / "out")), pool, fakes.ByColour())
    assert "\n" not in str(caught.value)
    assert "no worker is left" in str(caught.value)
    assert "start machines" in str(caught.value)

"""Two machines of a Ray cluster on loopback, of which something is killed while a job is at work."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import psutil

from tests.chaos.scenes import Scene
from tests.helpers.machine import ROOT, free_ports

HEAD, OTHER = "127.0.0.1", "127.0.0.2"
TARGETS = ("worker", "raylet", "node", "head")
PATIENCE_S = 300.0

STAGES = {
    "slide": ("segment", "number instances", "pyramids", "tables", "outlines and pictures"),
    "raster": ("segment", "number instances", "pyramids", "tables", "map", "outlines and pictures"),
}
"""Stages that are tried, of which the workers have no part in the tables."""


def with_token() -> dict[str, str]:
    """Variables with a token of Ray: those that the tests have set, or new ones."""
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        path = Path(tempfile.mkdtemp(prefix="fewscope-token-")) / "token"
        path.write_text(secrets.token_hex(32))
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Machine:
    """One node: ``ray start --block`` with all its processes."""

    def __init__(self, ip: str, head_port: int, folder: Path, *, is_head: bool, n_cpus: int) -> None:
        names = ["node-manager-port", "object-manager-port", "metrics-export-port", "runtime-env-agent-port"]
        names += ["dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
        if is_head:
            names += ["dashboard-port", "ray-client-server-port"]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        where = ["--head", f"--port={head_port}", f"--temp-dir={folder}"] if is_head else []
        if is_head:
            where.append("--include-dashboard=false")
        else:
            where.append(f"--address={HEAD}:{head_port}")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        self._process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "ray.scripts.scripts",
                    "start",
                    "--block",
                    "--disable-usage-stats",
                    *where,
                ),
                *(f"--node-ip-address={ip}", f"--num-cpus={n_cpus}", "--object-store-memory=80000000"),
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            env=with_token(),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes, ``ray start`` first."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """The end of what ``ray start`` printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-1500:]

    def named(self, words: str) -> list[psutil.Process]:
        """Those of its processes whose command line begins or whose program is so."""
        found = []
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                if line and (line[0].startswith(words) or line[0].endswith(f"/{words}")):
                    found.append(process)
        return found

    def kill(self) -> None:
        """All processes at once, as a machine that is switched off."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Cluster:
    """A head with one CPU and another machine with two; what was killed is started again when it is needed."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fewscope-ray-"))  # short: Ray keeps sockets in it
        self.machines: dict[str, Machine] = {}
        self._port, self._n_heads = 0, 0

    @property
    def address(self) -> str:
        """Of the head."""
        return f"{HEAD}:{self._port}"

    def start(self, *, head_alone: bool = False) -> None:
        """Have both machines run, or the head alone."""
        if "head" not in self.machines or not self.machines["head"].is_alive:
            self.stop()
            (self._port,), self._n_heads = free_ports(1), self._n_heads + 1
            folder = self._folder / str(self._n_heads)
            self.machines["head"] = Machine(HEAD, self._port, folder, is_head=True, n_cpus=1)
            self._wait(1)
        if head_alone:
            return
        if "other" not in self.machines or not self.machines["other"].named("raylet"):
            if "other" in self.machines:
                self.machines.pop("other").kill()
                self._wait(1)
            self.machines["other"] = Machine(OTHER, self._port, self._folder, is_head=False, n_cpus=2)
            self._wait(2)

    def _wait(self, n: int) -> None:
        """Until Ray knows of so many machines."""
        program = "import ray, sys; from ray._raylet import GcsClient\n"
        program += "nodes = GcsClient(address=sys.argv[1]).get_all_node_info().values()\n"
        program += "print(sum(node.state == 0 for node in nodes))"
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            command = [sys.executable, "-c", program, self.address]
            done = subprocess.run(command, env=with_token(), capture_output=True, text=True, check=False)
            if done.stdout.strip() == str(n):
                return
            for name, machine in self.machines.items():
                assert machine.is_alive, f"ray start of {name} has ended: {machine.said}"
            time.sleep(0.5)
        raise AssertionError(f"no {n} machines: {done.stdout} {done.stderr[-500:]}")

    def kill(self, target: str, random: Random) -> bool:
        """Kill one of `TARGETS`; False if there is none."""
        if target == "head":
            self.machines["head"].kill()
            return True
        if target == "node":
            self.machines.pop("other").kill()
            return True
        if target == "raylet":
            victims = self.machines["other"].named("raylet")
        else:
            victims = [one for machine in self.machines.values() for one in machine.named("ray::Actor")]
        if not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            random.choice(victims).kill()
        return True

    def stop(self) -> None:
        """Kill all."""
        for machine in self.machines.values():
            machine.kill()
        self.machines.clear()

    def run(
        self, scene: Scene, out: Path, target: str, stage: str, after_s: float, random: Random
    ) -> tuple[int, str]:
        """Run a job, and kill something in it so long after a stage has begun; its exit code and stderr."""
        arguments = [argument for argument in scene.arguments if argument != "--local"]
        job = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.chaos.on_ray", scene.kind, *arguments),
                "--out",
                str(out),
                "--workers",
                "3",
            ],
            cwd=ROOT,
            env=with_token() | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        killed: list[bool] = []

        def watch() -> None:
            assert job.stdout is not None
            for line in job.stdout:
                if line.strip() == stage and not killed:
                    time.sleep(after_s)
                    killed.append(self.kill(target, random) if target else False)

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            code = job.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            job.kill()
            return job.wait() and 1000, "hangs"
        watching.join(10)
        assert job.stdout is not None
        assert job.stderr is not None
        errors = job.stderr.read()
        job.stdout.close()
        job.stderr.close()
        return code, errors


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster that is not started yet."""
    made = Cluster()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(made._folder, ignore_errors=True)


def fault_of_lost_head(errors: str) -> str | None:
    """What is wrong with what a job says whose head was killed: it must be one line, and say what to do."""
    lines = errors.splitlines()
    if len(lines) == 1 and lines[0].startswith("error: ") and "run the same command again" in lines[0]:
        return None
    return f"says {errors[-1500:]}"


def lost_machine(
    made: Cluster, scene: Scene, target: str, stage: str, random: Random, out: Path
) -> str | None:
    """Something is killed in a stage: the job ends by itself, or the head was it; what did not hold."""
    made.start()
    out.parent.mkdir(parents=True, exist_ok=True)
    after_s = random.uniform(0, 2.0 if stage == "segment" else 0.3)
    what = f"{target} killed {after_s:.2f} s into {stage!r}"
    code, errors = made.run(scene, out, target, stage, after_s, random)
    if target == "head" and code == 2:
        if wrong := fault_of_lost_head(errors):
            return f"{what}: {wrong}"
        made.start()
        code, errors = made.run(scene, out, "", "", 0.0, random)
        what += ", resumed"
    if code or errors:
        return f"{what}: {code} {errors[-1500:]}"
    wrong = scene.fault_of_files(out)
    return f"{what}: {wrong}" if wrong else None

"""One JSON line per measurement, with what it was measured on; and memory of processes, read from Linux."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS_OF = ("fewscope", "numpy", "scipy", "torch", "ray", "dask", "dask-image", "zarr", "openslide-python",
               "connected-components-3d")  # fmt: skip


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, and how busy the machine was meanwhile."""
    model = platform.processor() or platform.machine()
    gb = 0.0
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
        gb = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "cpu": model,
        "cores": n_cores(),
        "memory_gb": round(gb, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of what the measurements depend on."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def emit(benchmark: str, measured: dict[str, Any]) -> None:
    """Print one measurement: numbers to four digits, then hardware and versions."""
    line = {"benchmark": benchmark} | rounded(measured) | {"hardware": hardware(), "versions": versions()}
    print(json.dumps(line, allow_nan=False), flush=True)


def rounded(value: Any) -> Any:
    """Floats to four significant digits, at any depth."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value


@dataclass(slots=True)
class Process:
    """What was seen of one process. MB are 10^6 bytes; `samples` are (clock, resident now)."""

    pid: int
    parent: int
    name: str
    peak_mb: float = 0.0
    samples: list[tuple[float, float]] = field(default_factory=list)


class MemoryWatch:
    """Peak resident memory of a process and all its descendants, while the block runs.

    The peak is Linux's own (VmHWM), so nothing falls between two samples; shared memory counts in every process
    that touched it.
    """

    def __init__(self, pid: int, every_s: float = 0.1) -> None:
        self.pid, self.every_s = pid, every_s
        self.processes: dict[int, Process] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        if not Path("/proc/self/status").exists():
            raise SystemExit("peak memory is read from /proc: run this benchmark on Linux")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every_s):
            now = time.time()
            parents = {}
            for status in Path("/proc").glob("[0-9]*/status"):
                seen = _read_status(status)
                if seen:
                    parents[seen["pid"]] = seen
            for pid, seen in parents.items():
                if pid == self.pid or _descends(pid, self.pid, parents):
                    process = self.processes.setdefault(pid, Process(pid, seen["parent"], ""))
                    process.name = _name(pid) or process.name
                    process.peak_mb = max(process.peak_mb, seen["peak_mb"])
                    process.samples.append((now, seen["now_mb"]))


def _read_status(path: Path) -> dict[str, Any] | None:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return {
            "pid": int(lines["Pid"]),
            "parent": int(lines["PPid"]),
            "peak_mb": int(lines["VmHWM"].split()[0]) * 1024 / 1e6,
            "now_mb": int(lines["VmRSS"].split()[0]) * 1024 / 1e6,
        }
    except (OSError, KeyError, ValueError):  # gone meanwhile, or a kernel thread
        return None


def _name(pid: int) -> str:
    """The title of a process: Ray's workers say what they do."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[0].decode(errors="replace")


def _descends(pid: int, ancestor: int, parents: dict[int, dict[str, Any]]) -> bool:
    while pid in parents:
        pid = parents[pid]["parent"]
        if pid == ancestor:
            return True
    return False

"""The property: a file is read, or refused by one `FewscopeError` of one line that names it. Within limits.

A case is a folder of files and the one of them that is given to Fewscope. In this process, an exception and the time
are noticed; a child with a limit of memory (`run_kind`) also shows what crashes, hangs, or takes too much.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fewscope.errors import FewscopeError
from tests.helpers.machine import ROOT

MAX_SECONDS = 10.0
"""Processor time of one case. The slowest right ones take a second."""
MAX_MESSAGE = 1000
SPARE_BYTES = 3 * 2**30
"""What a child may allocate beyond what it has when the first case begins: a right one takes a tenth of that."""
SILENT_SECONDS = 90.0
"""A child that reports nothing for so long hangs: ten times what a case may take, for busy machines."""


@dataclass(frozen=True)
class Case:
    """Files by their path in a folder, the name that is given to Fewscope, and options of the kind."""

    files: dict[str, bytes]
    entry: str
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the files into an empty folder; the path of the entry."""
        shutil.rmtree(folder, ignore_errors=True)
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder / self.entry


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes
    ----------
    name
        Of a row of the table.
    cases
        Makes the strategy, which writes the right file first.
    use
        Gives ``(entry, options)`` to Fewscope, as a job would.
    examples
        Cases in the short form: about a second of them.
    """

    name: str
    cases: Callable[[], st.SearchStrategy[Case]]
    use: Callable[[Path, dict[str, Any]], None]
    examples: int


def fault_of(kind: Kind, case: Case, folder: Path) -> str | None:
    """What is wrong with how a case ends; None if the property holds."""
    entry = case.write(folder)
    start = time.process_time()
    fault = None
    try:
        kind.use(entry, case.options)
    except FewscopeError as error:
        fault = fault_of_message(str(error), folder)
        if fault:
            fault += f" [{_place(error)}]"
    except Exception as error:
        fault = f"{type(error).__name__} [{_place(error)}]: {' '.join(str(error).split())[:200]}"
    took = time.process_time() - start
    if fault is None and took > MAX_SECONDS:
        fault = f"took {took:.0f} s"
    return fault


def fault_of_message(text: str, folder: Path) -> str | None:
    """What is wrong with the text of an error about a file in `folder`; None if it is one line that names it."""
    if len(text.splitlines()) != 1:
        return f"message is not one line: {text[:200]!r}"
    if not text.isprintable():
        return f"message has control characters: {text[:200]!r}"
    if len(text) > MAX_MESSAGE:
        return f"message has {len(text)} characters: {text[:200]!r}"
    if str(folder) not in text:
        return f"message does not name the file: {text[:200]!r}"
    if "Traceback" in text:
        return f"message is a traceback: {text[:200]!r}"
    return None


def _place(error: BaseException) -> str:
    """The last line of Fewscope's own that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(str(ROOT)) and ".venv" not in f.filename] or frames[-1:]
    return f"{Path(own[-1].filename).name}:{own[-1].name}"


def try_cases(
    kind: Kind, number: int, n_examples: int, check: Callable[[Case], None], *, from_seed: int | None = None
) -> None:
    """Give `check` the cases that a seed makes, or (None) the same ones each time."""
    options: dict[str, Any] = {"max_examples": n_examples, "deadline": None, "database": None}
    options |= {"suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}

    @settings(derandomize=from_seed is None, **options)
    @given(kind.cases())
    def each(case: Case) -> None:
        check(case)

    (each if from_seed is None else seed(from_seed)(each))()


# --- children with limits -------------------------------------------------------------------------------


@dataclass
class Count:
    """A row of the table, and the faults: what is wrong, how often, and where the first cases of it are kept."""

    tried: int = 0
    held: int = 0
    faults: dict[str, list[str]] = field(default_factory=dict)
    n_of_fault: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Cases that did not hold."""
        return self.tried - self.held


def run_kind(name: str, build: Path, *, seconds: float, first_seed: int = 1, n_examples: int = 50) -> Count:
    """Try a kind for some time, in children with limits; what fails is kept in ``build/NAME-SEED-NUMBER``.

    0 seconds: one round of ``n_examples``, the same ones each time.
    """
    count, next_seed, end = Count(), first_seed, time.monotonic() + seconds
    while count.tried == 0 or time.monotonic() < end:
        left = max(1.0, end - time.monotonic()) if seconds else 0.0
        current = build / "current" / name
        command = [sys.executable, "-m", "tests.fuzz.child", name, str(current)]
        command += [str(next_seed), str(n_examples), f"{left:.1f}"]
        log = build / f"{name}.log"
        build.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as stderr:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        next_seed = _follow(child, count, name, current, build, next_seed) + 1
        if child.returncode == 0:
            break
    shutil.rmtree(build / "current" / name, ignore_errors=True)
    return count


def _follow(
    child: subprocess.Popen[str], count: Count, name: str, current: Path, build: Path, number: int
) -> int:
    """Count what a child reports until it ends; the last seed that it began."""
    assert child.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    under_way, hung = False, False
    while True:
        try:
            line = lines.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            hung = True
            os.killpg(child.pid, signal.SIGKILL)
            line = None
        if line is None:
            break
        message = json.loads(line)
        number = message["seed"]
        if message["state"] == "begin":
            under_way = True
            continue
        under_way = False
        kept = Path(message["case"])
        _note(count, name, kept, build, number, message["fault"])
        if kept != current:
            shutil.rmtree(kept, ignore_errors=True)
    child.wait()
    child.stdout.close()
    if under_way:
        how = f"nothing for {SILENT_SECONDS:.0f} s" if hung else f"the process ended with {child.returncode}"
        _note(count, name, current, build, number, how)
    elif child.returncode:
        raise RuntimeError(
            f"{name}: the child ended with {child.returncode} between cases; see {build}/{name}.log"
        )
    return number


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


KEPT_OF_A_FAULT = 3


def _note(count: Count, name: str, current: Path, build: Path, number: int, fault: str | None) -> None:
    count.tried += 1
    if fault is None:
        count.held += 1
        return
    key = fault.partition("]")[0] + "]" if "]" in fault else fault.partition(":")[0]
    count.n_of_fault[key] = count.n_of_fault.get(key, 0) + 1
    kept = count.faults.setdefault(key, [])
    if len(kept) < KEPT_OF_A_FAULT:
        folder = build / f"{name}-{number}-{count.tried}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(current, folder)
        (folder / "FAULT.txt").write_text(f"kind {name}, seed {number}\n{fault}\n")
        kept.append(f"{folder.name}: {fault}")

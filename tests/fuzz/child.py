"""Tries cases of one kind in a process with a limit of memory: ``child.py KIND FOLDER SEED N SECONDS``.

0 seconds: one round of N cases, whatever time it takes.

Says on stdout, as lines of JSON, when a case begins and how it ended; cases are written to FOLDER, one after another.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import shutil
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.harness import SPARE_BYTES, Case, fault_of, try_cases
from tests.fuzz.kinds import KINDS


class TimeIsOver(KeyboardInterrupt):
    """Ends a round of cases: hypothesis lets it pass."""


def limit_memory() -> None:
    """Allow `SPARE_BYTES` of address space beyond what this process has now."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, taken + SPARE_BYTES))


def main() -> None:
    """Try cases until the time is over."""
    name, folder, first_seed, n_examples, seconds = sys.argv[1:]
    kind = next(kind for kind in KINDS if kind.name == name)
    one_round = float(seconds) == 0
    end = time.monotonic() + float(seconds)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not come between the lines
    number = int(first_seed)
    limited = False

    def say(**message: Any) -> None:
        report.write(json.dumps(message) + "\n")
        report.flush()

    def check(case: Case) -> None:
        nonlocal limited
        if time.monotonic() > end and limited and not one_round:
            raise TimeIsOver
        case.write(Path(folder))
        if not limited and Path("/proc/self/statm").exists():
            limit_memory()
        limited = True
        say(state="begin", seed=number)
        fault, kept = fault_of(kind, case, Path(folder)), folder
        if fault and Path(folder).is_dir():  # before the next case takes its place
            kept = f"{folder}-{number}-{time.monotonic_ns()}"
            shutil.copytree(folder, kept)
        say(state="end", seed=number, fault=fault, case=kept)

    while number == int(first_seed) or time.monotonic() < end:
        with suppress(TimeIsOver):
            try_cases(kind, number, int(n_examples), check, from_seed=number)
        number += 1


if __name__ == "__main__":
    main()

"""Runs of the whole job, started from the page: the same command as on a command line, watched and cancelled.

A run has the folder ``runs/001``, ``002``... with a copy of the labels that it learns from, what the command has
printed, and for each source a folder with its result. Nothing is passed through a shell.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from fewscope import _version
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.errors import PageRunError

log = logging.getLogger(__name__)

FOLDER, RECORD, PROGRESS, OUTPUT, ERRORS = "runs", "run.json", "progress.jsonl", "log.txt", "errors.txt"
LOOK_S = 0.5
"""Between two looks at a run's progress."""

STOP_S = 15.0
"""A run that was asked to stop and has not after this time is killed; what it has finished is kept."""

MAX_WORKERS = 4096
HOLES = 3
_ADDRESS = re.compile(r"(ray://)?[A-Za-z0-9._-]{1,253}(:\d{1,5})?")

State = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class RunSource:
    """A source of a run: id and name in the page, address, and the folder of its result."""

    id: str
    name: str
    uri: str
    out: Path


@dataclass(frozen=True, slots=True)
class Request:
    """What the page asks for.

    Attributes
    ----------
    workers : int or None
        Ray actors; None: one process on this machine, or with `address` as many as fit.
    address : str or None
        Of a Ray cluster, "auto" for the one of this machine; None: no cluster.
    adapt_s : float or None
        Seconds for adapting to the labels; None: the command's default.
    """

    workers: int | None = None
    address: str | None = None
    adapt_s: float | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Request:
        """From the page's JSON.

        Raises
        ------
        PageRunError
            A value makes no sense.
        """
        workers, address, adapt = (body.get(name) for name in ("workers", "address", "adapt_s"))
        if workers is not None and (not _is_whole(workers) or not 1 <= workers <= MAX_WORKERS):
            raise PageRunError(f"workers are {str(workers)[:40]}; give 1 to {MAX_WORKERS}, or nothing")
        if address is not None and not (isinstance(address, str) and _ADDRESS.fullmatch(address)):
            raise PageRunError(
                f"{str(address)[:60]!r} is no address of Ray; give auto, host:6379 or ray://host:10001"
            )
        is_number = isinstance(adapt, int | float) and not isinstance(adapt, bool)
        if adapt is not None and not (is_number and 0 <= adapt <= 86400):
            raise PageRunError(f"the time for adapting is {str(adapt)[:40]}; give seconds, or nothing")
        return cls(workers, address, None if adapt is None else float(adapt))

    @property
    def arguments(self) -> list[str]:
        """Options of the command."""
        words: list[str] = []
        if self.adapt_s is not None:
            words += ["--adapt", f"{self.adapt_s:g}"]
        if self.workers is not None:
            words += ["--workers", str(self.workers)]
        elif self.address is None:
            words.append("--local")
        return words


@dataclass(slots=True)
class Run:
    """One run and what is known of it."""

    id: str
    folder: Path
    sources: tuple[RunSource, ...]
    command: str
    state: State = "running"
    stage: str | None = None
    done: int = 0
    total: int = 0
    message: str = ""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    asked_to_stop: bool = False

    def described(self) -> dict[str, Any]:
        """What the page must know."""
        results = [
            {
                "source": one.id,
                "count": self.counts[one.id].get("count"),
                "interval": self.counts[one.id].get("interval"),
                "warnings": self.counts[one.id].get("warnings") or [],
                "report_url": f"/api/runs/{self.id}/report/{one.id}/report.html",
            }
            for one in self.sources
            if one.id in self.counts
        ]
        first = results[0] if len(results) == 1 else {}
        return {
            "id": self.id,
            "state": self.state,
            "sources": [one.id for one in self.sources],
            "commands": [self.command],
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "message": self.message or None,
            "count": first.get("count"),
            "report_url": first.get("report_url"),
            "results": results,
        }

    def result_of(self, source: Any) -> Path:
        """Folder of the result of a source.

        Raises
        ------
        PageRunError
            There is none (yet).
        """
        for one in self.sources:
            if one.id == source and one.id in self.counts:
                return one.out
        raise PageRunError(f"run {self.id} has no result of this image")


class Runs:
    """All runs of an output folder, those of earlier starts of the server too.

    Parameters
    ----------
    out : Path
        The output folder.
    on_change : Callable[[Run], None]
        Called from a thread whenever a run has gone on.
    """

    def __init__(self, out: Path, on_change: Callable[[Run], None], ids: Mapping[str, str]) -> None:
        self._folder = out / FOLDER
        self._on_change = on_change
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.runs: dict[str, Run] = {}
        if self._folder.is_dir():
            for folder in sorted(self._folder.iterdir()):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    run = _read_record(folder, ids)
                    self.runs[run.id] = run

    def get(self, own: str) -> Run:
        """The run with an id.

        Raises
        ------
        PageRunError
            There is none.
        """
        run = self.runs.get(own)
        if run is None:
            raise PageRunError(f"there is no run {own[:20]!r}")
        return run

    def new_folder(self) -> Path:
        """An empty folder with the next number.

        Raises
        ------
        PageRunError
            It cannot be made, or another run is going on.
        """
        with self._lock:
            if any(run.state == "running" for run in self.runs.values()):
                raise PageRunError("another run is going on; wait for its end, or cancel it")
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                taken = [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]
                folder = self._folder / f"{max(taken, default=0) + 1:03d}"
                folder.mkdir()
            except OSError as error:
                raise PageRunError(
                    f"{self._folder}: cannot be written ({error.strerror}); free some space"
                ) from error
            return folder

    def start(
        self, folder: Path, job: str, sources: Sequence[RunSource], arguments: Sequence[str], request: Request
    ) -> Run:
        """Start a command in a process of its own.

        Parameters
        ----------
        folder : Path
            From `new_folder`.
        job : str
            "segment" or "map".
        arguments : Sequence[str]
            Of the command, without those of `request`.

        Raises
        ------
        PageRunError
            The process cannot be started.
        """
        words = [job, *arguments, *request.arguments]
        environment = dict(os.environ)
        if request.address is not None:
            environment["RAY_ADDRESS"] = request.address
        else:
            environment.pop("RAY_ADDRESS", None)
        root = str(Path(_version.__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        shown = shlex.join(["fewscope", *words])
        if request.address is not None:
            shown = f"RAY_ADDRESS={shlex.quote(request.address)} {shown}"
        run = Run(folder.name, folder, tuple(sources), shown)
        argv = [sys.executable, *module_words([*words, "--progress-json", str(folder / PROGRESS)])]
        try:
            with open(folder / OUTPUT, "wb") as output, open(folder / ERRORS, "wb") as errors:
                run.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,  # Ctrl-C in the server's terminal stops it through `close`
                )
        except OSError as error:
            raise PageRunError(f"the run cannot be started ({error.strerror})") from error
        with self._lock:
            self.runs[run.id] = run
        _write_record(run)
        thread = threading.Thread(target=self._watch, args=(run,), name=f"run-{run.id}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return run

    def cancel(self, run: Run) -> None:
        """Ask a run to stop; what it has finished is kept. Nothing happens to a run that has ended."""
        if run.process is not None and run.process.poll() is None:
            run.asked_to_stop = True
            run.process.terminate()

    def close(self) -> None:
        """Stop all runs, and wait for them."""
        for run in list(self.runs.values()):
            self.cancel(run)
        for thread in self._threads:
            thread.join()

    def _watch(self, run: Run) -> None:
        """Follow a run's progress until it ends."""
        process, stop_by = run.process, float("inf")
        assert process is not None
        progress: IO[str] | None = None
        try:
            while True:
                ended = _has_ended(process, LOOK_S)
                if progress is None and (run.folder / PROGRESS).is_file():
                    progress = open(run.folder / PROGRESS, encoding="utf-8")  # noqa: SIM115  # followed
                lines = [] if progress is None else progress.readlines()
                for line in lines:
                    _take(run, line)
                if lines:
                    self._on_change(run)
                if ended:
                    break
                if run.asked_to_stop:
                    stop_by = min(stop_by, time.monotonic() + STOP_S)
                    if time.monotonic() > stop_by:
                        process.kill()
        finally:
            if progress is not None:
                progress.close()
        self._end(run, process.returncode)

    def _end(self, run: Run, code: int) -> None:
        errors = _last_line(run.folder / ERRORS)
        if code in (0, HOLES):
            run.state, run.message = "done", errors.removeprefix("error: ") if code else ""
        elif run.asked_to_stop:  # whatever the signal met, as in an import that it broke off
            run.state, run.message = "cancelled", "stopped; the same command resumes"
        else:
            run.state = "failed"
            run.message = (
                errors.removeprefix("error: ") or f"ended with status {code}; see {run.folder / OUTPUT}"
            )
        run.stage = None
        _write_record(run)
        self._on_change(run)


def module_words(words: Sequence[str]) -> list[str]:
    """Arguments of Python that run a command of this Fewscope."""
    return ["-m", "fewscope", *words]


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _take(run: Run, line: str) -> None:
    """Take over a line of progress."""
    try:
        found = json.loads(line)
        source = next(one for one in run.sources if one.uri == found["source"])
    except (ValueError, KeyError, TypeError, StopIteration):
        return
    if found.get("state") == "done":
        run.counts[source.id] = {key: found.get(key) for key in ("count", "interval", "warnings")}
    elif found.get("state") == "failed":
        run.message = str(found.get("error", ""))
    else:
        run.stage = f"{source.name}: {found['stage']}" if len(run.sources) > 1 else found["stage"]
        run.done, run.total = int(found["done"]), int(found["total"] or 0)


def _write_record(run: Run) -> None:
    record = {
        "id": run.id,
        "state": run.state,
        "command": run.command,
        "message": run.message,
        "sources": [{"uri": one.uri, "name": one.name} for one in run.sources],
        "counts": {one.uri: run.counts[one.id] for one in run.sources if one.id in run.counts},
    }
    path = str(run.folder / RECORD)
    write_atomic(open_filesystem(path)[0], os.path.abspath(path), json.dumps(record, indent=1).encode())


def _read_record(folder: Path, ids: Mapping[str, str]) -> Run:
    """A run of an earlier start; sources that are not open now are left out."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    sources = tuple(
        RunSource(ids[one["uri"]], str(one["name"]), one["uri"], folder / Path(one["name"]).name)
        for one in record["sources"]
        if one["uri"] in ids
    )
    state: State = record["state"] if record["state"] in ("done", "failed") else "cancelled"
    run = Run(folder.name, folder, sources, str(record["command"]), state, message=str(record["message"]))
    if record["state"] == "running":
        run.message = "the server ended before it did; the same command resumes"
    for one in sources:
        if one.uri in record["counts"] and (one.out / "report.html").is_file():
            run.counts[one.id] = dict(record["counts"][one.uri])
    return run


def _last_line(path: Path) -> str:
    with suppress(OSError):
        lines = path.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:500]
    return ""


def copy_labels(path: Path, folder: Path) -> Path:
    """A copy of the labels that a run learns from, in its folder."""
    copied = folder / path.name
    shutil.copyfile(path, copied)
    return copied


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

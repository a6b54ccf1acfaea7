"""The kinds of disturbance: each disturbs jobs at a place that is drawn by lot, and tells what did not hold."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fewscope.connectors.results.unit_files import FOLDER
from tests.chaos import program
from tests.chaos.failing_store import BUCKET, Proxy, environment, objects
from tests.chaos.program import Fault
from tests.chaos.scenes import NOTHING, End, Scene, _processes, fault_of_end, read_end

KILLED = -9
BY_SIZE = -25
"""By SIGXFSZ: a file has become too large."""
BAD_INPUT, TERMINATED = 2, 143
STORE_FAILS_S = 30.0
"""How long a store goes on failing: a quarter of `scenes.PATIENCE_S`."""

CURES = {
    "full": "free some space",
    "read-only": "that you may write to",
    "broken": "run the same command again",
}

Try = Callable[[Scene, Random, Path], str | None]
"""Disturbs a job that writes to a folder; what did not hold, None if all did."""


@dataclass(frozen=True)
class Kind:
    """A row of the table: a disturbance, for slides and for rasters.

    Attributes
    ----------
    needs
        "mounts": to be allowed to make a disk; "store": an S3 server, which is in `STORE`.
    """

    name: str
    attempt: Try
    needs: str = ""


def some_stage(scene: Scene, random: Random, of: dict[str, int] | dict[str, float]) -> str:
    """Any stage in which something happens."""
    return random.choice([stage for stage, n in of.items() if n])


def some_event(scene: Scene, random: Random, what: str) -> Fault:
    """A fault at one of the events of the disk."""
    stage = some_stage(scene, random, scene.events)
    return Fault(what, stage, random.randrange(scene.events[stage]))  # type: ignore[arg-type]


def some_moment(scene: Scene, random: Random, what: str) -> Fault:
    """A fault at any time in a stage."""
    stage = some_stage(scene, random, scene.seconds)
    return Fault(what, stage, after_s=random.uniform(0, scene.seconds[stage]))  # type: ignore[arg-type]


def disturbed(scene: Scene, out: Path, fault: Fault, allowed: tuple[int, ...]) -> str | None:
    """Run with a fault; what is wrong with the end, with the fault."""
    wrong = fault_of_end(scene.run(out, fault), out, allowed)
    return f"{fault}: {wrong}" if wrong else None


def killed_at_events(scene: Scene, random: Random, out: Path) -> str | None:
    """Killed at an event of the disk, one to three times in turn, then resumed."""
    faults = [some_event(scene, random, "kill") for _ in range(random.choice((1, 1, 2, 3)))]
    for fault in faults:
        if wrong := disturbed(scene, out, fault, (KILLED, 0)):
            return wrong
    return told(faults, scene.fault_of_resumed(out))


def killed_at_moments(scene: Scene, random: Random, out: Path) -> str | None:
    """Killed at any time, one to three times in turn, then resumed."""
    faults = [some_moment(scene, random, "kill") for _ in range(random.choice((1, 1, 2, 3)))]
    for fault in faults:
        if wrong := disturbed(scene, out, fault, (KILLED, 0)):
            return wrong
    return told(faults, scene.fault_of_resumed(out))


def killed_within_a_write(scene: Scene, random: Random, out: Path) -> str | None:
    """Killed in the middle of writing a file, also by libraries in C."""
    fault = Fault("kill", max_bytes=int(2 ** random.uniform(3, 15)))
    return disturbed(scene, out, fault, (BY_SIZE, 0)) or told([fault], scene.fault_of_resumed(out))


def terminated(scene: Scene, random: Random, out: Path) -> str | None:
    """SIGTERM at any time: one line, and the exit code of a program that was told to stop."""
    fault = random.choice((some_event, some_moment))(scene, random, "terminate")
    return disturbed(scene, out, fault, (TERMINATED, 0)) or told([fault], scene.fault_of_resumed(out))


def refused(scene: Scene, random: Random, out: Path) -> str | None:
    """From an event on, the disk is full, read-only or broken: one line that says so, then resumed."""
    fault = some_event(scene, random, random.choice(sorted(program.REFUSED)))
    end = scene.run(out, fault)
    wrong = fault_of_end(end, out, (BAD_INPUT, 0))
    if wrong is None and end.code == BAD_INPUT:
        wrong = fault_of_cure(end, CURES[fault.what])
    return f"{fault}: {wrong}" if wrong else told([fault], scene.fault_of_resumed(out))


def too_large(scene: Scene, random: Random, out: Path) -> str | None:
    """Files may not grow beyond a size, in libraries in C neither: one line, then resumed."""
    fault = Fault("full", max_bytes=int(2 ** random.uniform(3, 15)))
    return disturbed(scene, out, fault, (BAD_INPUT, 0)) or told([fault], scene.fault_of_resumed(out))


def fault_of_cure(end: End, words: str) -> str | None:
    """None if the line says what to do."""
    return None if words in end.errors[0] else f"does not say {words!r}: {end.errors[0]}"


def two_drivers(scene: Scene, random: Random, out: Path) -> str | None:
    """Two jobs on one folder, the second one at any time after the first one, of which one may be killed."""
    fault = random.choice((NOTHING, some_event(scene, random, "kill")))
    first = scene.start(out, fault)
    time.sleep(random.uniform(0, sum(scene.seconds.values())))
    ends = [end.end() for end in (scene.start(out), first)]
    for end in ends:
        wrong = fault_of_end(end, out, (0, BAD_INPUT, *((KILLED,) if fault.what == "kill" else ())))
        if wrong is None and end.code == BAD_INPUT:
            wrong = fault_of_cure(end, "is in use by process")
        if wrong:
            return f"{fault}: {wrong}"
    if fault == NOTHING and not any(end.code == 0 for end in ends):
        return f"both were refused: {ends}"
    return told([fault], scene.fault_of_resumed(out))


def flip(path: Path, random: Random) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, random: Random) -> None:
    """The end is missing."""
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(max(1, len(data)))])


def empty(path: Path, random: Random) -> None:
    """Nothing is left."""
    path.write_bytes(b"")


def scramble(path: Path, random: Random) -> None:
    """Of the same size, all different."""
    path.write_bytes(random.randbytes(path.stat().st_size))


def remove(path: Path, random: Random) -> None:
    """The file is gone, or with it all in its folder."""
    if random.random() < 0.2:
        shutil.rmtree(path.parent)
    else:
        path.unlink()


DAMAGE = (flip, truncate, empty, scramble, remove)


def damaged(scene: Scene, random: Random, out: Path) -> str | None:
    """Stopped anywhere or finished, files damaged: done again, or one line that names a file and the cure."""
    fault = random.choice((NOTHING, *[some_event(scene, random, "kill")] * 4))
    if wrong := disturbed(scene, out, fault, (KILLED, 0)):
        return wrong
    done = []
    for _ in range(random.randint(1, 4)):
        files = sorted(path for path in out.rglob("*") if path.is_file())
        if files:
            path, damage = random.choice(files), random.choice(DAMAGE)
            damage(path, random)
            done.append(f"{damage.__name__} {path.relative_to(out)}")
    end = scene.run(out)
    wrong = fault_of_end(end, out, (0, BAD_INPUT))
    recorded = any((out / FOLDER / name).exists() for name in ("manifest.json", "markers"))
    if wrong is None and end.code == BAD_INPUT and not recorded:
        wrong = fault_of_cure(end, "use another --out")  # nothing says that these files are a run's
    elif wrong is None and end.code == BAD_INPUT:
        wrong = fault_of_cure(end, "--overwrite") or scene.fault_of_resumed(out, "--overwrite")
    elif wrong is None:
        wrong = scene.fault_of_files(out)
    return f"{fault}, {done}: {wrong}" if wrong else None


def told(faults: list[Fault], wrong: str | None) -> str | None:
    """What is wrong, with what was done before."""
    return f"{faults}: {wrong}" if wrong else None


# --- real disks, where mounting is allowed --------------------------------------------------------------


def may_mount() -> bool:
    """Whether this process may make a small disk for itself alone."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


CLONE_NEWNS = 0x20000


def on_small_disk(scene: Scene, out: Path, n_bytes: int, read_only_after: Fault, result: Path) -> None:
    """In a child: run on a disk of so many bytes, then on a larger one; how both ended, and the files.

    With a fault, the disk is large, and read-only from when the fault has killed a first job.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    disk = out.parent / "disk"
    disk.mkdir(exist_ok=True)
    mount = "mount -t tmpfs -o size=%d tmpfs %s"
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run((mount % (n_bytes, disk)).split(), check=True)
    ends: list[End] = []

    def job(fault: Fault = NOTHING) -> None:
        said = result.with_suffix(".one")
        child = os.fork()
        if not child:
            program.run(scene.kind, [*scene.arguments, "--out", str(disk / out.name)], said, fault)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        ends.append(read_end(said, os.waitstatus_to_exitcode(status)))

    if read_only_after != NOTHING:
        job(read_only_after)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    job()
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
    job()
    shutil.copytree(disk / out.name, out, dirs_exist_ok=True)
    result.write_text(repr([(end.code, end.errors) for end in ends]))


def small_disk(scene: Scene, random: Random, out: Path) -> str | None:
    """A real disk that is full, or becomes read-only, and then has room again."""
    n_bytes, fault = int(random.uniform(0.02, 1.2) * scene.n_bytes) + 8192, NOTHING
    if random.random() < 0.3:
        n_bytes, fault = 2**26, some_event(scene, random, "kill")
    result = Path(f"{out}.disk")
    child = _processes.Process(target=on_small_disk, args=(scene, out, n_bytes, fault, result))
    child.start()
    child.join()
    if not result.exists():
        return f"the harness ended with {child.exitcode}"
    *_, disturbed_end, last = [End(code, errors) for code, errors in eval_of(result)]
    what = f"{n_bytes} bytes" if fault == NOTHING else f"read-only after {fault}"
    wrong = fault_of_end(disturbed_end, out.parent / "disk", (BAD_INPUT, 0))
    if wrong is None and disturbed_end.code == BAD_INPUT:
        words = "free some space" if fault == NOTHING else "that you may write to"
        wrong = fault_of_cure(disturbed_end, words)
    if wrong is None and (last.code != 0 or last.errors):
        wrong = f"resumed: {last.code} {last.errors}"
    wrong = wrong or scene.fault_of_files(out)
    return f"{what}: {wrong}" if wrong else None


def eval_of(result: Path) -> list[tuple[int, list[str]]]:
    """How the jobs on a small disk ended."""
    import ast

    found: list[tuple[int, list[str]]] = ast.literal_eval(result.read_text())
    return found


# --- an object store that fails -------------------------------------------------------------------------

STORE: list[Proxy] = []


def failing_store(scene: Scene, random: Random, out: Path) -> str | None:
    """For a while, requests fail, are late or are cut, and the job may be killed: it comes through, or says so in one
    line.

    Clients wait longer and longer before they try again, so that a job at a store that fails for good takes hours.
    """
    (proxy,) = STORE
    out.parent.mkdir(parents=True, exist_ok=True)
    uri = f"s3://{BUCKET}/{out.parent.name}-{os.urandom(4).hex()}"
    fault = (
        NOTHING if random.random() < 0.6 else some_moment(scene, random, random.choice(("kill", "terminate")))
    )
    proxy.random, proxy.rate = Random(random.random()), random.choice((0.02, 0.1, 0.33, 0.8))
    what = f"{proxy.rate:.0%} of requests, {fault}"
    recovery = threading.Timer(STORE_FAILS_S, setattr, (proxy, "rate", 0.0))
    recovery.start()
    try:
        end = scene.start(uri, fault, folder=out.parent, **environment(proxy)).end()
    finally:
        recovery.cancel()
        proxy.rate = 0.0
    allowed = {"kill": KILLED, "terminate": TERMINATED}.get(fault.what, 0)
    wrong = fault_of_end(end, uri, (0, BAD_INPUT, allowed))
    if wrong:
        return f"{what}: {wrong}"
    end = scene.start(uri, folder=out.parent, **environment(proxy)).end()
    if end.code != 0 or end.errors:
        return f"{what}, resumed: {end.code} {end.errors}"
    for name, data in objects(proxy, uri.removeprefix(f"s3://{BUCKET}/")).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    wrong = scene.fault_of_files(out)
    return f"{what}: {wrong}" if wrong else None


KINDS = [
    Kind("killed at events", killed_at_events),
    Kind("killed any time", killed_at_moments),
    Kind("killed in a write", killed_within_a_write),
    Kind("terminated", terminated),
    Kind("disk refuses", refused),
    Kind("files too large", too_large),
    Kind("small disk", small_disk, needs="mounts"),
    Kind("failing store", failing_store, needs="store"),
    Kind("two drivers", two_drivers),
    Kind("damaged files", damaged),
]

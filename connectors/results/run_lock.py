"""One driver on an output folder: the lock file ``<out>/.fewscope/lock.json``.

The lock names the process that holds it, and its holder renews a heartbeat in it. Who finds a lock decides by itself
whether the holder is alive:

- on the same host by the process number and the time at which that process was started, at once;
- from another host, or from another container, by the heartbeat: it is dead after `STALE_AFTER_S` without one.

On a local disk a lock is made by a hard link, which fails where there is one already; on object stores by a put that
the store refuses if the object exists (``If-None-Match``; S3 and its like, Google Cloud Storage). A store that does not
know such a put is written and read back: of two drivers that start within the same second, both may then go on until
the next heartbeat, at which one of them notices and stops.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import is_local, open_filesystem, output_errors
from fewscope.errors import OutputError, RunInUse

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
"""Between two heartbeats."""

STALE_AFTER_S = 300.0
"""Without a heartbeat, after which a holder on another host is taken for dead: 15 heartbeats, so that a machine under
load, a store that fails for a minute, or clocks that differ by a minute do not count."""

ATTEMPTS = 3
"""To write a lock: whoever holds the folder removes what killed processes have left, this one's too at that moment."""

READ_BACK_S = 0.5
"""Until a lock on an object store is read back, so that of two drivers the later one shows."""


def process_started(pid: int) -> str | None:
    """When a process of this host was started, in the system's own words; None if there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] in "ZX" else stat[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    except (OSError, IndexError):
        pass
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def _host() -> dict[str, str]:
    """This host, since it was started, and the container whose process numbers are meant."""
    facts = {"host": socket.gethostname(), "boot": "", "container": ""}
    with suppress(OSError):
        facts["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        facts["container"] = os.readlink("/proc/self/ns/pid")
    return facts


class RunLock:
    """The lock of an output folder, held by this process while in its ``with`` block.

    Parameters
    ----------
    out
        Output folder, a local path or an fsspec URL.
    folder
        Folder of the lock file, under ``out``. Removed with the lock if nothing else is in it.
    optional
        Do without the lock where it may not be written: of a finished result, which is only read.

    Raises
    ------
    RunInUse
        From ``with``: another driver holds the folder. From `check`: another one has taken it.
    OutputError
        The lock cannot be written.
    """

    def __init__(self, out: str, folder: str, *, optional: bool = False) -> None:
        self.out = out
        self._optional = optional
        fs, root = open_filesystem(out)
        self._fs, self._path = fs, f"{root}/{folder}/lock.json"
        self._token = uuid.uuid4().hex
        self._taken_by: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._since = time.time()

    def __enter__(self) -> RunLock:
        try:
            self._acquire()
        except OutputError as error:
            cause = error.__cause__
            refused = isinstance(cause, PermissionError) or getattr(cause, "errno", None) == errno.EROFS
            if not (self._optional and refused):
                raise
        else:
            self._heart.start()
        return self

    def _acquire(self) -> None:
        with output_errors(self._path):
            while not self._create():
                holder = self._read()
                if holder is None:  # released at this moment, or damaged
                    self._remove_damaged()
                    continue
                if _is_alive(holder):
                    raise RunInUse(_refusal(self.out, holder))
                log.info("%s: the lock of %s is removed: that process is dead", self.out, _who(holder))
                self._remove(holder)

    def __exit__(self, *_: object) -> None:
        if not self._heart.is_alive():  # another driver's lock, or none
            return
        self._stop.set()
        self._heart.join()
        with suppress(Exception):  # what cannot be removed is stale as soon as this process is gone
            if (self._read() or {}).get("token") == self._token:
                self._fs.rm_file(self._path)
            if is_local(self._fs):  # fails unless there was nothing but the lock
                os.rmdir(os.path.dirname(self._path))

    def check(self) -> None:
        """Raise `RunInUse` if another driver has taken the folder: nothing more may be written here."""
        if self._taken_by is not None:
            raise RunInUse(_refusal(self.out, self._taken_by))

    def _record(self) -> bytes:
        pid = os.getpid()
        record = _host() | {
            "pid": pid,
            "process_started": process_started(pid),
            "token": self._token,
            "since": self._since,
            "heartbeat": time.time(),
        }
        return json.dumps(record | {"digest": _digest(record)}, indent=1).encode()

    def _create(self) -> bool:
        """Write the lock unless there is one; False if there is."""
        if is_local(self._fs):
            return _create_locally(self._path, self._record())
        try:
            self._fs.pipe_file(self._path, self._record(), mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # a store without such a put
            if self._read() is not None:
                return False
            self._fs.pipe_file(self._path, self._record())
        except Exception as error:
            if not _says_that_it_exists(error):
                raise
            return False
        time.sleep(READ_BACK_S)
        return (self._read() or {}).get("token") == self._token

    def _read(self) -> dict[str, Any] | None:
        """What the lock says; None if there is none, or if it is damaged."""
        try:
            self._fs.invalidate_cache()
            record = json.loads(self._fs.cat_file(self._path))
        except (FileNotFoundError, ValueError):
            return None
        return record if _is_whole(record) else None

    def _remove_damaged(self) -> None:
        """Remove a lock that says nothing: locks are written whole, so no living driver holds it."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            if self._read() is None:
                self._fs.rm_file(self._path)

    def _remove(self, holder: dict[str, Any]) -> None:
        """Remove the lock of a dead holder, and no other's that has come in its place meanwhile."""
        if not is_local(self._fs):
            if (self._read() or {}).get("token") == holder["token"]:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path)
            return
        aside = f"{os.path.dirname(self._path)}/.lock-{self._token}"
        with suppress(FileNotFoundError):
            os.rename(self._path, aside)
            with open(aside, "rb") as file:
                moved = json.loads(file.read())
            if moved["token"] != holder["token"]:  # a living one: put it back
                with suppress(FileExistsError):
                    os.link(aside, self._path)
            os.unlink(aside)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(Exception):  # the next one may get through
                holder = self._read()
                if holder is None:
                    self._create()
                elif holder["token"] != self._token:
                    self._taken_by = holder
                    return
                else:
                    write_atomic(self._fs, self._path, self._record(), durable=False)


def _create_locally(path: str, data: bytes) -> bool:
    """Write a file that must not exist, whole; False if it exists."""
    for attempt in range(ATTEMPTS):
        try:
            return _try_to_create(path, data)
        except FileNotFoundError:
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _try_to_create(path: str, data: bytes) -> bool:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".lock-", dir=folder, ignore_cleanup_errors=True) as scratch:
        written = os.path.join(scratch, "lock")
        with open(written, "wb") as file:
            file.write(data)
        try:
            os.link(written, path)
        except FileExistsError:
            return False
        except FileNotFoundError:  # removed by the holder of the folder
            raise
        except OSError:  # a disk without hard links
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    return True


def _says_that_it_exists(error: BaseException) -> bool:
    """Whether an object store refused a put because the object exists: drivers have no common exception for it."""
    message = f"{error} {getattr(error, 'response', '')} {error.__cause__ or ''}"
    return any(text in message for text in ("PreconditionFailed", "ConditionalRequestConflict", "412"))


def _digest(record: dict[str, Any]) -> str:
    """By which a damaged lock is told: one whose host has changed would be waited for."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _is_whole(record: Any) -> bool:
    """Whether a lock says what a lock says, and is undamaged; those of earlier versions have no digest."""
    kinds = {"host": str, "pid": int, "token": str, "heartbeat": float, "since": float}
    if not isinstance(record, dict) or not all(isinstance(record.get(k), kind) for k, kind in kinds.items()):
        return False
    content = {name: value for name, value in record.items() if name != "digest"}
    return record.get("digest", _digest(content)) == _digest(content)


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lock still runs, as far as can be seen from here."""
    here = _host()
    if all(holder.get(name) == value for name, value in here.items()):
        return process_started(holder["pid"]) == holder.get("process_started")
    return time.time() - float(holder["heartbeat"]) < STALE_AFTER_S


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _refusal(out: str, holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    age = max(0.0, time.time() - holder["heartbeat"])
    return (
        f"{out} is in use by {_who(holder)} since {since} (last sign of life {age:.0f} s ago); wait until it has "
        f"ended or stop it, or use another --out. If it was killed on another machine, it counts as dead after "
        f"{STALE_AFTER_S:.0f} s"
    )

"""The working folder of a run, ``<out>/.fewscope``: markers of finished units, and their small intermediate files.

``out`` is a local path or an fsspec URL (``s3://bucket/prefix``, ``memory://...``). Every file is written
whole or not at all: locally to a temporary name that is then renamed, on object stores by one put. One driver
holds the folder (`run_lock`) and assigns the units; workers need no locks.
"""

import json
import logging
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from fewscope.connectors.results.manifest import canonical_json, describe_difference, hash_manifest, seal
from fewscope.connectors.results.run_lock import RunLock
from fewscope.connectors.results.unit_files import FOLDER, UnitFiles, check_name
from fewscope.connectors.storage.atomic import is_leftover, remove_leftovers
from fewscope.connectors.storage.digests import (
    N_THREADS,
    Digests,
    damaged_files,
    digest_database,
    digest_file,
    n_bytes,
)
from fewscope.connectors.storage.filesystem import (
    is_local,
    list_names,
    open_filesystem,
    output_errors,
    remove,
)
from fewscope.errors import OutputError, ResultNotFound, RunMismatch

log = logging.getLogger(__name__)

# Outputs of a run in --out; --overwrite removes these names and nothing else.
OUTPUTS = (
    "result.zarr",
    "instances.parquet",
    "instances.geojson.gz",
    "mask.tif",
    "probability.tif",
    "features.gpkg",
    "features.parquet",
    "centreline.parquet",
    "report.html",
    "overview.jpg",
    "report.json",
)
# Needed until the run is finished; removed by `WorkDir.finish`.
TEMPORARY = ("scratch.zarr", "tables", "arrays", "texts", "lent")

DATABASES = ("features.gpkg",)
"""Outputs in whose header programs write when they open them."""

LOCK_LEFTOVER_S = 60.0

State = Literal["new", "resume", "finished"]


@dataclass(slots=True)
class WorkDir(UnitFiles):
    """The working folder of one run. Picklable: workers receive it after `claim`, with the run's hash.

    Attributes
    ----------
    out : str
        Output folder, a local path or an fsspec URL.
    run_hash : str or None
        Hash of the manifest; None until `claim`. Markers of another hash do not count.
    decision : str or None
        Digest of what the support set has decided, which markers of units name: a unit that was done under another
        decision is done again. None until it is decided.

    Examples
    --------
    >>> work = WorkDir("memory://docs/workdir")
    >>> work.claim({"source": "slide.svs", "tile": 224})
    'new'
    >>> work.write_marker("r000000_c000000", {"n": 3})
    >>> WorkDir("memory://docs/workdir").claim({"source": "slide.svs", "tile": 224})
    'resume'
    >>> work.read_markers()
    {'r000000_c000000': {'n': 3}}
    >>> work.finish()
    >>> work.claim({"source": "slide.svs", "tile": 224})
    'finished'
    """

    run_hash: str | None = None
    decision: str | None = None

    def hold(self) -> RunLock:
        """The lock of the folder, to be held (``with``) by the driver from before `claim` until all is written.

        Raises
        ------
        RunMismatch, OutputError
            The folder holds files that are not a run's, which get no lock beside them, or is a file.
        RunInUse
            From ``with``: another driver holds it.
        """
        with output_errors(self.out):
            self._check_free()
            finished = self._read_json("finished.json") is not None
        return RunLock(self.out, FOLDER, optional=finished)

    def claim(self, manifest: Mapping[str, Any], overwrite: bool = False) -> State:
        """Claim the output folder for the run that ``manifest`` describes.

        Parameters
        ----------
        manifest : mapping
            Everything that determines the result, as JSON values.
        overwrite : bool
            Remove an existing run (its outputs and working folder, nothing else) and start again.

        Returns
        -------
        {"new", "resume", "finished"}

        Raises
        ------
        RunMismatch
            The folder holds another run and ``overwrite`` is False, or files that belong to no run.
        OutputError
            The folder cannot be created or written, or is a file.
        """
        manifest = json.loads(canonical_json(manifest))  # tuples become lists, as they will when read back
        self.run_hash = hash_manifest(manifest)
        with output_errors(self.out):
            return self._claim(manifest, overwrite)

    def _claim(self, manifest: Mapping[str, Any], overwrite: bool) -> State:
        self._remove_leftovers()
        if self._check_free():
            self._write_manifest(manifest, clearing=False)
            return "new"
        record = self._read_manifest()
        if overwrite or (record or {}).get("clearing"):
            self._start_anew(manifest)
            return "new"
        if record is None:
            if not self._read_records():  # of this very run
                raise RunMismatch(
                    f"{self.out}/{FOLDER}/manifest.json is damaged or missing; use --overwrite to start anew"
                )
            log.info("%s: manifest.json was damaged or missing, and is written again", self.out)
            self._write_manifest(manifest, clearing=False)
        elif record["hash"] != self.run_hash:
            differences = describe_difference(record["manifest"], manifest)
            raise RunMismatch(
                f"{self.out} holds another run: {differences}; use --overwrite to start anew or another --out"
            )
        if "finished.json" in list_names(*self._locate("")):
            self._check_finished()
            self._remove_temporary()  # a crash may have come between the mark and the clean-up
            return "finished"
        return "resume"

    def kept(self, key: str) -> Any:
        """Value of a key in the manifest of the run that is here; None where there is none."""
        with output_errors(self.out):
            return (self._read_manifest() or {}).get("manifest", {}).get(key)

    def _remove_leftovers(self) -> None:
        """Remove what killed runs have left unfinished in this folder."""
        fs, root = open_filesystem(self.out)
        if not is_local(fs) or FOLDER not in list_names(fs, root):
            return
        n_removed = remove_leftovers(root, below=False)
        n_removed += sum(remove_leftovers(f"{root}/{name}", below=True) for name in (FOLDER, "result.zarr"))
        for name in list_names(*self._locate("")):
            path = self._locate(name)[1]
            if not name.startswith(".lock-"):
                continue
            with suppress(OSError):
                # a lock that was moved aside may be one that another job puts back at this moment
                if os.path.isdir(path) or time.time() - os.path.getmtime(path) > LOCK_LEFTOVER_S:
                    remove(fs, path)
                    n_removed += 1
        if n_removed:
            log.info("%s: %d temporary files of a run that was killed are removed", self.out, n_removed)

    def _read_manifest(self) -> dict[str, Any] | None:
        """``manifest.json``; None if it is missing or damaged."""
        record = self._read_json("manifest.json")
        try:
            if record is None or hash_manifest(record["manifest"]) != record["hash"]:
                return None
        except (KeyError, ValueError, TypeError):
            return None
        return record

    def _check_free(self) -> bool:
        """Whether no run is here. RunMismatch if there are other files, OutputError if it is a file."""
        fs, root = open_filesystem(self.out)
        if fs.isfile(root):
            raise OutputError(f"{self.out} is a file, not a folder; move it away or use another --out")
        if not {"manifest.json", "markers"}.isdisjoint(list_names(*self._locate(""))):
            return False
        foreign = [name for name in list_names(fs, root) if name != FOLDER and not is_leftover(name)]
        if foreign:
            raise RunMismatch(f"{self.out} is not empty and holds no run ({foreign[0]}); use another --out")
        return True

    def write_marker(
        self, name: str, row: Mapping[str, Any], files: Mapping[str, str | None] | None = None
    ) -> None:
        """Mark unit ``name`` as done, with its small result ``row`` (JSON). Call it after its files.

        Parameters
        ----------
        files
            Digest of every file of the unit, as `save_table` and the others return them; None for no file.
        """
        record = {"run": self._claimed(), "name": name, "row": row, "files": dict(files or {})}
        if self.decision is not None:
            record["decision"] = self.decision
        record["seal"] = seal(record)
        self._write("markers", f"{check_name(name)}.json", canonical_json(record).encode())

    def read_markers(self, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Rows of the units that are done, by name, sorted, their files verified.

        Left out, with a line in the log for each, are units whose files are not as their marker says; and without one,
        broken markers and those of another run or of another decision.

        Parameters
        ----------
        names
            Names of the units to look at; None for all.
        """
        began = time.perf_counter()
        records = {
            name: record
            for name, record in self._read_records(names).items()
            if record.get("decision") == self.decision
        }
        fs, root = open_filesystem(self.out)
        recorded = {path: digest for record in records.values() for path, digest in record["files"].items()}
        damaged = set(damaged_files(fs, root, recorded))
        seconds = time.perf_counter() - began
        if recorded:
            size = n_bytes(recorded.values()) / 1e6
            log.info(
                "%d files of finished units verified, %.1f MB in %.2f s (%.0f MB/s)",
                *(len(recorded), size, seconds, size / seconds),
            )
        rows = {}
        for name, record in records.items():
            lost = damaged.intersection(record["files"])
            if not lost:
                rows[name] = record["row"]
                continue
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            log.info("%s: %s%s of %s is damaged or missing: done again", self.out, min(lost), more, name)
        return rows

    def marked_files(self, name: str) -> Digests:
        """Digests of the files that the marker ``name`` of this run records; nothing if there is no such marker."""
        record = self._read_records([name]).get(name)
        return {} if record is None else record["files"]

    def _read_records(self, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """The whole markers of this run, by name, sorted."""
        run = self._claimed()
        fs, folder = self._locate("markers")
        found = [
            name.removesuffix(".json")
            for name in list_names(fs, folder)
            if name.endswith(".json") and not name.startswith(".")
        ]
        if names is not None:
            found = [name for name in found if name in set(names)]
        with ThreadPoolExecutor(N_THREADS) as threads:
            records = list(threads.map(self._read_sealed, [f"markers/{name}.json" for name in found]))
        return {
            name: record
            for name, record in zip(found, records, strict=True)
            if record is not None
            and (record.get("run"), record.get("name")) == (run, name)
            and {"row", "files"} <= record.keys()
        }

    def _read_sealed(self, name: str) -> dict[str, Any] | None:
        """The JSON object in a file with a seal; None if the file is missing or was changed."""
        record = self._read_json(name)
        try:
            return record if record is not None and record.get("seal") == seal(record) else None
        except ValueError:  # numbers that are not finite
            return None

    def is_done(self, name: str) -> bool:
        """Whether unit ``name`` has a marker, of this run or of one that was interrupted in `claim`."""
        fs, path = self._locate(f"markers/{check_name(name)}.json")
        return bool(fs.exists(path))

    def finish(self) -> None:
        """Mark the run as finished, with the identity of each file of the result; remove what was needed on the way."""
        with output_errors(self.out):
            record: dict[str, Any] = {"run": self._claimed(), "files": self._result_files()}
        record["seal"] = seal(record)
        self._write("", "finished.json", canonical_json(record).encode())
        self._remove_temporary()

    def _result_files(self) -> Digests:
        """Identity of every file of the result by its path: locally its digest, of objects their size and ETag.

        Object stores keep checksums of their own; a listing costs little, and reading all back would not.
        """
        fs, root = open_filesystem(self.out)
        fs.invalidate_cache()
        found: dict[str, Any] = {}
        for name in OUTPUTS:
            path = f"{root}/{name}"
            found |= fs.find(path, detail=True) if fs.exists(path) else {}
        by_name = {str(path)[len(root) :].lstrip("/"): facts for path, facts in found.items()}
        if not is_local(fs):
            return {
                name: f"{facts['size']}:{str(facts.get('ETag') or facts.get('etag') or '').strip(chr(34))}"
                for name, facts in sorted(by_name.items())
            }
        names = sorted(by_name)
        with ThreadPoolExecutor(N_THREADS) as threads:
            digests = dict(
                zip(names, threads.map(lambda name: digest_file(fs, f"{root}/{name}"), names), strict=True)
            )
        return digests | {name: digest_database(f"{root}/{name}") for name in DATABASES if name in digests}

    def check_result(self, names: Collection[str]) -> None:
        """Check that a finished run is here, and that files of its result are as it left them.

        Parameters
        ----------
        names
            Files and folders, as in "instances.parquet" or "result.zarr/labels"; of object stores, whether they are
            there is not looked at.

        Raises
        ------
        ResultNotFound
            No run is here, or it has not finished.
        RunMismatch
            A file is missing, or was changed.
        """
        here = list_names(*self._locate(""))
        if "manifest.json" not in here:
            raise ResultNotFound(f"{self.out} holds no run; check the path")
        if "finished.json" not in here:
            raise ResultNotFound(
                f"{self.out}: its run has not finished; run its command again, which resumes it"
            )
        again = "run its command again with --overwrite"
        record = self._read_sealed("finished.json")
        if record is None:
            raise RunMismatch(f"{self.out}/{FOLDER}/finished.json is damaged; {again}")
        if not is_local(open_filesystem(self.out)[0]):
            return
        wanted = {
            path: digest
            for path, digest in record["files"].items()
            if any(path == name or path.startswith(f"{name}/") for name in names)
        }
        if lost := self._damaged(wanted):
            raise RunMismatch(
                f"{self.out}/{lost[0]} is missing or was changed since the run was finished; {again}"
            )

    def _check_finished(self) -> None:
        """RunMismatch, in one line with the cure, if the finished result is not what it was."""
        again = "use --overwrite to make the result again, or another --out"
        record = self._read_sealed("finished.json")
        if record is None or record.get("run") != self.run_hash:
            raise RunMismatch(f"{self.out}/{FOLDER}/finished.json is damaged; {again}")
        if lost := self._damaged(record["files"]):
            more = f" (and {len(lost) - 1} more files)" if len(lost) > 1 else ""
            raise RunMismatch(
                f"{self.out}/{lost[0]}{more} is missing or was changed since the run was finished; {again}"
            )

    def _damaged(self, recorded: Digests) -> list[str]:
        """Files of the result that are not as `_result_files` recorded them."""
        fs, root = open_filesystem(self.out)
        if not is_local(fs):
            now = self._result_files()
            return [name for name, facts in recorded.items() if now.get(name) != facts]
        lost = damaged_files(
            fs, root, {name: digest for name, digest in recorded.items() if name not in DATABASES}
        )
        databases = [name for name in DATABASES if name in recorded]
        return lost + [name for name in databases if digest_database(f"{root}/{name}") != recorded[name]]

    def _claimed(self) -> str:
        if self.run_hash is None:
            raise RuntimeError(f"{self.out} is not claimed; call claim(manifest) first")
        return self.run_hash

    def _write_manifest(self, manifest: Mapping[str, Any], clearing: bool) -> None:
        record = {"clearing": clearing, "hash": self.run_hash, "manifest": manifest}
        self._write("", "manifest.json", json.dumps(record, sort_keys=True, indent=1).encode())

    def _start_anew(self, manifest: Mapping[str, Any]) -> None:
        # The flag "clearing" makes a crash during the removal safe: the next claim resumes it.
        self._write_manifest(manifest, clearing=True)
        fs, root = open_filesystem(self.out)
        for name in OUTPUTS:
            remove(fs, f"{root}/{name}")
        for name in ("finished.json", "markers"):
            remove(*self._locate(name))
        self._remove_temporary()
        self._write_manifest(manifest, clearing=False)

    def _remove_temporary(self) -> None:
        for name in TEMPORARY:
            remove(*self._locate(name))
